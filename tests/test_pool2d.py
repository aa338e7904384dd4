import itertools

import numpy as np
import pytest
import reference as ref
from helpers import (
    AWKWARD,
    check,
    check_bits,
    covers,
    distinct,
    guarded,
    integers,
    normal,
    numeric_slope,
)

from fastconv import kernels

# x (N, C, H, W), then kernel_size, stride, padding, dilation, ceil_mode
CASES = [
    ((1, 1, 1, 1), 1, None, 0, 1, False),
    ((2, 6, 8, 8), 2, None, 0, 1, False),
    ((2, 3, 7, 9), 2, None, 0, 1, False),
    ((2, 3, 7, 9), 2, None, 0, 1, True),
    ((1, 2, 6, 7), (2, 2), 2, 1, 1, False),
    ((1, 2, 9, 8), 3, 2, 1, 1, False),
    ((1, 2, 9, 8), 3, 2, 1, 1, True),
    ((1, 2, 9, 8), 3, 1, 1, 1, False),
    ((1, 2, 5, 33), (1, 3), (1, 2), (0, 1), 1, False),
    ((1, 2, 33, 5), (3, 1), (2, 1), (1, 0), 1, True),
    ((1, 2, 9, 10), 3, 2, 0, 2, False),
    ((1, 2, 9, 10), (2, 3), (3, 2), (1, 1), (2, 3), True),
    ((1, 1, 5, 5), 2, 4, 0, 1, False),
    ((1, 1, 5, 5), 2, 4, 1, 1, True),
    ((1, 1, 4, 4), 4, 1, 2, 1, False),
    ((1, 1, 3, 3), 3, None, 0, 1, False),
    ((1, 1, 3, 70), (2, 2), None, 0, 1, False),
    ((3, 5, 4, 66), 2, None, 0, 1, False),
    ((0, 3, 4, 4), 2, None, 0, 1, False),
    ((1, 2, 20, 31), 3, 2, 1, 1, False),
    ((1, 1, 8, 112), 3, 2, 1, 1, True),
    ((2, 1, 9, 70), 2, None, 0, 1, False),
    ((3, 2, 13, 13), 2, None, 0, 1, False),
    ((2, 2, 16, 16), 2, None, 0, 1, False),
    ((2, 2, 30, 30), 2, None, 0, 1, False),
    ((2, 2, 12, 15), 3, None, 1, 1, True),
    ((1, 1, 9, 40), 5, (2, 1), 2, 1, False),
    ((2, 2, 14, 14), (2, 3), (3, 5), (1, 0), 1, True),
    ((2, 1, 8, 112), 3, 2, 1, 1, False),
    ((2, 2, 7, 66), 3, 2, 1, 1, False),
    ((1, 2, 5, 67), 2, None, 0, 1, True),
    ((1, 1, 21, 49), 3, 2, 1, 1, False),  # many rows, whose last windows are beside the image
    ((2, 2, 19, 11), 5, 1, 2, 1, False),
    ((1, 4, 2, 8), (1, 7), (1, 5), (0, 3), 1, True),  # two short rows that make more than one block
    ((1, 4, 2, 4), (1, 4), (1, 5), (0, 2), 1, True),
    ((3, 17, 3, 6), (3, 7), 2, (0, 1), 1, False),  # one window, which begins before the plane
    ((1, 1, 1, 1), 2, 2, 0, 1, True),
    ((1, 2, 9, 31), (3, 9), (2, 11), (1, 4), 1, True),
    ((1, 2, 37, 20), (5, 3), (1, 2), (2, 1), 1, True),
]
NAN, INF = np.nan, np.inf

cases = pytest.mark.parametrize("shape,k,s,p,d,ceil", CASES)


def indices_of(shape, dtype=np.int32, **kwargs):
    return np.zeros(shape, dtype, **kwargs)


