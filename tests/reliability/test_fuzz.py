"""A short run of the fuzzer (`make fuzz` is the long one), and what schemathesis makes of the OpenAPI document."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks
from schemathesis.core.result import Ok

from harness.fuzzing import fuzz
from harness.mutations import Mutator

REQUESTS = 400
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


def test_the_same_seed_gives_the_same_requests() -> None:
    first, second, other = (Mutator(seed, timeout_ms=100) for seed in (1, 1, 2))
    drawn = [first.draw() for _ in range(50)]
    assert drawn == [second.draw() for _ in range(50)]
    assert drawn != [other.draw() for _ in range(50)]


@pytest.mark.nightly
def test_mutated_requests_get_no_fault_of_ours_as_an_answer_and_end_no_process(service: Any) -> None:
    parts = urlsplit(service.url)
    before = {process.pid for process in service.children()}
    lines = len(service.log.read_text().splitlines())
    mutator = Mutator(7, timeout_ms=300)
    findings = asyncio.run(
        fuzz((str(parts.hostname), int(parts.port or 0)), mutator, REQUESTS, concurrency=64, patience_seconds=15.0)
    )
    assert findings.faults == []
    assert sum(findings.statuses.values()) == sum(findings.kinds.values()) == REQUESTS
    assert set(findings.kinds) == set(mutator.kinds)
    assert {200, 400, 422} <= set(findings.statuses)
    assert {process.pid for process in service.children()} == before
    assert len(service.log.read_text().splitlines()) == lines


def test_requests_made_from_the_openapi_document_are_answered_as_it_says(service: Any) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/docs.json")
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert {"POST /v1/predict", "PUT /v1/models/{name}/predict_batch", "GET /readyz"} <= {
        operation.label for operation in operations
    }
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def answered(case: Any) -> None:
            case.call_and_validate(timeout=20, checks=CHECKS)

        answered()
