"""Wilson's limits of a share (Journal of the American Statistical Association 22, 1927): good down to few images."""

import math


def wilson_limits(hits: float, images: int, z: float) -> tuple[float, float]:
    """Lower and upper limit of a share of `hits` among `images`.

    Args:
        hits: images that count; a fraction where the share is a mean over draws.
        images: of all, at least 1.
        z: quantile of the normal distribution, e.g. 1.96 for 95 % between both limits.
    """
    share, total = hits / images, images + z * z
    center, half = (hits + z * z / 2) / total, z * math.sqrt(share * (1 - share) * images + z * z / 4) / total
    # The exact limits at 0 and 1 are lost to rounding.
    return 0.0 if hits == 0 else center - half, 1.0 if hits == images else center + half
