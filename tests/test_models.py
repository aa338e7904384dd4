import numpy as np
import pytest

import fastconv
from fastconv import nn, optim
from fastconv.models import ResNet, resnet18


def test_resnet18_is_that_of_the_paper():
    """Its parameters are torchvision's 11,689,512; the names, in tests/parity/."""
    net = resnet18()
    assert sum(p.numel() for p in net.parameters()) == 11_689_512
    assert net.layer3[0].downsample[0].weight.shape == (256, 128, 1, 1)
    assert net.layer1[0].downsample is None and net.fc.weight.shape == (1000, 512)
    weight = net.layer4[1].conv2.weight.detach().numpy()
    assert weight.std() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)  # fan_out
    assert net.bn1.weight.tolist() == [1] * 64 and net.bn1.bias.tolist() == [0] * 64


@pytest.mark.parametrize("stem,side,inside", [("imagenet", 64, 16), ("cifar", 16, 16)])
def test_sizes(stem, side, inside):
    net = resnet18(7, stem, width=4).eval()
    shapes = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        layer[1].register_forward_hook(lambda module, args, y: shapes.append(tuple(y.shape)))
    assert net(fastconv.randn(2, 3, side, side)).shape == (2, 7)
    assert shapes == [(2, 4 << i, inside >> i, inside >> i) for i in range(4)]


def test_one_block_a_layer():
    net = ResNet((1, 1, 1, 1), 3, "cifar", 4)
    assert net(fastconv.randn(2, 3, 8, 8)).shape == (2, 3)


def test_wrong_stem():
    with pytest.raises(ValueError, match="stem must be 'imagenet' or 'cifar', got 'mnist'"):
        resnet18(stem="mnist")


def test_it_learns_and_comes_back(tmp_path):
    fastconv.manual_seed(0)
    net = resnet18(4, "cifar", width=4)
    x, t = fastconv.randn(8, 3, 16, 16), fastconv.arange(8) % 4
    optimizer, losses = optim.SGD(net.parameters(), lr=0.1, momentum=0.9), []
    for _ in range(12):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), t)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    fastconv.save(net.state_dict(), tmp_path / "net.safetensors")
    other = resnet18(4, "cifar", width=4)
    other.load_state_dict(fastconv.load(tmp_path / "net.safetensors"))
    expected = net.eval()(x).detach().numpy()
    assert np.array_equal(other.eval()(x).detach().numpy(), expected)
