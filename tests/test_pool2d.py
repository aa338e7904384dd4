import itertools

import numpy as np
import pytest
import reference as ref
from helpers import AWKWARD, check, covers, distinct, guarded, integers, numeric_slope

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
