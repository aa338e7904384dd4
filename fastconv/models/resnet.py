"""ResNet-18: a chain of blocks, each of which adds to its input. He et al., arXiv 1512.03385.

Names of parameters, layers and initial values are those of torchvision's ``resnet18``.
"""

from collections.abc import Sequence

import fastconv.nn as nn
import fastconv.nn.functional as F
from fastconv.autograd import Tensor


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and the input added: x (N, C, H, W) -> (N, channels, H/stride, W/stride).

    Where the shape changes, a 1x1 convolution (`downsample`) brings the input to it.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1):
        super().__init__()
        same = stride == 1 and in_channels == channels
        shortcut = None
        if not same:
            shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def _stem(kind: str, width: int) -> tuple[nn.Conv2d, nn.Module]:
    """The first convolution and what follows it: a quarter of the size, or all of it."""
    if kind == "imagenet":
        return nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)
    if kind == "cifar":
        return nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.Identity()
    raise ValueError(f"stem must be 'imagenet' or 'cifar', got {kind!r}")


class ResNet(nn.Module):
    """Four layers of BasicBlocks, `blocks` of them each: x (N, 3, H, W) -> scores (N, num_classes).

    The layers have width, 2 width, 4 width, 8 width channels, and halve the image from the second
    on. stem: "imagenet" begins with a 7x7 convolution of stride 2 and a max-pool (for images of
    some 224x224 pixels), "cifar" with a 3x3 convolution alone (32x32). Initial values: Kaiming's
    normal numbers (fan_out) for convolutions. Raises ValueError for another stem.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int = 1000,
        stem: str = "imagenet",
        width: int = 64,
    ):
        super().__init__()
        self.conv1, pool = _stem(stem, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = pool
        channels = width
        for i, count in enumerate(blocks):
            layer = nn.Sequential()
            for block in range(count):
                stride = 2 if i > 0 and block == 0 else 1
                layer.append(BasicBlock(channels, width << i, stride))
                channels = width << i
            self.add_module(f"layer{i + 1}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.flatten(self.avgpool(x), 1))


def resnet18(num_classes: int = 1000, stem: str = "imagenet", width: int = 64) -> ResNet:
    """ResNet-18, of 11.7 million parameters with its 1000 classes and width 64; see ResNet."""
    return ResNet((2, 2, 2, 2), num_classes, stem, width)
