"""Sizes: none at all, and more than there can be. Refused at once, without trying."""

import contextlib
import resource
import time

import numpy as np
import pytest
import reference as ref
from helpers import check

from fastconv import kernels

HUGE = (2**31, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 10**30)
TOO_BIG = (ValueError, MemoryError, OverflowError, TypeError)


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.fixture
def quick_and_small():
    """The test takes no time, and no memory to speak of is to be had meanwhile."""
    start, limits = time.perf_counter(), resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        in_use = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert time.perf_counter() - start < 5


def giant(*shape):
    return np.broadcast_to(np.float32(1), shape)


BIG = 2**24
GIANTS = {
    "gemm": (giant(BIG, 2), giant(2, BIG)),
    "matmul": (giant(BIG, BIG, 1), giant(1, 2)),
    "linear_forward": (giant(BIG, 1), giant(BIG, 1)),
    "linear_backward_weight": (giant(2, BIG), giant(2, BIG)),
    "im2col": (giant(2, 2, 2**30, 2**20), 2),
    "conv2d_forward": (giant(2**20, 1, 2**20, 2**10), giant(1, 1, 1, 1)),
    "conv2d_forward with many filters": (giant(1, 1, 2**12, 2**12), giant(2**40, 1, 1, 1)),
    "conv2d_backward_weight": (giant(1, BIG, 1, 1), giant(1, BIG, 1, 1), (1, 1)),
    "conv2d_forward with a 3x3 kernel": (giant(2**20, 1, 2**20, 2**10), giant(1, 1, 3, 3)),
    "conv2d_backward_weight of 3x3": (giant(1, BIG, 1, 1), giant(1, BIG, 3, 3), (3, 3)),
    "max_pool2d_forward": (giant(2**20, 2**10, 2**10, 2**10), 2),
    "max_pool2d_forward of a plane beyond int32": (giant(1, 1, 2**16, 2**16), 1, 2**15),
    "avg_pool2d_forward": (giant(2**20, 2**10, 2**10, 2**10), 2),
    "adaptive_avg_pool2d_forward": (giant(1, 1, 1, 1), 2**31 - 1),
    "batch_norm_forward": (giant(2**20, 2**10, 2**10, 2**10),),
    "dropout": (giant(2**50), np.zeros(2, np.uint64), 0.5),
    "relu": (giant(2**50),),
    "exp": (giant(BIG, BIG),),
    "add": (giant(BIG, 1), giant(1, BIG)),
    "mul": (giant(2**31, 1, 1), giant(1, 2**31, 2**10)),
    "eq": (giant(BIG, 1), giant(1, BIG)),
    "bias_add": (giant(1, 2, BIG, BIG), giant(2)),
    "softmax": (giant(BIG, BIG), 1),
    "copy": (giant(2**50),),
    "mse_loss_forward": (giant(2**50), giant(2**50)),
}


@pytest.mark.parametrize("case", GIANTS)
def test_giant_arrays(quick_and_small, case):
    with pytest.raises((ValueError, MemoryError, OverflowError)):
        getattr(kernels, case.split()[0])(*GIANTS[case])


def test_giant_where(quick_and_small):
    with pytest.raises((ValueError, MemoryError)):
        kernels.where(np.broadcast_to(True, (BIG, 1)), giant(1, BIG), 0.0)


def test_giant_filters(quick_and_small):
    with pytest.raises(TOO_BIG):
        kernels.conv2d_backward_input(giant(1, 2**30, 1, 1), giant(2**30, 2**30, 1, 1), (1, 1))


@pytest.mark.parametrize("huge", HUGE)
@pytest.mark.parametrize("name", ["kernel_size", "padding", "dilation", "output_size"])
def test_huge_geometry_is_refused(quick_and_small, huge, name):
    options = {"kernel_size": 2, "padding": 0, "dilation": 1, "output_size": 3, name: huge}
    size, k, padding = options["output_size"], options["kernel_size"], options["padding"]
    dilation = options["dilation"]
    small = ones(1, 1, 3, 3)
    w = ones(1, 1, 2, 2)
    calls = [
        lambda: kernels.im2col(small, k, padding=padding, dilation=dilation),
        lambda: kernels.max_pool2d_forward(small, k, 1, padding, dilation),
        lambda: kernels.max_pool2d_forward(small, k, 1, padding, dilation, True),
        lambda: kernels.conv2d_forward(small, w, None, 1, padding, dilation),
        lambda: kernels.conv2d_forward(small, w, None, 1, ((0, padding), (padding, 0)), dilation),
        lambda: kernels.col2im(ones(1, 4, 4), (size, size), k, padding=padding, dilation=dilation),
        lambda: kernels.conv2d_backward_input(small, w, (size, size), 1, padding, dilation),
        lambda: kernels.conv2d_backward_weight(small, small, (k, k), 1, padding, dilation),
        lambda: kernels.max_pool2d_backward(
            ones(1, 1, 1, 1), np.zeros((1, 1, 1, 1), int), (size, size)
        ),
    ]
    needs = {
        "kernel_size": (0, 1, 2, 5, 7),
        "padding": (0, 1, 2, 3, 4, 5, 6, 7),
        "dilation": (0, 1, 2, 3, 4, 5, 6, 7),
        "output_size": (5, 6, 8),
    }
    for i in needs[name]:
        with pytest.raises(TOO_BIG):
            calls[i]()


