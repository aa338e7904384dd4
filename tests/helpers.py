"""What the tests share besides fixtures: comparison, guard bands, awkward arrays, coverage."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from fastconv import kernels

GUARD = 67  # elements of sentinel on each side: odd, so that `out` is not aligned to a vector
SENTINEL = 1.2345e30

COVERED = {}  # name of a kernel -> names of the tests that compare it with the oracle


def covers(*names):
    """Marks a test as one that meets the oracle for these kernels of src/kernels.def."""

    def mark(test):
        for name in names:
            COVERED.setdefault(name, []).append(test.__name__)
        return test

    return mark


def check(actual, expected, bound=0.0, label=""):
    """|actual - expected| <= bound, with the same NaNs and infinities; bound 0 asks for equality.

    `expected` is float64, and so is the difference: the float32 result is widened, not the other
    way round. With bound 0 it is rounded first, which changes nothing where it was exact.
    """
    expected = np.asarray(expected, float)
    assert isinstance(actual, np.ndarray), f"{label}: {type(actual)}"
    assert actual.shape == expected.shape, f"{label}: shape {actual.shape} != {expected.shape}"
    bound = np.broadcast_to(np.asarray(bound, float), expected.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = np.where(bound > 0, expected, expected.astype(actual.dtype))
        close = np.abs(actual - expected) <= bound
    equal = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    wrong = np.argwhere(~(close | equal))
    if len(wrong):
        place = tuple(int(i) for i in wrong[0])
        raise AssertionError(
            f"{label}: {len(wrong)} of {expected.size} wrong, first at {place}: "
            f"{actual[place]!r} != {expected[place]!r} +- {bound[place]:.3g}"
        )


def check_bits(actual, expected):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()


@contextlib.contextmanager
def guarded(shape, dtype):
    """An array of NaN in the middle of a buffer of sentinels, which must be there afterwards."""
    size = int(np.prod(shape))
    buffer = np.full(size + 2 * GUARD, SENTINEL, dtype)
    sentinel = buffer[0]
    out = buffer[GUARD : GUARD + size].reshape(shape)
    out[...] = np.nan
    yield out
    assert (buffer[:GUARD] == sentinel).all(), "written before the start of out"
    assert (buffer[GUARD + size :] == sentinel).all(), "written past the end of out"


def normal(rng, shape, dtype):
    return np.asarray(rng.standard_normal(shape), dtype)


def integers(rng, shape, dtype, largest=3):
    """Small whole numbers: their products and sums are exact, whatever the order."""
    return np.asarray(rng.integers(-largest, largest + 1, shape), dtype)


def distinct(rng, shape, dtype):
    """No two elements equal."""
    size = int(np.prod(shape))
    return (rng.permutation(size) - size / 2).reshape(shape).astype(dtype)


def numeric_slope(f, x, direction, h=1e-6):
    """The derivative of f at x along a direction, by central difference."""
    return (f(x + h * direction) - f(x - h * direction)) / (2 * h)


def run_python(*arguments, **environment):
    """A Python of its own, with our settings in the environment instead of the caller's."""
    package = Path(kernels.__file__).parents[1]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FASTCONV_", "OMP_"))}
    paths = os.pathsep.join((str(package), str(Path(__file__).parent)))
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**kept, "PYTHONPATH": paths, **environment},
    )


# Arrays equal to their argument, each hard to read in its own way -------------------------------


def strided(a):
    wide = np.full([2 * n for n in a.shape], SENTINEL if a.dtype.kind == "f" else 77).astype(
        a.dtype
    )
    view = wide[(..., *(slice(None, None, 2) for _ in a.shape))]
    view[...] = a
    return view


def reversed_(a):
    flip = (..., *(slice(None, None, -1) for _ in a.shape))
    return a[flip].copy()[flip]


def fortran(a):
    return np.array(a, order="F")


def channels_last(a):
    """NCHW shape over NHWC memory (the last axis first, for other ranks)."""
    if a.ndim < 2:
        return a
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def byte_swapped(a):
    return a.astype(a.dtype.newbyteorder())


def unaligned(a):
    memory = np.zeros(a.nbytes + 1, np.uint8)
    view = memory[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


AWKWARD = (strided, reversed_, fortran, channels_last, read_only, byte_swapped, unaligned)
