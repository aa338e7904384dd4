"""ResNet-18 written with torch.nn, as `fastconv.models.resnet18`: torchvision's names, widths, stems."""

import torch
from torch import nn

# Multiply-adds of a sample: 224² with 1000 classes; 32² with CIFAR's stem and 10 classes.
IMAGENET, CIFAR = 1_814_073_344, 555_422_720
CIFAR_TRAINING = 3 * CIFAR - 64 * 27 * 32**2  # the gradient of the images is not computed


class BasicBlock(nn.Module):
    def __init__(self, inputs, channels, stride):
        super().__init__()
        shortcut = None
        if stride != 1 or inputs != channels:
            shortcut = nn.Sequential(
                nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet18(nn.Module):
    def __init__(self, classes, stem):
        super().__init__()
        imagenet = stem == "imagenet"
        self.conv1 = nn.Conv2d(3, 64, *((7, 2, 3) if imagenet else (3, 1, 1)), bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        channels = 64
        for i in range(4):
            first = BasicBlock(channels, 64 << i, 2 if i else 1)
            channels = 64 << i
            layer = nn.Sequential(first, BasicBlock(channels, channels, 1))
            self.add_module(f"layer{i + 1}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(classes, stem):
    """From seed 0."""
    torch.manual_seed(0)
    return ResNet18(classes, stem)