@covers("max_pool2d_forward", "max_pool2d_backward")
@cases
@pytest.mark.parametrize("draw", [distinct, integers])
def test_pool(isa, dtype, rng, shape, k, s, p, d, ceil, draw):
    """`integers` has ties: the first of equals is chosen."""
    x = draw(rng, shape, dtype)
    expected, expected_indices = ref.max_pool2d_forward(x, k, s, p, d, ceil)
    y, indices = kernels.max_pool2d_forward(x, k, s, p, d, ceil)
    check(y, expected)
    assert indices.dtype == np.int32
    assert np.array_equal(indices, expected_indices)
    with guarded(expected.shape, dtype) as out:
        assert kernels.max_pool2d_forward(x, k, s, p, d, ceil, out=out)[0] is out
        check(out, expected)
    dy = integers(rng, y.shape, dtype)
    expected = ref.max_pool2d_backward(dy, indices, shape[2:])
    check(kernels.max_pool2d_backward(dy, indices, shape[2:]), expected)
    with guarded(shape, dtype) as out:
        assert kernels.max_pool2d_backward(dy, indices, shape, out=out) is out
        check(out, expected)
    with guarded(shape, dtype) as out:
        assert kernels.max_pool2d_backward(dy, indices, shape, k, s, p, d, out=out) is out
        check(out, expected)


@cases
@pytest.mark.parametrize("nan", [False, True])
def test_relu_within_the_pool(isa, dtype, rng, shape, k, s, p, d, ceil, nan):
    """The bits of relu before the pool, and of their two gradients."""
    x = integers(rng, shape, dtype, largest=3)
    if nan and x.size:
        x.flat[rng.integers(x.size, size=3)] = np.nan
    rectified = kernels.relu(x)
    expected, indices = kernels.max_pool2d_forward(rectified, k, s, p, d, ceil)
    missed = indices < 0  # windows of nothing are -inf without relu
    y, found = kernels.max_pool2d_forward(x, k, s, p, d, ceil, relu=True)
    check_bits(y, np.where(missed, 0, expected).astype(dtype))
    dy = integers(rng, y.shape, dtype)
    between = kernels.max_pool2d_backward(dy, indices, shape, k, s, p, d)
    expected = kernels.relu_backward(between, rectified)
    check_bits(kernels.max_pool2d_backward(dy, found, shape, k, s, p, d, y=y), expected)
    check_bits(kernels.max_pool2d_backward(dy, found, shape, y=y), expected)


@cases
def test_the_indices_decide_wherever_they_lie(isa, dtype, rng, shape, k, s, p, d, ceil):
    """One outside of its window, none, any: with the windows or without, bits of zeros too."""
    y, indices = kernels.max_pool2d_forward(distinct(rng, shape, dtype), k, s, p, d, ceil)
    dy = -integers(rng, y.shape, dtype, largest=2)  # zeros are -0
    anywhere = rng.integers(-1, shape[2] * shape[3], y.shape).astype(np.int32)
    one = indices.copy()
    one[..., :1, :1] = shape[2] * shape[3] - 1
    for found in (indices, one, np.full_like(indices, -1), anywhere):
        expected = kernels.max_pool2d_backward(dy, found, shape)
        check(expected, ref.max_pool2d_backward(dy, found, shape[2:]))
        check_bits(kernels.max_pool2d_backward(dy, found, shape, k, s, p, d), expected)


@pytest.mark.parametrize("k,s,p", [(2, None, 0), (3, 2, 1), (3, 1, 1), (2, 2, 1), ((1, 4), 1, 0)])
def test_nan_and_infinities(isa, dtype, rng, k, s, p):
    x = integers(rng, (3, 2, 7, 19), dtype)
    special = rng.random(x.shape)
    x[special < 0.3] = -INF
    x[special < 0.1] = NAN
    x[special > 0.95] = INF
    x[1] = -INF
    x[2] = NAN
    y, indices = kernels.max_pool2d_forward(x, k, s, p)
    expected, expected_indices = ref.max_pool2d_forward(x, k, s, p)
    check(y, expected)
    assert np.array_equal(indices, expected_indices)


@pytest.mark.parametrize("place", range(4))
def test_each_place_of_a_window_can_win(isa, dtype, place):
    for value, rest in itertools.product((NAN, INF, 1, -1, 0), (-2, -INF)):
        x = np.full((1, 1, 2, 34), rest, dtype)
        h, v = divmod(place, 2)
        x[0, 0, h, v::2] = value
        y, indices = kernels.max_pool2d_forward(x, 2)
        check(y, np.full((1, 1, 1, 17), value, float))
        assert np.array_equal(indices[0, 0, 0], h * 34 + v + 2 * np.arange(17))


