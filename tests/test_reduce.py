import math

import numpy as np
import pytest
import reference as ref
from helpers import AWKWARD, check, check_bits, covers, integers, normal

from fastconv import kernels

SHAPES = [
    ((1,), 0),
    ((7,), 0),
    ((1000,), -1),
    ((3, 5), 0),
    ((3, 5), 1),
    ((4, 33), -1),
    ((33, 4), -2),
    ((2, 3, 17), 1),
    ((2, 17, 3), -2),
    ((2, 3, 4, 5), 0),
    ((2, 3, 4, 5), 2),
    ((41, 3), 1),
    ((5, 127), 1),
    ((3, 261), 1),
    ((2, 5, 37), 1),
    ((2, 6, 1030), 1),
    ((9, 49), 1),
    ((5, 64), 1),
    ((3, 65), 1),
    ((0, 3), 1),
    ((3, 0), 0),
    ((1, 1, 1), 1),
    ((2, 40, 130), 1),
    ((70000,), 0),
    ((33000, 3), 0),
    ((1, 700, 300), 1),
]


def sum_bound(x, axis, keepdims, dtype):
    """float32 is added up in float64 and rounded once; float64 as any sum of so many terms."""
    size = np.abs(x.astype(float)).sum(axis=axis, keepdims=keepdims)
    terms = x.size / max(size.size, 1) if dtype == np.float64 else 1
    exact = np.abs(x.astype(float).sum(axis=axis, keepdims=keepdims))
    return ref.product_bound(size, terms, np.float64) + np.finfo(dtype).eps * exact


@covers("sum")
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("shape,axis", [*SHAPES, ((0,), 0), ((2, 0, 3), 1)])
def test_sum_and_mean(isa, dtype, rng, shape, axis, keepdims):
    x = normal(rng, shape, dtype)
    for axes in (axis, None):
        expected = x.astype(float).sum(axis=axes, keepdims=keepdims)
        bound = sum_bound(x, axes, keepdims, dtype)
        y = kernels.sum(x, axes, keepdims)
        assert y.dtype == dtype
        check(y, expected, bound)
        count = x.size / max(expected.size, 1)
        if count:
            check(kernels.mean(x, axes, keepdims), expected / count, 2 * bound / count)


@covers("sum")
@pytest.mark.parametrize(
    "axes", [(0,), (0, 1), (0, 2), (1, 2), (0, 2, 3), (-1, 0), (0, 1, 2, 3), ()]
)
def test_sum_over_several_axes(isa, dtype, rng, axes):
    x = integers(rng, (2, 3, 4, 5), dtype)
    for keepdims in (False, True):
        check(kernels.sum(x, axes, keepdims), x.astype(float).sum(axis=axes, keepdims=keepdims))


@covers("sum")
@pytest.mark.parametrize(
    "shape,axes",
    [
        ((3, 4, 70), (0, 2)),
        ((3, 4, 5, 600), (0, 2)),
        ((5, 1, 4, 9), (1, 3)),
        ((2, 3, 4, 5, 6), (1, 3)),
        ((2, 3, 4, 5, 6), (0, 2, 4)),
        ((2, 1, 3, 1, 70), (1, 3)),
        ((3, 0, 2, 4), (0, 3)),
        ((0, 4, 2), (0, 2)),
    ],
)
def test_sum_and_mean_over_axes_apart(isa, dtype, rng, shape, axes):
    x = normal(rng, shape, dtype)
    bound = sum_bound(x, axes, False, dtype)
    expected = x.astype(float).sum(axis=axes)
    check(kernels.sum(x, axes), expected, bound)
    count = np.prod([shape[d] for d in axes])
    if count:
        check(kernels.mean(x, axes), expected / count, 2 * bound / count)


def test_mean_of_nothing_is_nan(isa, dtype):
    check(kernels.mean(np.zeros((2, 0), dtype), 1), [np.nan, np.nan])
    check(kernels.sum(np.zeros((2, 0), dtype), 1), [0, 0])


def test_a_million_small_numbers_are_not_lost(isa):
    """float32 addition one by one would stop growing at 2**24."""
    x = np.full(2**24 + 3, 1, np.float32)
    x[0] = 2**24
    check(kernels.sum(x), 2.0**25 + 2)


@covers("max", "min")
@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("shape,axis", SHAPES)
def test_max_and_min(isa, dtype, rng, shape, axis, name):
    """Ties: the first wins. NaN wins over all, the first of several."""
    x = integers(rng, shape, dtype)
    special = rng.random(shape)
    for y in (x, np.where(special < 0.1, np.nan, np.where(special < 0.5, np.inf, x)).astype(dtype)):
        values, indices = getattr(kernels, name)(y, axis)
        assert values.dtype == dtype and indices.dtype == np.int64
        check(values, getattr(np, name)(y, axis=axis))
        assert np.array_equal(indices, getattr(np, "arg" + name)(y, axis=axis))
        assert np.array_equal(getattr(kernels, "arg" + name)(y, axis), indices)
        if y.size:
            assert getattr(kernels, "arg" + name)(y) == getattr(np, "arg" + name)(y)


@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin"])
def test_the_largest_of_nothing_is_refused(name):
    with pytest.raises((ValueError, IndexError)):
        getattr(kernels, name)(np.zeros((3, 0), np.float32), 1)


