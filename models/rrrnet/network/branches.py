"""RECYCLE: each member's convolutions as slices of the pre-trained ones (arXiv 2310.01157 and its authors' code).

Member n takes output channels [n*w, (n+1)*w) and the first w_in input channels. N thin members need more output
channels than the original has; beyond its end we begin again at its first channel (index modulo C), where the
authors draw random permutations for each input channel. So no two members share an aligned slice, nothing depends
on a seed, and a test can check every number. BN and classifiers start fresh.

`matched` is ours: the input channels are those that the member's convolution before kept. With the authors' `first`
ones, filters of all members but the first are put on features that they were not trained for (docs/method.md).
"""

from typing import Literal

from torch import Tensor

Slices = Literal["first", "matched"]
SLICES: tuple[Slices, ...] = ("first", "matched")


def output_indices(member: int, width: int, channels: int) -> list[int]:
    """Pre-trained output channels that member `member` takes: `width` of `channels`, cyclic beyond the end."""
    return [index % channels for index in range(member * width, (member + 1) * width)]


def member_slices(
    weight: Tensor, members: int, out_channels: int, in_channels: int, slices: Slices = "first"
) -> list[Tensor]:
    """One slice of a pre-trained convolution for each member.

    Args:
        weight: (C_out, C_in, k, k), pre-trained.
        members: N.
        out_channels: output channels of one member's convolution.
        in_channels: input channels of one member's convolution.
        slices: which input channels are taken: the first ones, or those of the member's outputs before.

    Returns:
        N tensors (out_channels, in_channels, k, k).
    """
    channels = weight.shape[1]
    return [
        weight[output_indices(member, out_channels, weight.shape[0])][
            :, output_indices(member if slices == "matched" else 0, in_channels, channels)
        ]
        for member in range(members)
    ]
