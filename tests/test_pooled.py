"""Gradients of a convolution that came through a max-pool of 2x2: given as the pool's, found in dy, or refused."""

import numpy as np
import pytest
import reference
from helpers import AWKWARD, check, covers
from twins import batch, compare, twins

import fastconv
from fastconv import kernels, nn, optim
from fastconv.nn import functional as F

CASES = [
    # N, C, H, W, K, padding
    (1, 1, 4, 4, 1, 0),
    (2, 6, 15, 15, 16, 0),
    (3, 1, 32, 32, 6, 0),
    (9, 3, 9, 11, 5, 1),
    (2, 8, 7, 6, 9, 2),
    (1, 5, 2, 2, 3, 1),
    (17, 4, 5, 8, 7, ((0, 2), (1, 0))),
    (1, 2, 40, 71, 3, 1),
    (2, 7, 12, 13, 11, (3, 0)),
    (1, 2, 4, 37, 4, 0),
]
LARGE = (2, 9, 12, 12, 40, 1)  # not taken from the windows
cases = pytest.mark.parametrize("case", [*CASES, LARGE], ids=str)


class Pooled:
    """The arrays of a case: dy, indices and y are the pool's, unpooled what its gradient is."""

    def __init__(self, case, rng, dtype, relu=True):
        N, C, H, W, K, self.padding = case
        self.x = np.asarray(rng.standard_normal((N, C, H, W)), dtype)
        self.w = np.asarray(rng.standard_normal((K, C, 3, 3)), dtype)
        result = kernels.conv2d_forward(self.x, self.w, None, 1, self.padding)
        y, self.indices = kernels.max_pool2d_forward(result, 2, relu=relu)
        self.y = y if relu else None
        self.dy = np.asarray(rng.standard_normal(y.shape), dtype)
        self.size = result.shape

    @property
    def unpooled(self):
        return kernels.max_pool2d_backward(self.dy, self.indices, self.size, 2, y=self.y)

    def given(self, **options):
        """dx, dw, db of the pool's gradient."""
        options |= {"indices": self.indices, "y": self.y}
        return self.gradients(self.dy, **options)

    def gradients(self, dy, dtype=None, **options):
        dy, w, x = (a.astype(dtype or a.dtype) for a in (dy, self.w, self.x))
        dx = kernels.conv2d_backward_input(dy, w, x.shape, 1, self.padding, **options)
        return dx, *kernels.conv2d_backward_weight(dy, x, 3, 1, self.padding, **options)


def same(a, b):
    return all(p.tobytes() == q.tobytes() for p, q in zip(a, b, strict=True))


@covers("conv2d_backward_input", "conv2d_backward_weight")
@pytest.mark.parametrize("relu", [True, False])
@cases
def test_given_or_found_the_bits_are_the_same(isa, dtype, rng, threads, case, relu):
    arrays, results = Pooled(case, rng, dtype, relu), []
    for count in (1, 2, 3, 4):
        threads(count)
        results += [arrays.given(), arrays.gradients(arrays.unpooled)]
    assert all(same(result, results[0]) for result in results)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_errors(isa, dtype, rng, case):
    """Those of direct: no more than n eps of the sum of magnitudes, as the docstrings say."""
    arrays = Pooled(case, rng, dtype)
    dy, x, w = (a.astype(np.float64) for a in (arrays.unpooled, arrays.x, arrays.w))
    padding = arrays.padding
    wanted = reference.conv2d_backward_input(dy, w, x.shape[2:], 1, padding)
    wanted = wanted, *reference.conv2d_backward_weight(dy, x, (3, 3), 1, padding)
    dy, x, w = map(abs, (dy, x, w))
    sizes = reference.conv2d_backward_input(dy, w, x.shape[2:], 1, padding)
    sizes = sizes, *reference.conv2d_backward_weight(dy, x, (3, 3), 1, padding)
    pixels = dy.size // dy.shape[1]
    eps = np.finfo(dtype).eps
    for result, exact, size, terms in zip(
        arrays.given(algorithm="direct"), wanted, sizes, (9 * len(w), pixels, pixels), strict=True
    ):
        check(result, exact, terms * eps * size + np.finfo(dtype).tiny)


@pytest.mark.parametrize("algorithm", ["gemm", "winograd"])
def test_other_algorithms_take_all_of_dy(dtype, rng, algorithm):
    arrays = Pooled(CASES[1], rng, dtype)
    wanted = arrays.gradients(arrays.unpooled, algorithm=algorithm)
    assert same(arrays.given(algorithm=algorithm), wanted)


@pytest.mark.parametrize("where", ["first", "last", "no window's column", "no window's row"])
def test_two_pixels_of_a_window(isa, dtype, rng, where):
    """One such window, wherever it is, and dy is taken as any other."""
    arrays = Pooled(CASES[1], rng, dtype)
    dy = arrays.unpooled
    at = {
        "first": np.s_[0, 0, :2, :2],
        "last": np.s_[-1, -1, 10:12, 10:12],
        "no window's column": np.s_[1, 3, 4, -1],
        "no window's row": np.s_[1, 3, -1, 4],
    }[where]
    dy[at] = 2
    dx, dw, db = arrays.gradients(dy)
    wanted = arrays.gradients(dy, dtype=np.float64, algorithm="gemm")
    scale = 1e-5 if dtype == np.float32 else 1e-13
    for result, exact in zip((dx, dw, db), wanted, strict=True):
        check(result, exact, scale * np.abs(exact).max() * 10)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x", "w", "dy", "y"])
