"""RECYCLE: each member's convolutions as slices of the pre-trained ones (arXiv 2310.01157 and its authors' code).

Member n takes output channels [n*w, (n+1)*w) and the first w_in input channels. N thin members need more output
channels than the original has; beyond its end we begin again at its first channel (index modulo C), where the
authors draw random permutations for each input channel. So no two members share an aligned slice, nothing depends
on a seed, and a test can check every number. BN and classifiers start fresh.
"""

from torch import Tensor


def output_indices(member: int, width: int, channels: int) -> list[int]:
    """Pre-trained output channels that member `member` takes: `width` of `channels`, cyclic beyond the end."""
    return [index % channels for index in range(member * width, (member + 1) * width)]


def member_slices(weight: Tensor, members: int, out_channels: int, in_channels: int) -> list[Tensor]:
    """One slice of a pre-trained convolution for each member.

    Args:
        weight: (C_out, C_in, k, k), pre-trained.
        members: N.
        out_channels: output channels of one member's convolution.
        in_channels: input channels of one member's convolution; the first ones are taken.

    Returns:
        N tensors (out_channels, in_channels, k, k).
    """
    return [
        weight[output_indices(member, out_channels, weight.shape[0]), :in_channels].clone() for member in range(members)
    ]
