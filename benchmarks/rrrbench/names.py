"""Names of the networks that are compared, in result files and in the cache."""

BASELINE = "resnet152"


def members_name(members: int) -> str:
    """Name of the reduced network with so many members."""
    return f"members-{members}"


ENSEMBLE, SINGLE = members_name(8), members_name(1)
# Of the demo's models, in its repository and its result file.
DEMO_ENSEMBLE, DEMO_BASELINE = "glyphs-ensemble8", "glyphs-resnet152"
