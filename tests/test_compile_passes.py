"""What the passes of `compile` rely on."""

import itertools

import numpy as np
import pytest
from twins import OPTIMIZERS, bits, compare, twins, vector

import fastconv
from fastconv import kernels, nn
from fastconv.nn import functional as F

SHAPES = [
    # N, C, H, K, R, stride, padding, groups
    (2, 3, 8, 4, 3, 1, 1, 1), (1, 1, 32, 6, 3, 1, 0, 1), (2, 6, 15, 16, 3, 1, 0, 1), (2, 64, 14, 64, 3, 1, 1, 1),
    (2, 8, 9, 8, 3, 1, 1, 8), (2, 16, 9, 16, 1, 1, 0, 1), (2, 3, 16, 8, 7, 2, 3, 1), (2, 16, 9, 32, 3, 2, 1, 1),
    (3, 32, 28, 32, 3, 1, 1, 32), (16, 1, 28, 6, 3, 1, 0, 1), (2, 16, 7, 32, 1, 2, 0, 1), (0, 2, 5, 3, 3, 1, 0, 1),
]  # fmt: skip


def has_minus_zero(array):
    return ((array == 0) & np.signbit(array)).any()


def products_that_are_minus_zero(rng, shape_a, shape_b, dtype):
    """Pairs of arrays whose products are zeros, of which many or all are negative."""
    zeros = np.zeros(shape_a, dtype)
    some = np.where(rng.random(shape_a) < 0.5, -zeros, zeros)
    yield zeros, np.full(shape_b, -1, dtype)
    yield -zeros, np.full(shape_b, 1, dtype)
    yield some, np.asarray(rng.standard_normal(shape_b), dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weight_gradients_are_never_minus_zero(rng, isa, dtype, shape):
    """0 + d is d, bit for bit, unless d is -0: gradients are written where they would be added to zeros."""
    N, C, H, K, R, stride, padding, groups = shape
    P = (H + 2 * padding - R) // stride + 1
    images, outputs = (N, C, H, H), (N, K, P, P)
    pairs = list(products_that_are_minus_zero(rng, images, outputs, dtype))
    pairs += [(b, a) for a, b in products_that_are_minus_zero(rng, outputs, images, dtype)]
    tried = 0
    for algorithm in ("auto", "gemm", "winograd", "direct", "depthwise"):
        for x, dy in pairs:
            try:
                gradients = kernels.conv2d_backward_weight(
                    dy, x, (R, R), stride, padding, 1, groups, bias=True, algorithm=algorithm
                )
            except ValueError:  # not an algorithm of this shape
                continue
            tried += 1
            assert not any(map(has_minus_zero, gradients)), algorithm
    assert tried >= 2 * len(pairs)


def test_products_and_sums_are_never_minus_zero(rng, isa, dtype):
    for m, n, k in itertools.product((1, 3, 17, 120), (1, 5, 84), (0, 1, 2, 64)):
        for a, b in products_that_are_minus_zero(rng, (m, k), (k, n), dtype):
            assert not has_minus_zero(kernels.gemm(a, b))
            assert not has_minus_zero(kernels.gemm(b.T, a.T))
        for dy, x in products_that_are_minus_zero(rng, (m, n), (m, k), dtype):
            assert not any(map(has_minus_zero, kernels.linear_backward_weight(dy, x, bias=True)))
        zeros = -np.zeros((m, n), dtype)
        for axis in (0, 1, None):
            assert not has_minus_zero(np.asarray(kernels.sum(zeros, axis)))


def test_gradients_of_batch_norm_are_never_minus_zero(rng, isa, dtype):
    for shape in ((4, 3), (2, 5, 6, 7), (3, 33, 4, 4)):
        x = np.asarray(rng.standard_normal(shape), dtype)
        weight = np.asarray(rng.standard_normal(shape[1]), dtype)
        _, mean, invstd = kernels.batch_norm_forward(x, weight, weight, None, None, training=True)
        for dy in (-np.zeros(shape, dtype), np.zeros(shape, dtype), -x * 0):
            for training in (True, False):
                _, dw, db = kernels.batch_norm_backward(
                    dy, x, weight, mean, invstd, training=training
                )
                assert not has_minus_zero(dw) and not has_minus_zero(db)


# Batch normalisation with what follows it -----------------------------------------------------------


class Norms(nn.Module):
    """A function of x and of two normalisations."""

    def __init__(self, function, channels=3):
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.function = function

    def forward(self, x):
        return self.function(x, self.first, self.second)


def in_place(x, first, second):
    y = first(x)
    y += second(x)
    return F.relu(y, inplace=True)


def seen_before(x, first, second):
    y = first(x)
    z = y * 2
    return F.relu(y) + z


def written_between(x, first, second):
    y, r = first(x), x * 2
    r.add_(1)
    z = second(x)
    r.mul_(3)
    return (z + r).relu() + y


NORMS = {  # function: kernels that are left of a forward pass: relu, add
    "relu": (lambda x, first, second: first(x).relu(), 0, 0),
    "relu in place": (lambda x, first, second: F.relu(first(x), inplace=True), 0, 0),
    "residual": (lambda x, first, second: (first(x) + x).relu(), 0, 0),
    "residual on the left": (lambda x, first, second: F.relu(x + first(x)), 0, 0),
    "no relu": (lambda x, first, second: x + first(x), 0, 0),
    "both normalised": (lambda x, first, second: (first(x) + second(x)).relu(), 0, 0),
    "in place": (in_place, 0, 0),
    "a chain": (lambda x, first, second: second(first(x).relu() + x).relu(), 0, 1),
    "with itself": (lambda x, first, second: (lambda y: (y + y).relu())(first(x)), 1, 1),
    "relu first": (lambda x, first, second: first(x).relu() + x, 0, 1),
    "seen before": (seen_before, 1, 1),
    "seen after": (lambda x, first, second: (lambda y: y.relu() * y)(first(x)), 1, 0),
    "broadcast": (lambda x, first, second: (first(x) + x[:1]).relu(), 1, 1),
    "written between": (written_between, 1, 3),
    "twice": (lambda x, first, second: first(x).relu().relu(), 1, 0),
}


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (5, 3, 1, 1)], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_what_follows_a_batch_norm(rng, name, training, shape):
    """Forwards and gradients, bit by bit, also where nothing may be folded; NaN and infinities too."""
    function, relus, adds = NORMS[name]
    nets = [Norms(function).train(training) for _ in range(2)]

    def make(net):
        def step(x):
            for parameter in net.parameters():
                parameter.grad = None
            y = net(x)
            (y * y).sum().backward()
            return y.detach()

        return step

    steps = make(nets[0]), fastconv.compile(make(nets[1]))
    for special in (False, False, False, True, False):
        x = vector(rng, *shape)
        if special:
            x._array.flat[rng.integers(x._array.size, size=5)] = [np.nan, np.inf, -np.inf, 0, -0.0]
        results = [bits(step(x)) for step in steps]
        assert results[0] == results[1]
        gradients = [[bits(p.grad) for p in net.parameters() if p.grad is not None] for net in nets]
        assert gradients[0] == gradients[1]
        states = [bits(dict(net.state_dict())) for net in nets]
        assert states[0] == states[1]
    with fastconv.no_grad():
        run = fastconv.compile(nets[0].forward)
        for _ in range(3):
            assert bits(run(x)) == bits(nets[1](x)) if not training else run(x) is not None
        text = str(run.explain())
    lines = [line.split() for line in text.splitlines()]
    left = [sum(line[1:2] == [kind] for line in lines) for kind in ("relu", "add")]
    assert left == [relus, adds]


