"""Whatever /docs.json allows is answered: schemathesis makes the requests, with real JPEGs where images belong."""

import base64
from collections import Counter
from typing import Any

import pytest

from harness.bad_requests import JPEG

EXAMPLES = 40  # of each operation
DEADLINE = "X-Request-Timeout-Ms"

# schemathesis uses what its libraries deprecate.
pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def with_images(case: Any) -> None:
    """Put a real image wherever the document has one; the rest of the request stays as it was made."""
    image = JPEG if case.media_type.startswith("multipart") else base64.b64encode(JPEG).decode()
    if not isinstance(case.body, dict):
        case.body = JPEG
    elif "image" in case.body:
        case.body["image"] = image
    else:
        case.body["images"] = [image] * len(case.body["images"])


@pytest.mark.timeout(1800)
def test_no_request_that_the_document_allows_is_refused(service: Any) -> None:
    # Imported here: it takes seconds, which every run of the quick tests would wait for.
    import requests
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from schemathesis.generation import GenerationMode

    document = schemathesis.openapi.from_url(f"{service.url}/docs.json")
    statuses: Counter[int] = Counter()

    def check(operation: Any) -> None:
        @seed(0)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
        def ask(case: Any) -> None:
            if case.media_type is not None:
                with_images(case)
            try:
                answer = case.call()
            except requests.exceptions.InvalidHeader:  # nothing that can be sent
                return
            statuses[answer.status_code] += 1
            # 429: the image before, late too, is still in the engine, and there is no time to wait for it.
            late = DEADLINE in (case.headers or {}) and answer.status_code in (408, 429, 504)
            assert answer.status_code == 200 or late, (case.as_curl_command(), answer.content)

        ask()

    results: list[Any] = list(document.get_all_operations())
    operations = [result.ok() for result in results]
    assert len(operations) > 12
    for operation in operations:
        check(operation)
    assert statuses[200] > 300
