"""Ready-made networks."""

from fastconv.models.net import Net
from fastconv.models.resnet import BasicBlock, ResNet, resnet18

__all__ = ["BasicBlock", "Net", "ResNet", "resnet18"]
