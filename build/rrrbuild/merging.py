"""Members side by side in one chain of layers, and widths that vector units like; both give exactly the same function.

Members are equal in shape and read the same stem output. So a layer that reads the stem is one dense convolution for
all of them, its outputs standing member by member; every later layer is a grouped convolution with a group per member.
"""

import numpy as np

from rrrbuild.folding import FoldedNetwork, Layer, Layers

# These read the stem's output, which all members share.
_STEM_READERS = ("layer3.0.conv1", "layer3.0.downsample.0")


def align_members(network: FoldedNetwork, multiple: int) -> FoldedNetwork:
    """Zero-pad every channel count inside the members to a multiple of `multiple`; 1 changes nothing.

    An added channel has zero weights and zero bias, so it is 0 after ReLU, and nothing weighs it afterwards. The
    number of classes stays.
    """
    if multiple == 1:
        return network
    members = tuple({name: _aligned(layer, multiple) for name, layer in layers.items()} for layers in network.members)
    return FoldedNetwork(network.architecture, network.stem, members)


def _aligned(layer: Layer, multiple: int) -> Layer:
    conv = layer.conv
    more_in = -conv.in_channels % multiple
    more_out = -conv.out_channels % multiple if conv.batch_norm else 0
    kernel = ((0, 0),) * (layer.weight.ndim - 2)
    return Layer(
        conv._replace(in_channels=conv.in_channels + more_in, out_channels=conv.out_channels + more_out),
        np.pad(layer.weight, ((0, more_out), (0, more_in), *kernel)),
        np.pad(layer.bias, (0, more_out)),
    )


def merge_members(network: FoldedNetwork) -> Layers:
    """The members as one: layers by torchvision's name, outputs member by member.

    Returns:
        Layers with `members` groups, or one group where they read the stem. The classifier becomes a 1x1
        convolution, shape (members * classes, in, 1, 1).
    """
    return {name: _merged([layers[name] for layers in network.members]) for name in network.members[0]}


def _merged(layers: list[Layer]) -> Layer:
    conv, members = layers[0].conv, len(layers)
    weight = np.concatenate([layer.weight for layer in layers])
    return Layer(
        conv._replace(
            in_channels=conv.in_channels * (1 if conv.name in _STEM_READERS else members),
            out_channels=conv.out_channels * members,
        ),
        weight.reshape(*weight.shape[:2], conv.kernel, conv.kernel),
        np.concatenate([layer.bias for layer in layers]),
    )