def test_the_places_come_back(isa, dtype, rng):
    """x at the indices is y, in every case: the indices are places in the plane of x."""
    for shape, k, s, p, d, ceil in CASES:
        x = distinct(rng, shape, dtype)
        y, indices = kernels.max_pool2d_forward(x, k, s, p, d, ceil)
        planes = x.reshape(*shape[:2], shape[2] * shape[3])
        found = np.take_along_axis(
            planes, indices.reshape(*shape[:2], y[0, 0].size if y.size else 0).astype(int), axis=2
        )
        check(y, found.reshape(y.shape))


@cases
def test_gradient_by_central_difference(isa, rng, shape, k, s, p, d, ceil):
    x, direction = distinct(rng, shape, float), rng.standard_normal(shape)
    y, indices = kernels.max_pool2d_forward(x, k, s, p, d, ceil)
    dy = rng.standard_normal(y.shape)
    dx = kernels.max_pool2d_backward(dy, indices, shape)
    slope = numeric_slope(
        lambda x: np.vdot(kernels.max_pool2d_forward(x, k, s, p, d, ceil)[0], dy), x, direction
    )
    assert slope == pytest.approx(np.vdot(dx, direction), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("awkward", AWKWARD)
def test_awkward_operands(isa, dtype, rng, awkward):
    x = distinct(rng, (2, 3, 7, 9), dtype)
    y, indices = kernels.max_pool2d_forward(awkward(x), 3, 2, 1)
    expected, expected_indices = ref.max_pool2d_forward(x, 3, 2, 1)
    check(y, expected)
    assert np.array_equal(indices, expected_indices)
    assert y.flags.c_contiguous and indices.flags.c_contiguous
    dy = integers(rng, y.shape, dtype)
    dx = kernels.max_pool2d_backward(awkward(dy), awkward(indices), (7, 9))
    check(dx, ref.max_pool2d_backward(dy, indices, (7, 9)))


def test_indices_of_int64_are_taken(isa, dtype, rng):
    """As torch gives them."""
    x = distinct(rng, (1, 2, 4, 6), dtype)
    y, indices = kernels.max_pool2d_forward(x, 2)
    dx = kernels.max_pool2d_backward(y, indices.astype(np.int64), x.shape)
    check(dx, ref.max_pool2d_backward(y, indices, (4, 6)))


# Averages ---------------------------------------------------------------------------------------

UNDILATED = [(shape, k, s, p, ceil) for shape, k, s, p, d, ceil in CASES if d == 1]
UNDILATED += [
    ((2, 3, 7, 7), 7, None, 0, False),
    ((18, 3, 7, 7), 7, 7, 0, False),
    ((1, 20, 3, 5), (3, 5), 1, 0, False),
    ((1, 3, 6, 6), 8, 1, 1, False),  # larger than the image
    ((2, 1, 14, 14), 14, None, 0, False),
    ((1, 2, 20, 23), 9, 4, 3, True),
    ((1, 2, 17, 23), 3, 3, 1, True),
]
averages = pytest.mark.parametrize("shape,k,s,p,ceil", UNDILATED)


def bound(terms, largest, dtype):
    """Of a sum of so many terms, each multiplied or divided: (terms + 3) eps largest."""
    return (terms + 3) * np.finfo(dtype).eps * largest


@covers("avg_pool2d_forward", "avg_pool2d_backward")
@averages
@pytest.mark.parametrize("include,divisor", [(True, None), (False, None), (True, 3), (False, -5)])
def test_average(isa, dtype, rng, shape, k, s, p, ceil, include, divisor):
    """Whole numbers: the sums are exact, and the quotients are the nearest to the true ones."""
    x, options = integers(rng, shape, dtype), (k, s, p, ceil, include, divisor)
    expected = ref.avg_pool2d_forward(x, *options)
    check(kernels.avg_pool2d_forward(x, *options), expected)
    with guarded(expected.shape, dtype) as out:
        assert kernels.avg_pool2d_forward(x, *options, out=out) is out
        check(out, expected)
    dy = normal(rng, expected.shape, dtype)
    expected = ref.avg_pool2d_backward(dy, shape[2:], *options)
    near = bound(64, np.abs(dy).max(initial=0), dtype)
    check(kernels.avg_pool2d_backward(dy, shape, *options), expected, near)
    with guarded(shape, dtype) as out:
        assert kernels.avg_pool2d_backward(dy, shape[2:], *options, out=out) is out
        check(out, expected, near)


SIZES = [(1, 1), (2, 2), (3, 5), (7, 7), (6, 4), (13, 1), (20, 30)]


@covers("adaptive_avg_pool2d_forward", "adaptive_avg_pool2d_backward")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(2, 3, 7, 7), (1, 2, 12, 20), (1, 1, 13, 5), (0, 2, 4, 4)])
def test_adaptive_average(isa, dtype, rng, shape, size):
    x = integers(rng, shape, dtype)
    expected = ref.adaptive_avg_pool2d_forward(x, size)
    check(kernels.adaptive_avg_pool2d_forward(x, size), expected)
    with guarded(expected.shape, dtype) as out:
        assert kernels.adaptive_avg_pool2d_forward(x, size, out=out) is out
        check(out, expected)
    dy = normal(rng, expected.shape, dtype)
    expected = ref.adaptive_avg_pool2d_backward(dy, shape[2:])
    near = bound(600, np.abs(dy).max(initial=0), dtype)
    check(kernels.adaptive_avg_pool2d_backward(dy, shape), expected, near)
    with guarded(shape, dtype) as out:
        assert kernels.adaptive_avg_pool2d_backward(dy, shape[2:], out=out) is out
        check(out, expected, near)


