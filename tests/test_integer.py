"""kernels.integer: labels, masks and counts, which never meet the kernels in C."""

import numpy as np
import pytest

from fastconv import kernels


@pytest.mark.parametrize("name", ["add", "subtract", "floor_divide", "equal", "less", "maximum"])
def test_binary(name, rng):
    a, b = rng.integers(1, 9, (3, 5)), rng.integers(1, 9, 5)
    assert np.array_equal(kernels.integer(name, a, b), getattr(np, name)(a, b))


@pytest.mark.parametrize("name", ["sum", "max", "argmax", "all", "any"])
def test_reductions(name, rng):
    a = rng.integers(0, 9, (3, 5))
    for axis in (None, 0, 1):
        assert np.array_equal(kernels.integer(name, a, axis=axis), getattr(np, name)(a, axis=axis))


@pytest.mark.parametrize("name", ["exp", "system", "load", "fromfile", "", None])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError):
        kernels.integer(name, np.ones(3, int))