# A convolution with the relu and max-pool after it ----------------------------------------------------


class Pooled(nn.Module):
    """A function of x and of a convolution."""

    def __init__(self, function, conv):
        super().__init__()
        self.conv, self.function = conv, function

    def forward(self, x):
        return self.function(x, self.conv)


def pool_of_relu(x, conv):
    return F.max_pool2d(F.relu(conv(x)), 2)


def first_conv(**options):
    return nn.Conv2d(1, 6, 3, **options)


def written_while_pooled(x, conv):
    y = F.relu(conv(x))
    x.mul_(2)
    return F.max_pool2d(y, 2) + x.sum()


POOLED = {  # function, convolution, kernels that are left of a forward pass: relu, max_pool2d_forward
    "as in the tutorial": (pool_of_relu, first_conv(), 0, 0),
    "stride": (pool_of_relu, first_conv(stride=2, padding=1), 0, 0),
    "no bias": (pool_of_relu, first_conv(bias=False), 0, 0),
    "x is written": (written_while_pooled, first_conv(), 0, 0),
    "no relu": (lambda x, conv: F.max_pool2d(conv(x), 2), first_conv(), 0, 1),
    "3x3": (lambda x, conv: F.max_pool2d(F.relu(conv(x)), 3), first_conv(), 0, 1),
    "a stride of 1": (lambda x, conv: F.max_pool2d(F.relu(conv(x)), 2, 1), first_conv(), 0, 1),
    "padded": (lambda x, conv: F.max_pool2d(F.relu(conv(x)), 2, 2, 1), first_conv(), 0, 1),
    "rounded up": (
        lambda x, conv: F.max_pool2d(F.relu(conv(x)), 2, ceil_mode=True),
        first_conv(padding=1),  # an odd number of columns
        0,
        1,
    ),
    "relu is seen": (
        lambda x, conv: (lambda y: (F.max_pool2d(y, 2), y))(F.relu(conv(x))),
        first_conv(),
        1,
        1,
    ),
    "conv is seen": (
        lambda x, conv: (lambda y: (F.max_pool2d(F.relu(y), 2), y))(conv(x)),
        first_conv(),
        0,
        1,
    ),
    "pooled twice": (
        lambda x, conv: (lambda y: F.max_pool2d(F.relu(y), 2) + F.max_pool2d(y, 2))(conv(x)),
        first_conv(),
        0,
        2,
    ),
}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("images", [1, 35])
@pytest.mark.parametrize("name", POOLED)
def test_what_follows_a_convolution(rng, name, images, threads, count):
    """Bit by bit, also where nothing may be folded; NaN and infinities too."""
    function, conv, relus, pools = POOLED[name]
    threads(count)
    net = Pooled(function, conv)
    with fastconv.no_grad():
        run = fastconv.compile(net.forward)
        for special in ([0.0], [0.0], [np.nan, 0.0, -0.0], [np.inf, -np.inf, -0.0], [0.0]):
            x = vector(rng, images, 1, 32, 33)
            x._array.flat[rng.integers(x._array.size, size=len(special))] = special
            same = fastconv.tensor(x.numpy().copy())
            assert bits(run(x)) == bits(net(same))
        text = str(run.explain())
    lines = [line.split() for line in text.splitlines()]
    left = [sum(line[1:2] == [kind] for line in lines) for kind in ("relu", "max_pool2d_forward")]
    assert left == [relus, pools]