def test_adaptive_sizes(isa, dtype):
    x = np.ones((2, 3, 5, 7), dtype)
    for size, expected in ((None, (5, 7)), ((None, 2), (5, 2)), ([3, None], (3, 7)), (4, (4, 4))):
        check(kernels.adaptive_avg_pool2d_forward(x, size), np.ones((2, 3, *expected)))
    nothing = kernels.adaptive_avg_pool2d_forward(x, 0)
    assert nothing.shape == (2, 3, 0, 0)
    check(kernels.adaptive_avg_pool2d_backward(nothing, x.shape), np.zeros(x.shape))


@averages
def test_backward_is_the_adjoint(isa, rng, shape, k, s, p, ceil):
    x = normal(rng, shape, float)
    y = kernels.avg_pool2d_forward(x, k, s, p, ceil)
    dy = normal(rng, y.shape, float)
    dx = kernels.avg_pool2d_backward(dy, shape, k, s, p, ceil)
    assert np.vdot(dx, x) == pytest.approx(np.vdot(dy, y), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("k,s,p", [(2, None, 0), (3, 2, 1), (3, 1, 1), ((1, 4), 1, 0), (7, 7, 0)])
def test_averages_of_nan_and_infinities(isa, dtype, rng, k, s, p):
    """They reach the windows that hold them, and no other."""
    for value in (NAN, INF, -INF):
        x = integers(rng, (2, 2, 7, 19), dtype)
        x[rng.random(x.shape) < 0.05] = value
        check(kernels.avg_pool2d_forward(x, k, s, p), ref.avg_pool2d_forward(x, k, s, p))
        y = kernels.avg_pool2d_forward(np.zeros_like(x), k, s, p)
        dy = np.zeros_like(y)
        dy[:, :, -1, -1] = value
        expected = ref.avg_pool2d_backward(dy, (7, 19), k, s, p)
        check(kernels.avg_pool2d_backward(dy, (7, 19), k, s, p), expected)


def test_averages_take_little_memory_whatever_the_stride(isa, dtype, rng):
    """What lies between windows is not kept: with 16 lines of it, there would be no memory."""
    x = integers(rng, (2, 1, 4, 4), dtype)
    for stride in ((2, 2**30), (2**30, 2), 2**30):
        check(kernels.avg_pool2d_forward(x, 2, stride), ref.avg_pool2d_forward(x, 2, stride))
        dy = integers(rng, ref.avg_pool2d_forward(x, 2, stride).shape, dtype)
        expected = ref.avg_pool2d_backward(dy, (4, 4), 2, stride)
        check(kernels.avg_pool2d_backward(dy, (4, 4), 2, stride), expected)


@pytest.mark.parametrize("awkward", AWKWARD)
def test_awkward_operands_of_averages(isa, dtype, rng, awkward):
    x = integers(rng, (2, 3, 7, 9), dtype)
    check(kernels.avg_pool2d_forward(awkward(x), 2), ref.avg_pool2d_forward(x, 2))
    dy = integers(rng, (2, 3, 3, 4), dtype)
    expected = ref.avg_pool2d_backward(dy, (7, 9), 2)
    check(kernels.avg_pool2d_backward(awkward(dy), (7, 9), 2), expected)
