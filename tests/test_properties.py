"""Random configurations against the oracle; and every small one along a single axis."""

import itertools

import numpy as np
import pytest
import reference as ref
from helpers import check, integers
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv import kernels

often = settings(deadline=None, derandomize=True, max_examples=120, database=None)
small, size = st.integers(1, 3), st.integers(1, 7)
padding_side = st.integers(0, 3)
dtypes = st.sampled_from(["float32", "float64"])


@pytest.fixture(scope="module", params=kernels.available_isas(), autouse=True)
def isa_of_module(request):
    """As the fixture `isa`, set once: hypothesis runs a test many times within one."""
    before = kernels.isa()
    kernels.set_isa(request.param)
    yield
    kernels.set_isa(before)


@st.composite
def convolutions(draw):
    groups, pair = draw(small), st.tuples(small, small)
    channels, filters = groups * draw(small), groups * draw(small)
    kernel, stride, dilation = draw(pair), draw(pair), draw(pair)
    sides = st.tuples(padding_side, padding_side)
    padding = draw(st.one_of(padding_side, sides, st.tuples(sides, sides), st.just("same")))
    if padding == "same":
        stride = 1
    borders = ref.borders(padding, kernel, dilation)
    smallest = [
        max(1, d * (r - 1) + 1 - sum(b)) for d, r, b in zip(dilation, kernel, borders, strict=True)
    ]
    H, W = (low + draw(size) - 1 for low in smallest)
    return (draw(small), channels, H, W), filters, kernel, (stride, padding, dilation, groups)


def same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        check(a, e)


