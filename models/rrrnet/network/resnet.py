"""REUSE: the bottleneck ResNet (arXiv 1512.03385, v1.5: the stride sits in the 3x3) with torchvision's weight names."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from rrrnet.network.architecture import EXPANSION, STAGE_WIDTHS


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions, each with BN, around a shortcut.

    Shape: (N, in_channels, H, W) -> (N, 4 * width, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, width: int, stride: int, *, downsample: bool) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = (
            nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
            if downsample
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Block output after the final ReLU."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x), inplace=True)


def stage(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` bottlenecks; the first one carries the stride and the downsample shortcut."""
    first = Bottleneck(in_channels, width, stride, downsample=True)
    rest = (Bottleneck(width * EXPANSION, width, 1, downsample=False) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


def stem_modules(blocks: tuple[int, int]) -> "OrderedDict[str, nn.Module]":
    """conv1, bn1, layer1 and layer2: what all members share. (N, 3, H, W) -> (N, 512, H/8, W/8)."""
    width1, width2 = STAGE_WIDTHS[:2]
    return OrderedDict(
        conv1=nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(64),
        layer1=stage(64, width1, blocks[0], stride=1),
        layer2=stage(width1 * EXPANSION, width2, blocks[1], stride=2),
    )


def tail_modules(widths: tuple[int, int], blocks: tuple[int, int], num_classes: int) -> "OrderedDict[str, nn.Module]":
    """layer3, layer4 and fc of one member. (N, 512, H/8, W/8) -> (N, num_classes) logits."""
    width3, width4 = widths
    return OrderedDict(
        layer3=stage(STAGE_WIDTHS[1] * EXPANSION, width3, blocks[0], stride=2),
        layer4=stage(width3 * EXPANSION, width4, blocks[1], stride=2),
        fc=nn.Linear(width4 * EXPANSION, num_classes),
    )


def initialise(module: nn.Module) -> None:
    """He initialisation of convolutions (fan out); Linear as torch leaves it.

    Blocks whose shortcut is the identity start close to it (arXiv 1706.02677, section 5.1, uses 0 for our 0.02): else
    46 random blocks in a row amplify each rounding, and a random ResNet152 answers differently in every precision.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, Bottleneck) and isinstance(part.downsample, nn.Identity):
            nn.init.constant_(part.bn3.weight, 0.02)
