"""A cascade over HTTP: what an effort and a coverage change in the answers of a running service."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rrrbuild.engine import load_engine
from rrrbuild.manifest import Manifest
from rrrbuild.repository import write_repository
from rrrnet.training.metrics import mean_of_members

pytestmark = pytest.mark.nightly


def test_a_running_service_answers_by_the_effort_asked_for_calibrated_and_counts_it(
    tmp_path: Path, cascade_engine: Manifest, start_service: Any, picture: Any, png: Any
) -> None:
    write_repository([cascade_engine.path], tmp_path / "repository", backends=frozenset({"python"}), threads=1)
    served = start_service(str(tmp_path / "repository"), "--port", "0")
    engine, confidence = load_engine(cascade_engine.path), cascade_engine.confidence
    assert confidence is not None
    with httpx.Client(base_url=served.url, timeout=30, trust_env=False) as client:
        for effort in ("fast", "auto", "full"):
            found = engine(np.stack([picture(seed) for seed in range(4)]), effort=effort)
            mean = mean_of_members(found)
            calibrated = confidence.mean(mean, effort)
            for seed in range(4):
                # Asked by the header once, and by the URL against it otherwise.
                query = {} if seed == 0 else {"effort": effort}
                headers = {"X-RRR-Effort": effort if seed == 0 else "full"}
                query |= {"members": "true", "coverage": "0.5", "top_k": "1"}
                answer = client.post("/v1/predict", content=png(seed), params=query, headers=headers).json()
                used = np.flatnonzero(np.isfinite(found[seed]).all(axis=1)).tolist()
                assert (answer["effort"], answer["members_used"], answer["partial"]) == (effort, len(used), False)
                assert [item["member"] for item in answer["members"]] == used
                (best,) = answer["predictions"]
                assert best["label"] == cascade_engine.labels[mean[seed].argmax()]
                assert best["probability"] == pytest.approx(calibrated[seed].max(), abs=1e-4)
                assert answer["unsure"] is (answer["set"] == [])
        text = client.get("/metrics").text
        for line in (
            *(f'rrr_effort_total{{effort="{effort}",model="quartet"}} 4.0' for effort in ("fast", "auto", "full")),
            'rrr_members_used_count{model="quartet"} 12.0',
            'rrr_member_failures_total{member="3",model="quartet",reason="late"} 0.0',
        ):
            assert line in text
    assert served.stop() == 0