def test_convolutions_that_are_not_direct_keep_their_pool(rng):
    x, conv = vector(rng, 2, 32, 20, 20), nn.Conv2d(32, 64, 3)
    with fastconv.no_grad():
        run = fastconv.compile(lambda x: pool_of_relu(x, conv))
        for _ in range(3):
            assert bits(run(x)) == bits(pool_of_relu(x, conv))
    assert [call.kernel for call in run._last.calls] == ["conv2d_forward", "max_pool2d_forward"]


@pytest.mark.parametrize("images", [1, 2, 35])
@pytest.mark.parametrize("name", ["as in the tutorial", "stride", "no bias", "3x3"])
def test_the_gradient_of_what_follows_a_convolution(rng, name, images):
    function, conv, relus, pools = POOLED[name]
    eager, compiled = twins(
        Pooled(function, conv), OPTIMIZERS["momentum"], lambda y, t: (y * y).sum()
    )
    for special in (False, False, False, True, False):
        x = vector(rng, images, 1, 32, 33)
        if special:
            x._array.flat[rng.integers(x._array.size, size=2)] = [-0.0, np.inf]
        compare(eager, compiled, (x, vector(rng, 1)))
    left = [call.kernel for call in compiled.step._last.calls]
    assert [left.count(kind) for kind in ("relu", "max_pool2d_forward")] == [relus, pools]