@cases
def test_not_finite(isa, dtype, rng, case, name, value):
    """A zero of dy times infinity is NaN, wherever dy came from: all is done again, with the zeros."""
    arrays = Pooled(case, rng, dtype)
    array = getattr(arrays, name)
    array[tuple(rng.integers(array.shape))] = value
    unpooled = arrays.unpooled
    assert same(arrays.given(), arrays.gradients(unpooled))
    if name == "w":  # in dx, which algorithm multiplies the zeros around dy is its own affair
        return
    for result, wanted in zip(
        arrays.given(), arrays.gradients(unpooled, algorithm="gemm"), strict=True
    ):
        np.testing.assert_array_equal(np.isnan(result), np.isnan(wanted))


@pytest.mark.parametrize("awkward", AWKWARD)
def test_layouts(isa, dtype, rng, awkward):
    for case in (CASES[1], CASES[6], LARGE):
        arrays = Pooled(case, rng, dtype)
        wanted, dy = arrays.given(), awkward(arrays.unpooled)
        x, w = awkward(arrays.x), awkward(arrays.w)
        dx = kernels.conv2d_backward_input(dy, w, x.shape, 1, arrays.padding)
        found = dx, *kernels.conv2d_backward_weight(dy, x, 3, 1, arrays.padding)
        for result, exact in zip(found, wanted, strict=True):
            check(result, exact, 1e-4 * np.abs(exact).max())
        arrays.dy, arrays.y, arrays.w = map(awkward, (arrays.dy, arrays.y, arrays.w))
        arrays.x, arrays.indices = awkward(arrays.x), awkward(arrays.indices)
        assert same(arrays.given(), wanted)


def test_indices_of_other_windows(isa, dtype, rng):
    """They mean what they say, as in max_pool2d_backward; or are refused."""
    arrays = Pooled(CASES[1], rng, dtype)
    arrays.indices[1, 4] = rng.permutation(arrays.indices[1, 4].ravel()).reshape(6, 6)
    arrays.indices[0, 2, 3, 3] = -1
    assert same(arrays.given(), arrays.gradients(arrays.unpooled))
    for wrong in (-2, 169, 2**31 - 1, -(2**31)):
        arrays.indices[0, 1, 2, 3] = wrong
        with pytest.raises(IndexError, match="indices must be from -1 to 168"):
            arrays.given()
    arrays.indices = arrays.indices.astype(np.int64)
    with pytest.raises(IndexError, match="indices must be from -1 to 168"):
        arrays.given()


def test_bad_input(rng):
    arrays = Pooled(CASES[1], rng, np.float32)
    with pytest.raises(ValueError, match="comes with its indices"):
        arrays.gradients(arrays.unpooled, y=arrays.y)
    with pytest.raises(ValueError, match="dy"):
        arrays.gradients(arrays.unpooled, indices=arrays.indices)
    with pytest.raises(ValueError, match="indices"):
        arrays.gradients(arrays.dy, indices=arrays.indices[:1])
    with pytest.raises(TypeError, match="indices must be integers"):
        arrays.gradients(arrays.dy, indices=arrays.dy)
    with pytest.raises(ValueError, match="y"):
        arrays.gradients(arrays.dy, indices=arrays.indices, y=arrays.y[:, :1])
    out = arrays.x.copy()
    arrays.y = out[:, :, :6, :6]
    with pytest.raises(ValueError):
        kernels.conv2d_backward_input(
            arrays.dy,
            arrays.w,
            out.shape,
            indices=arrays.indices,
            y=out.ravel()[: arrays.dy.size].reshape(arrays.dy.shape),
            out=out,
        )


@pytest.mark.parametrize("size", [(0, 3, 6, 6), (2, 3, 3, 9), (1, 3, 3, 3)])
def test_nothing_to_pool(isa, dtype, rng, size):
    N, C, H, W = size
    dy = np.asarray(rng.standard_normal((N, 4, (H - 2) // 2, (W - 2) // 2)), dtype)
    w = np.asarray(rng.standard_normal((4, C, 3, 3)), dtype)
    indices, x = np.zeros(dy.shape, np.int32), np.ones(size, dtype)
    assert not kernels.conv2d_backward_input(dy, w, size, indices=indices).any()
    dw, db = kernels.conv2d_backward_weight(dy, x, 3, indices=indices)
    assert not dw.any() and not db.any()


# ---- compiled --------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, activation=F.relu, keep=False):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 16, 3)
        self.activation, self.keep = activation, keep

    def forward(self, x):
        x = F.max_pool2d(self.activation(self.conv1(x)), 2)
        inner = self.activation(self.conv2(x))
        y = F.max_pool2d(inner, 2).sum(dim=(1, 2, 3))
        return y + inner.sum(dim=(1, 2, 3)) if self.keep else y


def check_compiled(net, criterion, x):
    """Three steps, eager and compiled, to the same bits; the kernels of the last one."""
    eager, compiled = twins(net, lambda parameters: optim.SGD(parameters, lr=0.01), criterion)
    for _ in range(3):
        compare(eager, compiled, (x, None))
    return [row.kernel for row in compiled.step.explain().rows]


@pytest.mark.parametrize("activation", [F.relu, lambda x: x, fastconv.tanh])
@pytest.mark.parametrize("size", [1, 5])
def test_compiled(rng, activation, size):
    """The gradients of both convolutions read the pools'; not those of what lies between them."""
    fastconv.manual_seed(0)
    x, _ = batch(rng, size)
    called = check_compiled(Net(activation), lambda y, _: y.mean(), x)
    pools = called.count("max_pool2d_backward")
    assert pools == (0 if activation is not fastconv.tanh else 2)


def test_compiled_where_others_read_the_gradient(rng):
    fastconv.manual_seed(0)
    x, _ = batch(rng)
    check_compiled(Net(keep=True), lambda y, _: (y * y).mean(), x)
