"""The environment variables of this process, as its children inherit them."""

import os


def inherited() -> dict[str, str]:
    """All of them."""
    return dict(os.environ)


def do_not_track() -> None:
    """Switch off the telemetry of libraries, for this process and its children."""
    os.environ.update(BENTOML_DO_NOT_TRACK="True", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
