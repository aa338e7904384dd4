"""Lanes that nobody asked for multiply no subnormal numbers.

The last vectors of a row are whole: beside the columns that are there, a kernel multiplies what its
workspace happens to hold. Were those subnormal numbers, some processors would take a hundred times
as long. So workspaces are filled with them here, and x86 processors tell whether any was used.
"""

import ctypes
import platform
import sys

import numpy as np
import pytest

from fastconv import kernels

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not sys.platform.startswith("linux"),
    reason="reads the status of x86 processors, as glibc keeps it",
)
USED = 2  # bit of MXCSR: an operand was subnormal
MXCSR, WORDS = 7, 8  # of fenv_t, in words


@pytest.fixture(autouse=True)
def one_thread():
    """The caller's, whose status is read."""
    before = kernels.get_num_threads()
    kernels.set_num_threads(1)
    yield
    kernels.set_num_threads(before)


def uses_subnormal(call):
    libm, state = ctypes.CDLL("libm.so.6"), (ctypes.c_uint32 * WORDS)()
    libm.fegetenv(state)
    state[MXCSR] &= ~USED
    libm.fesetenv(state)
    call()
    libm.fegetenv(state)
    return bool(state[MXCSR] & USED)


def array(dtype, *shape):
    rng = np.random.default_rng(0)
    return (rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)).astype(dtype)


def fill_workspaces(dtype):
    tiny = np.full((300, 300), np.finfo(dtype).smallest_subnormal * 9)
    kernels.gemm(tiny, tiny)
    kernels.gemm(np.asfortranarray(tiny), np.asfortranarray(tiny))
    image, filters = np.full((1, 32, 24, 24), tiny[0, 0]), np.full((9, 32, 3, 3), tiny[0, 0])
    kernels.conv2d_forward(image, filters, algorithm="gemm")


def test_it_is_told(isa, dtype):
    tiny = np.full((20, 20), np.finfo(dtype).smallest_subnormal * 9)
    assert uses_subnormal(lambda: kernels.gemm(tiny, tiny))


@pytest.mark.parametrize("order", ["nn", "tn", "nt"])
def test_gemm(isa, dtype, order):
    for m in (1, 3, 15, 100):
        for n in (1, 7, 17, 49, 196):
            for k in (3, 300):
                a, b = array(dtype, m, k), array(dtype, k, n)
                a = np.asfortranarray(a) if order == "tn" else a
                b = np.asfortranarray(b) if order == "nt" else b
                fill_workspaces(dtype)
                assert not uses_subnormal(lambda a=a, b=b: kernels.gemm(a, b)), (m, n, k)


CONVOLUTIONS = [  # N, C, K, H, kernel, stride, padding, dilation, groups
    (1, 3, 8, 20, 3, 1, 1, 1, 1),
    (2, 17, 33, 19, 3, 1, 1, 1, 1),
    (1, 40, 20, 15, 3, 2, 1, 1, 1),
    (2, 5, 7, 13, 5, 1, 2, 1, 1),
    (1, 20, 30, 7, 1, 1, 0, 1, 1),
    (3, 70, 50, 9, 1, 1, 0, 1, 1),
    (1, 200, 100, 5, 3, 1, 1, 1, 1),
    (2, 12, 12, 15, 3, 1, 1, 1, 12),
    (2, 16, 24, 11, 3, 1, 1, 1, 4),
    (1, 8, 9, 17, 3, 1, 2, 2, 1),
    (2, 9, 11, 10, 4, 2, 1, 1, 1),
    (8, 1, 6, 32, 3, 1, 0, 1, 1),
]


def three_passes(dtype, algorithm, N, C, K, H, R, *options):
    stride, padding, dilation, groups = options
    x, w = array(dtype, N, C, H, H), array(dtype, K, C // groups, R, R)
    P = (H + 2 * padding - dilation * (R - 1) - 1) // stride + 1
    dy = array(dtype, N, K, P, P)
    yield lambda: kernels.conv2d_forward(x, w, None, *options, algorithm=algorithm)
    yield lambda: kernels.conv2d_backward_input(dy, w, x.shape, *options, algorithm=algorithm)
    yield lambda: kernels.conv2d_backward_weight(dy, x, (R, R), *options, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", kernels.ALGORITHMS[1:])
def test_convolutions(isa, dtype, algorithm):
    done = 0
    for case in CONVOLUTIONS:
        for call in three_passes(dtype, algorithm, *case):
            fill_workspaces(dtype)
            try:
                assert not uses_subnormal(call), case
                done += 1
            except ValueError:  # not this algorithm's
                pass
    assert done
