import numpy as np
import pytest

from fastconv import kernels
from fastconv.compiler import compiled


@pytest.fixture(params=kernels.available_isas())
def isa(request):
    """Each instruction set that this machine has, in turn."""
    before = kernels.isa()
    kernels.set_isa(request.param)
    yield request.param
    kernels.set_isa(before)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


@pytest.fixture
def threads():
    """set_num_threads, undone afterwards."""
    before = kernels.get_num_threads()
    yield kernels.set_num_threads
    kernels.set_num_threads(before)


@pytest.fixture
def recordings(monkeypatch):
    """A list that gets an entry for each call that is recorded."""
    made = []
    original = compiled.trace

    def trace(*args):
        made.append(args)
        return original(*args)

    monkeypatch.setattr(compiled, "trace", trace)
    return made