@pytest.mark.parametrize("huge", HUGE)
def test_a_huge_stride_is_a_single_window_or_refused(isa, huge):
    x, w = ones(1, 2, 3, 4), ones(5, 2, 2, 2)
    for call, expected in (
        (lambda: kernels.conv2d_forward(x, w, None, huge), np.full((1, 5, 1, 1), 8.0)),
        (lambda: kernels.max_pool2d_forward(x, 2, huge)[0], np.ones((1, 2, 1, 1))),
        (lambda: kernels.max_pool2d_forward(x, 2, huge, 1, 1, True)[0], np.ones((1, 2, 1, 1))),
        (lambda: kernels.im2col(x, 2, stride=huge), np.ones((1, 8, 1))),
        (
            lambda: kernels.conv2d_backward_input(ones(1, 5, 1, 1), w, (3, 4), huge),
            ref.conv2d_backward_input(ones(1, 5, 1, 1), w, (3, 4), 100),
        ),
        (
            lambda: kernels.conv2d_backward_weight(ones(1, 5, 1, 1), x, (2, 2), huge)[0],
            np.ones((5, 2, 2, 2)),
        ),
    ):
        try:
            y = call()
        except TOO_BIG:
            assert huge >= 2**31
        else:
            check(y, expected)


@pytest.mark.parametrize("which", ["forward", "backward_input", "backward_weight"])
def test_plans_of_giants(quick_and_small, isa, dtype, which):
    """Counted without overflow, or refused: sizes at which products of sizes pass 2**63."""
    top = 2**31 - 1
    sizes = [
        ((top, top, top, top), (top, top, 3, 3), 1),
        ((2**20, 2**20, 2**20, 2**20), (2**20, 2**20, 3, 3), 1),
        ((1, top, 5, 5), (top, top, 3, 3), 1),
        ((top, 1, top, 1), (1, 1, 3, 3), 1),
        ((1, 1, top, top), (1, 1, 3, 3), top),
        ((0, 1, top, top), (1, 1, 3, 3), top),
        ((1, 0, top, top), (1, 0, 3, 3), top),
        ((1, 1, 3, 3), (1, 1, top, top), top),
        ((2**10, 2**15, 2**15, 2**10), (2**15, 2**15, 3, 3), 1),
        ((2**29, 1, 2**14, 2**14), (2**3, 1, 3, 3), 1),
        ((2**15, 2**8, 2**10, 2**10), (2**8, 2**8, 7, 7), 3),
        ((1, 2**28, 4, 4), (2**28, 2**28, 3, 3), 1),
        ((1, 2**26, 4, 4), (2**26, 2**26, 3, 3), 1),
    ]
    counted = 0
    for x, w, padding in sizes:
        for algorithm in kernels.ALGORITHMS:
            try:
                plan = kernels.conv2d_plan(
                    x, w, 1, padding, which=which, dtype=dtype, algorithm=algorithm
                )
            except ValueError:
                continue
            counted += 1
            assert plan.workspace >= 0 and all(count >= 0 for count in plan.cycles.values()), x
    assert counted > 4
    for huge in HUGE:
        for place in range(4):
            x, w = [2, 3, 5, 6], [4, 3, 3, 3]
            x[place] = huge
            with pytest.raises(TOO_BIG):
                kernels.conv2d_plan(x, (4, 3, 3, 3), which=which, dtype=dtype)
            w[place] = huge
            with contextlib.suppress(*TOO_BIG):  # many filters may be many
                kernels.conv2d_plan((2, 3, 5, 6), w, which=which, dtype=dtype)


def test_giant_prepared_weights(quick_and_small):
    with pytest.raises(TOO_BIG):
        kernels.conv2d_prepare(giant(BIG, BIG, 3, 3), (1, BIG, 5, 5))
    with pytest.raises(TOO_BIG):
        kernels.conv2d_prepare(ones(2, 2, 3, 3), (2**30, 2, 2**30, 2**30), algorithm="winograd")
    x, w = giant(2**20, 1, 2**20, 2**10), ones(2**10, 1, 3, 3)
    prepared = kernels.conv2d_prepare(w, x.shape, algorithm="winograd")
    with pytest.raises(TOO_BIG):
        kernels.conv2d_forward(x, prepared)


