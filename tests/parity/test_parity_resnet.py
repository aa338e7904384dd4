"""ResNet-18 beside the same network written with torch.nn, torchvision's names and order of drawing."""

import numpy as np
import pytest
import torch as pytorch
from libraries import LIBRARIES, dtype_of, normal, to_numpy

from fastconv.models import resnet18

WIDTH, CLASSES, STEPS = 8, 10, 20


class BasicBlock(pytorch.nn.Module):
    def __init__(self, inputs, channels, stride):
        super().__init__()
        nn = pytorch.nn
        shortcut = None
        if stride != 1 or inputs != channels:
            convolution = nn.Conv2d(inputs, channels, kernel_size=1, stride=stride, bias=False)
            shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels))
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(pytorch.nn.Module):
    def __init__(self, classes, stem, width):
        super().__init__()
        nn = pytorch.nn
        if stem == "cifar":
            self.conv1 = nn.Conv2d(3, width, 3, stride=1, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        imagenet = stem == "imagenet"
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if imagenet else nn.Identity()
        self.layer1 = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, width, 1))
        self.layer2 = nn.Sequential(
            BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1)
        )
        self.layer3 = nn.Sequential(
            BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width, 1)
        )
        self.layer4 = nn.Sequential(
            BasicBlock(4 * width, 8 * width, 2), BasicBlock(8 * width, 8 * width, 1)
        )
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 1)
                nn.init.constant_(module.bias, 0)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(pytorch.flatten(self.avgpool(x), 1))


def drawn(stem):
    """Both networks, from the same seed."""
    for lib in LIBRARIES:
        lib.manual_seed(3)
    return resnet18(CLASSES, stem, WIDTH), ResNet(CLASSES, stem, WIDTH)


def twins(stem, dtype):
    """Both networks, with the same numbers."""
    nets = [net.to(dtype_of(lib, dtype)) for lib, net in zip(LIBRARIES, drawn(stem), strict=True)]
    nets[0].load_state_dict({name: t.numpy() for name, t in nets[1].state_dict().items()})
    return nets


def near(ours, theirs, relative):
    """|ours - theirs| <= relative |theirs|, lengths of vectors."""
    return np.linalg.norm((ours - theirs).ravel()) <= relative * np.linalg.norm(theirs.ravel())


# What a pass through 18 layers may lose, if each loses 64 eps, as the losses' tests allow a step.
LAYERS = 18 * 64


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_the_same_network(stem):
    """Names, shapes, their order, the layers, and the numbers that a seed gives."""
    ours, theirs = drawn(stem)
    assert repr(ours) == repr(theirs)
    for of in ("named_parameters", "named_buffers", "named_modules"):
        assert [name for name, _ in getattr(ours, of)()] == [n for n, _ in getattr(theirs, of)()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for a, e in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        a, e = to_numpy(a), to_numpy(e)
        assert a.shape == e.shape and a.dtype == e.dtype
        assert abs(a - e).max() <= 32 * np.finfo("float32").eps * abs(e).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stem,side", [("cifar", 16), ("imagenet", 64)])
def test_outputs_and_gradients(stem, side, training, dtype):
    """What float64 shows strictly, float32 cannot: a number before a ReLU that is 0 up to rounding lets its gradient
    through in one library and not in the other. There may be some of them, and one of M has 1 / sqrt(M) of it."""
    eps, found = np.finfo(dtype).eps, []
    for lib, net in zip(LIBRARIES, twins(stem, dtype), strict=True):
        net.train(training)
        x = lib.tensor(normal(8, 3, side, side, dtype=dtype), requires_grad=True)
        y = net(x)
        y.backward(lib.tensor(normal(8, CLASSES, dtype=dtype, seed=1)))
        gradients = {name: to_numpy(p.grad) for name, p in net.named_parameters()}
        state = {name: to_numpy(t) for name, t in net.named_buffers()}
        found.append((to_numpy(y), state, {"x": to_numpy(x.grad), **gradients}))
    ours, theirs = found
    assert near(ours[0], theirs[0], LAYERS * eps)
    for name, expected in theirs[1].items():
        assert near(ours[1][name], expected, LAYERS * eps), name
    last = ours[0].shape[0] * 8 * WIDTH * 2 * 2  # numbers in the last layer
    let_through = 4 / np.sqrt(last) if dtype == "float32" else 0
    for name, expected in theirs[2].items():
        assert near(ours[2][name], expected, LAYERS * eps + let_through), name


def train(lib, net, dtype):
    """The losses of all steps, and the state afterwards."""
    optimizer = lib.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    losses = []
    for step in range(STEPS):
        x = lib.tensor(normal(8, 3, 16, 16, dtype=dtype, seed=step % 4))
        t = lib.tensor(np.random.default_rng(step % 4).integers(0, CLASSES, 8))
        optimizer.zero_grad()
        loss = lib.nn.functional.cross_entropy(net(x), t)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), {name: to_numpy(t) for name, t in net.state_dict().items()}


def test_training():
    """In float64, where no ReLU is in doubt: 64 eps a step, as with the tutorial's network."""
    nets = twins("cifar", "float64")
    ours, theirs = (train(lib, net, "float64") for lib, net in zip(LIBRARIES, nets, strict=True))
    allowed = 64 * np.finfo("float64").eps * STEPS
    assert (abs(ours[0] - theirs[0]) <= allowed * theirs[0].max()).all()
    for name, expected in theirs[1].items():
        assert near(ours[1][name], expected, allowed), name
    assert ours[0][-4:].mean() < ours[0][:4].mean() / 2, "nothing was learnt"
    assert ours[1]["bn1.num_batches_tracked"] == STEPS
