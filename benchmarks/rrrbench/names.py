"""Names of the networks that are compared, in result files and in the cache."""

from rrrnet.network.architecture import backbone_title

BASELINE = "resnet152"
BASELINE_TITLE = backbone_title(BASELINE)


def members_name(members: int) -> str:
    """Name of the reduced network with so many members."""
    return f"members-{members}"


ENSEMBLE, SINGLE = members_name(8), members_name(1)
# Of the demo's models, in its repository and its result file.
DEMO_ENSEMBLE, DEMO_BASELINE = "glyphs-ensemble8", f"glyphs-{BASELINE}"