@often
@given(convolutions(), dtypes)
def test_convolution(configuration, dtype):
    shape, filters, kernel, args = configuration
    rng = np.random.default_rng(shape[2] * 100 + filters)
    x = integers(rng, shape, dtype)
    w, b = (
        integers(rng, (filters, shape[1] // args[3], *kernel), dtype),
        integers(rng, filters, dtype),
    )
    y = kernels.conv2d_forward(x, w, b, *args)
    check(y, ref.conv2d_forward(x, w, b, *args))
    dy = integers(rng, y.shape, dtype)
    dx = kernels.conv2d_backward_input(dy, w, shape, *args)
    check(dx, ref.conv2d_backward_input(dy, w, shape[2:], *args))
    same(
        kernels.conv2d_backward_weight(dy, x, kernel, *args),
        ref.conv2d_backward_weight(dy, x, kernel, *args),
    )
    options = dict(zip(("stride", "padding", "dilation"), args, strict=False))
    cols = kernels.im2col(x, kernel, **options)
    check(cols, ref.im2col(x, kernel, **options))
    folded = kernels.col2im(cols, shape[2:], kernel, **options)
    check(folded, ref.col2im(cols, shape[2:], kernel, **options))


@st.composite
def pools(draw):
    kernel, dilation = (draw(st.tuples(small, small)) for _ in range(2))
    stride = draw(st.one_of(st.none(), st.integers(1, 4), st.tuples(small, small)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    smallest = [
        max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)
    ]
    H, W = (low + draw(size) - 1 for low in smallest)
    ceil_mode = draw(st.booleans())
    return (draw(small), draw(small), H, W), (kernel, stride, padding, dilation, ceil_mode)


@often
@given(pools(), dtypes, st.sampled_from([(), (np.nan,), (-np.inf,), (np.nan, np.inf, -np.inf)]))
def test_max_pool2d(configuration, dtype, specials):
    shape, args = configuration
    rng = np.random.default_rng(shape[2] * 100 + shape[3])
    x = integers(rng, shape, dtype)
    for special in specials:
        x[rng.random(shape) < 0.3] = special
    y, indices = kernels.max_pool2d_forward(x, *args)
    expected, expected_indices = ref.max_pool2d_forward(x, *args)
    check(y, expected)
    assert np.array_equal(indices, expected_indices)
    dy = integers(rng, y.shape, dtype)
    dx = kernels.max_pool2d_backward(dy, indices, shape)
    check(dx, ref.max_pool2d_backward(dy, indices, shape[2:]))


@often
@given(st.tuples(st.integers(2, 5), st.integers(1, 300), *[size] * 2), dtypes)
def test_batch_norm(shape, dtype):
    """y has mean 0 and variance 1; dx is orthogonal to 1 and to y, as moving along them does not change y."""
    rng = np.random.default_rng(shape[1] * 100 + shape[3])
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    n = x.size // x.shape[1]
    x[0] += 1
    y, *saved = kernels.batch_norm_forward(x, eps=0.0)
    dx, dw, db = kernels.batch_norm_backward(dy, x, None, *saved)
    # the mean's own rounding is seen through 1 / std in xhat, and once more in dx
    bound = 64 * n * np.finfo(dtype).eps * (1 + saved[1]) ** 2
    for a, b, expected in ((y, 1, 0), (y, y, n), (dx, 1, 0), (dx, y, 0), (dy, y, dw), (dy, 1, db)):
        sums = (a.astype(float) * b).sum((0, 2, 3))
        assert (abs(sums - expected) <= bound).all()


@often
@given(st.data(), dtypes)
def test_gemm(data, dtype):
    m, n, k = (data.draw(st.integers(0, 40)) for _ in range(3))
    alpha, beta = (data.draw(st.sampled_from([0, 1, -1, 2])) for _ in range(2))
    transpose_a, transpose_b = data.draw(st.booleans()), data.draw(st.booleans())
    rng = np.random.default_rng(m * 10000 + n * 100 + k)
    a, b, c = (integers(rng, shape, dtype) for shape in ((m, k), (k, n), (m, n)))
    y = kernels.gemm(
        a.T if transpose_a else a,
        b.T if transpose_b else b,
        c,
        alpha=alpha,
        beta=beta,
        transpose_a=transpose_a,
        transpose_b=transpose_b,
    )
    check(y, alpha * (a.astype(float) @ b.astype(float)) + beta * c.astype(float))


@often
@given(st.data(), dtypes)
def test_broadcasting(data, dtype):
    """Axes of length 1 and missing axes, on either side."""
    full = data.draw(st.lists(st.integers(0, 4), max_size=5))
    rng = np.random.default_rng(len(full))

    def operand():
        kept = [n if data.draw(st.booleans()) else 1 for n in full]
        shape = tuple(kept[data.draw(st.integers(0, len(kept))) :])
        return integers(rng, shape, dtype)

    a, b = operand(), operand()
    check(kernels.sub(a, b), a.astype(float) - b.astype(float))
    assert np.array_equal(kernels.lt(a, b), a < b)
    condition = np.asarray(operand() > 0)
    check(kernels.where(condition, a, b), np.where(condition, a, b))


def test_every_phase_of_stride_and_dilation():
    """One axis, all strides, dilations, kernels and paddings up to 4: the three passes."""
    rng = np.random.default_rng(1)
    for stride, dilation, S, padding in itertools.product(range(1, 5), repeat=4):
        for W in (5, 12):
            args = ((1, stride), (0, padding - 1), (1, dilation), 1)
            if W + 2 * (padding - 1) < dilation * (S - 1) + 1:
                continue
            x, w = integers(rng, (1, 1, 1, W), "float32"), integers(rng, (1, 1, 1, S), "float32")
            y = kernels.conv2d_forward(x, w, None, *args)
            check(y, ref.conv2d_forward(x, w, None, *args), label=(args, W, S))
            dy = integers(rng, y.shape, "float32")
            dx = kernels.conv2d_backward_input(dy, w, (1, W), *args)
            check(dx, ref.conv2d_backward_input(dy, w, (1, W), *args), label=(args, W, S))
            dw, _ = kernels.conv2d_backward_weight(dy, x, (1, S), *args)
            check(dw, ref.conv2d_backward_weight(dy, x, (1, S), *args)[0], label=(args, W, S))
