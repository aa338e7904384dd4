"""Lanes that nobody asked for multiply no subnormal numbers.

The last vectors of a row are whole: beside the columns that are there, a kernel multiplies what its
workspace happens to hold. Were those subnormal numbers, some processors would take a hundred times
as long. So workspaces are filled with them here, and x86 processors tell whether any was used.
"""

import ctypes
import functools
import platform
import sys

import numpy as np
import pytest
from test_algorithms import PASSES, algorithms, label, operands, run
from test_conv2d import Case

from fastconv import kernels

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not sys.platform.startswith("linux"),
    reason="reads the status of x86 processors, as glibc keeps it",
)
USED = 2  # bit of MXCSR: an operand was subnormal
MXCSR, WORDS = 7, 8  # of fenv_t, in words


@pytest.fixture(autouse=True)
def one_thread(threads):
    """The caller's, whose status is read."""
    threads(1)


def uses_subnormal(call):
    libm, state = ctypes.CDLL("libm.so.6"), (ctypes.c_uint32 * WORDS)()
    libm.fegetenv(state)
    state[MXCSR] &= ~USED
    libm.fesetenv(state)
    call()
    libm.fegetenv(state)
    return bool(state[MXCSR] & USED)


def large(rng, shape, dtype):
    """Numbers whose products and sums are not subnormal."""
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
def test_gemm(isa, dtype, rng, order):
    for m in (1, 3, 15, 100):
        for n in (1, 7, 17, 49, 196):
            for k in (3, 300):
                a, b = large(rng, (m, k), dtype), large(rng, (k, n), dtype)
                a = np.asfortranarray(a) if order == "tn" else a
                b = np.asfortranarray(b) if order == "nt" else b
                fill_workspaces(dtype)
                assert not uses_subnormal(lambda a=a, b=b: kernels.gemm(a, b)), (m, n, k)


CASES = [
    Case((1, 3, 20, 20), 8, (3, 3), padding=1),
    Case((2, 17, 19, 19), 33, (3, 3), padding=1),
    Case((1, 40, 15, 15), 20, (3, 3), stride=2, padding=1),
    Case((2, 5, 13, 13), 7, (5, 5), padding=2),
    Case((1, 20, 7, 7), 30, (1, 1)),
    Case((3, 70, 9, 9), 50, (1, 1)),
    Case((1, 200, 5, 5), 100, (3, 3), padding=1),
    Case((2, 12, 15, 15), 12, (3, 3), padding=1, groups=12),
    Case((2, 16, 11, 11), 24, (3, 3), padding=1, groups=4),
    Case((1, 8, 17, 17), 9, (3, 3), padding=2, dilation=2),
    Case((2, 9, 10, 10), 11, (4, 4), stride=2, padding=1),
    Case((8, 1, 32, 32), 6, (3, 3)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolutions(isa, dtype, rng, case):
    arrays = case.arrays(rng, dtype, large)
    for which in PASSES:
        given = operands(case, which, *arrays)
        for name in algorithms(case, which, dtype):
            fill_workspaces(dtype)
            call = functools.partial(run, case, which, given, name)
            assert not uses_subnormal(call), label(case, which, name)


def test_the_cases_meet_each_algorithm(isa, dtype):
    met = {name for case in CASES for which in PASSES for name in algorithms(case, which, dtype)}
    assert met == set(kernels.ALGORITHMS[1:])
