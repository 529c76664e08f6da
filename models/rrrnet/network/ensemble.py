"""RRRNet: one shared stem, M members in parallel; a backbone and its reduced form are the case M = 1.

Letters in shapes: N images, M members, C classes, H and W pixels.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import Architecture
from rrrnet.network.resnet import initialise, stem_modules, tail_modules


class Member(nn.Module):
    """RECYCLE: a thin layer3 and layer4 with a classifier of its own (paper section 3)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        _add(self, tail_modules(architecture.widths, architecture.blocks[2:], architecture.num_classes))


class RRRNet(nn.Module):
    """Image to the logits of each member.

    With one member, layer3, layer4 and fc keep torchvision's names; with more, they are `members.I.layer3` and so on.

    Shape: (N, 3, H, W) normalised float -> (N, M, C) logits.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.conv1: nn.Module
        self.bn1: nn.Module
        self.layer1: nn.Module
        self.layer2: nn.Module
        _add(self, stem_modules(architecture.blocks[:2]))
        if architecture.members == 1:
            _add(self, tail_modules(architecture.widths, architecture.blocks[2:], architecture.num_classes))
        else:
            self.members = nn.ModuleList(Member(architecture) for _ in range(architecture.members))
        initialise(self)

    def stem(self) -> list[nn.Module]:
        """The shared modules, in order."""
        return [self.conv1, self.bn1, self.layer1, self.layer2]

    def tails(self) -> list[nn.Module]:
        """For each member the module that holds its layer3, layer4 and fc (this one, if there is one member)."""
        return [self] if self.architecture.members == 1 else list(self.members)

    def forward_features(self, images: Tensor) -> Tensor:
        """The stem's output, (N, 512, H/8, W/8), shared by all members."""
        # oneDNN's bfloat16 weight gradient of a 3-channel convolution takes 10 times as long as the float32 one.
        with torch.autocast(images.device.type, enabled=images.device.type != "cpu" and torch.is_autocast_enabled()):
            x = self.conv1(images)
        x = F.relu(self.bn1(x), inplace=True)
        x = F.max_pool2d(x, 3, 2, padding=1)
        features: Tensor = self.layer2(self.layer1(x))
        return features

    def forward_member(self, index: int, features: Tensor) -> Tensor:
        """Logits (N, C) of member `index` from the stem's output."""
        tail = self.tails()[index]
        features = tail.get_submodule("layer4")(tail.get_submodule("layer3")(features))
        logits: Tensor = tail.get_submodule("fc")(features.mean((2, 3)))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits of every member, (N, M, C)."""
        features = self.forward_features(images)
        return torch.stack([self.forward_member(index, features) for index in range(self.architecture.members)], 1)


def _add(owner: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        owner.add_module(name, module)


def channels_last(model: RRRNet) -> RRRNet:
    """The same model with its convolution weights in channels_last order, which CPUs and tensor cores prefer."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """(N, H, W, 3) uint8 RGB, or float in [0, 255], to normalised (N, 3, H, W) float32, channels_last in memory."""
    mean = torch.tensor(preprocess.mean, device=images.device) * 255
    std = torch.tensor(preprocess.std, device=images.device) * 255
    normalised = (images.float() - mean) / std
    return (normalised.flip(3) if preprocess.bgr else normalised).permute(0, 3, 1, 2)


def export_weights(model: RRRNet) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The tensors that a checkpoint keeps, by name, as float32 arrays."""
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            yield name, value.detach().float().cpu().contiguous().numpy()
