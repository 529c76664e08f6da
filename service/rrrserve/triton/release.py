"""Whether a Triton is old enough to have published vulnerabilities (SECURITY.md lists them)."""

import re

SAFE_VERSION = (2, 60)
SAFE_RELEASE = "25.08"


def age_warning(version: str) -> str | None:
    """What to say about a Triton of this version, such as "2.51.0"; None if it is recent enough."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) >= SAFE_VERSION:
        return None
    least = ".".join(map(str, SAFE_VERSION))
    return (
        f"Triton {version[:20]} is older than {least} (release {SAFE_RELEASE}) and has known vulnerabilities: "
        "let nobody but this service reach it, and use a newer image in production (SECURITY.md)"
    )
