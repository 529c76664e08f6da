"""A run of `rrr verify` on the two models of the tests, as it would be written."""

from typing import Any

from rrrserve.stamps import environment

SENTENCE = "tiny is at least 2 times as fast as single (mean, http)"


def verdicts(*names: str, started: str = "2026-11-22T10:00:00Z", estimate: float = 5.31) -> dict[str, Any]:
    """The document of a run that verified claims of these names about tiny and single."""
    return {
        "format": 1,
        "kind": "rrr-verdicts",
        "claims": {"path": "claims.yaml", "sha256": "0" * 64},
        "confidence": 0.95,
        "started": started,
        "source": {"kind": "scrape", "url": "http://127.0.0.1:3000", "seconds": 10},
        "environment": environment.describe(),
        "verdicts": [
            {
                "name": name,
                "kind": "speedup",
                "sentence": SENTENCE,
                "verdict": "pass",
                "reason": "bound_met",
                "explanation": "as claimed",
                "estimate": estimate,
                "interval": [5.18, 5.44],
                "bound": {"at_least": 2.0},
                "unit": "x",
                "models": ["tiny", "single"],
                "samples": {"tiny": 1200, "single": 800},
                "evidence": {"blocks": 20},
                "queries": ["rrr verify"],
            }
            for name in names
        ],
    }