@pytest.mark.parametrize("infinity", [-np.inf, np.inf])
def test_nothing_but_infinities(isa, dtype, infinity):
    x = np.full((3, 17), infinity, dtype)
    for name in ("max", "min"):
        values, indices = getattr(kernels, name)(x, 1)
        check(values, [infinity] * 3)
        assert np.array_equal(indices, [0, 0, 0])


@pytest.mark.parametrize("name", ["sum", "mean", "max", "argmax", "softmax"])
@pytest.mark.parametrize("axis", [2, -3, 10**12])
def test_axis_out_of_range(name, axis):
    with pytest.raises((ValueError, IndexError)):
        getattr(kernels, name)(np.zeros((2, 3), np.float32), axis)


@pytest.mark.parametrize("awkward", AWKWARD)
def test_awkward_operands(isa, dtype, rng, awkward):
    x = integers(rng, (3, 5, 7), dtype)
    for axis in range(3):
        check(kernels.sum(awkward(x), axis), x.sum(axis=axis))
        check(kernels.max(awkward(x), axis)[0], x.max(axis=axis))
        assert np.array_equal(kernels.max(awkward(x), axis)[1], x.argmax(axis=axis))
    check(kernels.mean(awkward(x)), math.fsum(x.ravel()) / x.size, np.finfo(dtype).eps)


# Softmax ---------------------------------------------------------------------------------------


def softmax_bound(x, axis, dtype):
    """Of log_softmax: x - m is rounded once, the sum of n terms n times at most, the log once."""
    x = x.astype(float)
    spread = np.abs(x - x.max(axis=axis, keepdims=True))
    return np.finfo(dtype).eps * (8 + spread + math.sqrt(x.shape[axis]))


@covers("softmax", "log_softmax")
@pytest.mark.parametrize("shape,axis", SHAPES)
def test_softmax(isa, dtype, rng, shape, axis):
    for scale in (1, 30):
        x = normal(rng, shape, dtype) * dtype.type(scale)
        bound = softmax_bound(x, axis, dtype)
        y = ref.softmax(x, axis)
        check(kernels.log_softmax(x, axis), ref.log_softmax(x, axis), bound)
        check(kernels.softmax(x, axis), y, bound * y + 4 * np.finfo(dtype).smallest_subnormal)


@pytest.mark.parametrize("shape", [(2, 5), (3, 200), (2, 5, 9)])
def test_softmax_backward_of_one_array_twice(isa, dtype, rng, shape):
    for name in ("softmax", "log_softmax"):
        y = getattr(kernels, name)(normal(rng, shape, dtype), 1)
        backward = getattr(kernels, name + "_backward")
        check_bits(backward(y, y, 1), backward(y.copy(), y, 1))


def test_softmax_does_not_overflow(isa, dtype):
    x = np.array([[1e4, 1e4, -1e4], [-3e4, -3e4, -3e4]], dtype)
    check(kernels.softmax(x, 1), [[0.5, 0.5, 0], [1 / 3] * 3], np.finfo(dtype).eps)
    expected = [[-math.log(2), -math.log(2), -2e4 - math.log(2)], [-math.log(3)] * 3]
    check(kernels.log_softmax(x, 1), expected, softmax_bound(x, 1, dtype))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_nan_and_inf(isa, dtype, name):
    inf, nan = np.inf, np.nan
    rows = [[1, nan, 2], [inf, 1, 2], [-inf, -inf, -inf], [1, -inf, 1], [-inf, 5, -inf]]
    x = np.array(rows, dtype)
    check(getattr(kernels, name)(x, 1), getattr(ref, name)(x, 1), 8 * np.finfo(dtype).eps)


@covers("softmax_backward", "log_softmax_backward")
@pytest.mark.parametrize("shape,axis", SHAPES)
def test_softmax_backward(isa, dtype, rng, shape, axis):
    x, dy = normal(rng, shape, dtype), normal(rng, shape, dtype)
    terms = shape[axis] + 4
    y = ref.softmax(x, axis).astype(dtype)
    size = np.abs(y) * (np.abs(dy) + np.abs(dy * y).sum(axis=axis, keepdims=True))
    expected = ref.softmax_backward(dy, y, axis)
    check(kernels.softmax_backward(dy, y, axis), expected, ref.product_bound(size, terms, dtype))
    y = ref.log_softmax(x, axis).astype(dtype)
    size = np.abs(dy) + np.exp(y) * np.abs(dy).sum(axis=axis, keepdims=True)
    expected = ref.log_softmax_backward(dy, y, axis)
    check(
        kernels.log_softmax_backward(dy, y, axis), expected, ref.product_bound(size, terms, dtype)
    )


@pytest.mark.parametrize("awkward", AWKWARD)
def test_softmax_of_awkward_operands(isa, dtype, rng, awkward):
    x, dy = normal(rng, (3, 5, 7), dtype), normal(rng, (3, 5, 7), dtype)
    for name in ("softmax", "log_softmax"):
        forward, backward = getattr(kernels, name), getattr(kernels, name + "_backward")
        y = forward(x, 1)
        check(forward(awkward(x), 1), y.astype(float))
        check(backward(awkward(dy), awkward(y), 1), backward(dy, y, 1).astype(float))