def test_huge_geometry_over_an_empty_batch(quick_and_small):
    for call in (
        lambda: kernels.conv2d_forward(ones(0, 1, 3, 3), ones(1, 1, 2, 2), None, 1, 2**62),
        lambda: kernels.im2col(ones(0, 1, 3, 3), 2, padding=2**40),
        lambda: kernels.col2im(ones(0, 4, 4), (2**40, 2**40), 2),
        lambda: kernels.max_pool2d_backward(
            ones(0, 1, 1, 1), np.zeros((0, 1, 1, 1), np.int32), (2**62, 2**62)
        ),
    ):
        with contextlib.suppress(*TOO_BIG):
            assert call().size == 0


@pytest.mark.parametrize("shape", [(0, 4, 5, 6), (2, 0, 5, 6), (0, 0, 5, 6)])
def test_nothing_in_the_batch_or_no_channels(isa, dtype, shape):
    """Allowed everywhere: y is empty, or the bias alone; gradients are zero."""
    x, w, b = np.ones(shape, dtype), np.ones((3, shape[1], 2, 2), dtype), np.ones(3, dtype)
    y = kernels.conv2d_forward(x, w, b)
    check(y, np.ones((shape[0], 3, 4, 5)))
    check(kernels.conv2d_backward_input(y, w, (5, 6)), np.zeros(shape) + 3)
    dw, db = kernels.conv2d_backward_weight(y, x, (2, 2))
    check(dw, np.zeros(w.shape))
    check(db, np.full(3, 20.0 * shape[0]))
    y, indices = kernels.max_pool2d_forward(x, 2)
    assert y.shape == indices.shape == (*shape[:2], 2, 3)
    check(kernels.max_pool2d_backward(y, indices, (5, 6)), np.zeros(shape))
    cols = kernels.im2col(x, 2)
    assert cols.shape == (shape[0], 4 * shape[1], 20)
    if shape[1]:
        check(kernels.col2im(cols, (5, 6), 2), np.zeros(shape))


@pytest.mark.parametrize("channels, filters, groups", [(1, 6, 1), (8, 8, 8), (40, 40, 1)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_weight_gradients_of_an_empty_batch_of_large_images(
    isa, dtype, channels, filters, groups, kernel
):
    """Zeros are written, whatever lay in the memory before."""
    size = 32
    x = np.ones((0, channels, size, size), dtype)
    dy = np.ones((0, filters, size - kernel + 1, size - kernel + 1), dtype)
    w = np.ones((filters, channels // groups, kernel, kernel), dtype)
    for algorithm in ("auto", "gemm", "winograd", "direct", "depthwise"):
        used = [np.full_like(w, 7) for _ in range(8)]
        del used  # such memory is what the next array gets
        with contextlib.suppress(ValueError):  # not every algorithm can do every convolution
            dw, db = kernels.conv2d_backward_weight(
                dy, x, kernel, groups=groups, algorithm=algorithm
            )
            check(dw, np.zeros(w.shape))
            check(db, np.zeros(filters))


@pytest.mark.parametrize("far", [1000, 2**31 - 1])
def test_far_padding_and_dilation_that_leave_one_tap(quick_and_small, isa, dtype, far):
    """3 x 3 with dilation and padding `far`: all taps but the middle one lie outside the input."""
    x, w, dy = np.arange(12.0).reshape(1, 1, 3, 4), np.arange(1.0, 10).reshape(1, 1, 3, 3), 2.0
    x, w = x.astype(dtype), w.astype(dtype)
    dy = np.full((1, 1, 3, 4), dy, dtype)
    args = 1, far, far
    check(kernels.conv2d_forward(x, w, None, *args), 5.0 * x)
    check(kernels.conv2d_backward_input(dy, w, (3, 4), *args), np.full(x.shape, 10.0))
    dw, _ = kernels.conv2d_backward_weight(dy, x, (3, 3), *args)
    expected = np.zeros((1, 1, 3, 3))
    expected[0, 0, 1, 1] = 2.0 * x.sum()
    check(dw, expected)
    cols = kernels.im2col(x, 3, padding=far, dilation=far)
    expected = np.zeros((1, 9, 12))
    expected[0, 4] = x.ravel()
    check(cols, expected)
    check(kernels.col2im(cols, (3, 4), 3, padding=far, dilation=far), x)


@pytest.mark.parametrize("far", [1000, 2**31 - 1])
def test_far_padding_and_stride_that_leave_one_window(quick_and_small, isa, dtype, far):
    x, w = np.ones((1, 1, 3, 4), dtype), np.ones((1, 1, 2, 2), dtype)
    expected = np.zeros((1, 1, 3, 3))
    expected[0, 0, 1, 1] = 4
    y = kernels.conv2d_forward(x, w, None, far, far)
    check(y, expected)
    dx = np.zeros((1, 1, 3, 4))
    dx[0, 0, :2, :2] = 4
    check(kernels.conv2d_backward_input(y, w, (3, 4), far, far), dx)
    check(kernels.conv2d_backward_weight(y, x, 2, far, far)[0], np.full((1, 1, 2, 2), 4.0))
