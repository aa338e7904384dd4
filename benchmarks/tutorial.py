"""The tutorial's network, a forward pass and a step of training, with fastconv and with PyTorch."""

import torch
from goals import OURS
from layers import arrays

import fastconv


def tutorial_net(lib):
    """The tutorial's Net, written with `lib` (fastconv or torch), from seed 0."""
    nn, functional = lib.nn, lib.nn.functional

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 6, 3)
            self.conv2 = nn.Conv2d(6, 16, 3)
            self.fc1 = nn.Linear(16 * 6 * 6, 120)
            self.fc2 = nn.Linear(120, 84)
            self.fc3 = nn.Linear(84, 10)

        def forward(self, x):
            x = functional.max_pool2d(functional.relu(self.conv1(x)), (2, 2))
            x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
            x = x.view(-1, 576)
            x = functional.relu(self.fc1(x))
            x = functional.relu(self.fc2(x))
            return self.fc3(x)

    lib.manual_seed(0)
    return Net()


FORWARD = 274_656  # multiply-adds of a sample
TRAINING = 3 * FORWARD - 48_600  # the gradient of the images, conv1's dx, is not computed


def forward(batch):
    (x,) = arrays((batch, 1, 32, 32))
    contenders = {}
    for name, lib in ((OURS, fastconv), ("PyTorch", torch)):
        net, images = tutorial_net(lib), lib.from_numpy(x)
        contenders[name] = lambda net=net, images=images: net(images)
    return contenders


def train_step(batch):
    """zero_grad, forward, MSELoss, backward, SGD: as the tutorial's loop, eager on both sides."""
    x, t = arrays((batch, 1, 32, 32), (batch, 10))
    sides = (
        (OURS, fastconv, {}),
        ("PyTorch", torch, {}),
        ("PyTorch fused", torch, {"fused": True}),
    )
    contenders = {}
    for name, lib, options in sides:
        net, criterion = tutorial_net(lib), lib.nn.MSELoss()
        optimizer = lib.optim.SGD(net.parameters(), lr=1e-3, **options)
        images, target = lib.from_numpy(x), lib.from_numpy(t)

        def step(net=net, criterion=criterion, optimizer=optimizer, images=images, target=target):
            optimizer.zero_grad()
            loss = criterion(net(images), target)
            loss.backward()
            optimizer.step()
            return loss.detach()

        contenders[name] = step
    return contenders
