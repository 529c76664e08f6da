"""The one place where the service looks at its environment variables."""

import os


def variables() -> dict[str, str]:
    """A copy of all of them: what is read, or handed to a child, from here on does not change under way."""
    return dict(os.environ)


def do_not_track() -> None:
    """Switch off the telemetry of libraries, for this process and its children."""
    os.environ.update(
        BENTOML_DO_NOT_TRACK="True", HF_HUB_DISABLE_TELEMETRY="1", RAY_USAGE_STATS_ENABLED="0", DO_NOT_TRACK="1"
    )
