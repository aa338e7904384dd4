"""Results that are made again for the backward pass: the same bits, in less memory."""

import numpy as np
import pytest
from test_compile_property import Block
from twins import OPTIMIZERS, bits, compare, twins, vector

import fastconv
from fastconv import nn
from fastconv.compiler import remake
from fastconv.models import resnet18


@pytest.fixture
def of_any_size(monkeypatch):
    monkeypatch.setattr(remake, "LEAST_BYTES", 0)


def made_again(step):
    """The kernels that are called for the second time, in order."""
    seen, found = set(), []
    for call in step._last.calls:
        if call.kernel == "batch_norm_again":
            found.append(call.kernel)
        elif call.kernel == "conv2d_forward":
            weight = call.words[call.word("w")]
            found += [call.kernel] if weight in seen else []
            seen.add(weight)
    return found


def small_resnet():
    fastconv.manual_seed(0)
    return resnet18(10, "cifar", 8)


def arena_of(net, x, y, criterion):
    compiled = twins(net, OPTIMIZERS["momentum"], criterion)[1]
    for _ in range(3):
        compiled.step(x, y)
    return compiled.step._last.arena.nbytes


@pytest.mark.parametrize("count", [1, 2])
def test_a_residual_net(rng, threads, count, of_any_size, monkeypatch):
    """Also where infinities and NaNs come in."""
    threads(count)
    net, criterion = small_resnet(), nn.CrossEntropyLoss()
    eager, compiled = twins(net, OPTIMIZERS["momentum"], criterion)
    labels = fastconv.from_numpy(np.arange(4) % 10)
    for special in (False, False, False, True):
        x = vector(rng, 4, 3, 16, 16)
        if special:
            x._array.flat[rng.integers(x._array.size, size=3)] = [np.nan, np.inf, -0.0]
        compare(eager, compiled, (x, labels))
    again = made_again(compiled.step)
    assert again.count("batch_norm_again") > 10 and "conv2d_forward" in again
    arena = compiled.step._last.arena.nbytes
    monkeypatch.setattr(remake, "LEAST_BYTES", 1 << 40)
    assert arena < 0.6 * arena_of(net, x, labels, criterion)


def test_a_gradient_finds_out_where_relu_gave_zero(rng, of_any_size):
    """It need not read the result; where something was added to that, it must."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), Block(4, False), nn.Conv2d(4, 4, 3))
    eager, compiled = twins(net, OPTIMIZERS["momentum"], lambda y, t: (y * y).sum())
    for _ in range(3):
        compare(eager, compiled, (vector(rng, 2, 2, 9, 8), vector(rng, 1)))
    norms = [c for c in compiled.step._last.calls if c.kernel == "batch_norm_backward"]
    assert [("y" in c.operands, c.number("relu")) for c in norms] == [(False, 0), (False, 1)]


class Chain(nn.Module):
    """Convolutions, between them normalisations with relu; at the end, `event` happens to those."""

    def __init__(self, event):
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(2 if i == 0 else 9, 9, 3, padding=1) for i in range(5)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(9) for _ in range(4)])
        self.event = event

    def forward(self, x):
        y = self.convs[0](x)
        for norm, conv in zip(self.norms, self.convs[1:], strict=True):
            y = conv(norm(y).relu())
        for norm in self.norms:
            self.event(norm)
        return y


def nothing(norm):
    pass


def bias_changes(norm):
    """Gradients do not need it; but the result is made of it."""
    with fastconv.no_grad():
        norm.bias.add_(1)


@pytest.mark.parametrize("event", [nothing, bias_changes], ids=lambda f: f.__name__)
@pytest.mark.parametrize("training", [True, False])
def test_what_it_is_made_of_may_change(rng, event, training, of_any_size):
    eager, compiled = twins(
        Chain(event).train(training), OPTIMIZERS["momentum"], lambda y, t: (y * y).sum()
    )
    for _ in range(4):
        compare(eager, compiled, (vector(rng, 2, 2, 9, 8), vector(rng, 1)))
    assert ("batch_norm_again" in made_again(compiled.step)) == (event is nothing)


def test_what_has_left_nothing_to_save(rng, of_any_size):
    """Without gradients nothing is kept, and nothing made again."""
    net = fastconv.compile(small_resnet().eval())
    with fastconv.no_grad():
        for _ in range(3):
            x = vector(rng, 2, 3, 16, 16)
            assert bits(net(x)) == bits(net._original(x))
    assert not made_again(net._compiled)


def test_small_results_are_kept(rng):
    eager, compiled = twins(small_resnet(), OPTIMIZERS["momentum"], nn.CrossEntropyLoss())
    labels = fastconv.from_numpy(np.arange(2))
    for _ in range(3):
        compare(eager, compiled, (vector(rng, 2, 3, 16, 16), labels))
    assert not made_again(compiled.step)
