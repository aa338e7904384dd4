"""The door's arrays begin on a cache line, whoever asked for them, and are NumPy's in all else."""

import copy
import gc
import tracemalloc

import numpy as np
import pytest
from example_calls import NAMES, example
from twins import bits, training_step

import fastconv
from fastconv import kernels, nn, optim
from fastconv.io import load, save
from fastconv.models import Net

LINE, KILOBYTE = 64, 1024


def is_aligned(array):
    return array.nbytes < KILOBYTE or array.ctypes.data % LINE == 0


def held(net, optimizer):
    """All arrays of a net, its gradients and the optimizer."""
    for tensor in net.state_dict().values():
        yield tensor._array
    for parameter in net.parameters():
        yield parameter.grad._array
        for value in optimizer.state[parameter].values():
            if isinstance(value, fastconv.Tensor):
                yield value._array


@pytest.mark.parametrize("name", NAMES)
def test_results(name, dtype):
    """Of each kernel; also while a recording is open, which sees the array."""
    call = example(name, dtype, size=20)
    kept = [call() for _ in range(3)]
    assert all(is_aligned(y) and y.flags.owndata for results in kept for y in results)
    with kernels.Recording() as recording:
        kept = [call() for _ in range(3)]
    assert recording.refusal is None
    assert all(is_aligned(y) for results in kept for y in results)


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam])
@pytest.mark.parametrize("compiled", [False, True])
def test_what_training_holds(rng, make, compiled, tmp_path):
    net, criterion = Net(), nn.CrossEntropyLoss()
    options = {"momentum": 0.9} if make is optim.SGD else {}
    optimizer = make(net.parameters(), lr=0.01, **options)

    step = training_step(net, optimizer, criterion)
    run = fastconv.compile(step) if compiled else step
    x = fastconv.from_numpy(rng.standard_normal((8, 1, 32, 32), np.float32))
    for _ in range(3):
        run(x, fastconv.from_numpy(rng.integers(0, 10, 8)))
    assert all(map(is_aligned, held(net, optimizer)))
    save(net.state_dict(), tmp_path / "net.safetensors")
    assert all(is_aligned(t._array) for t in load(tmp_path / "net.safetensors").values())
    optimizer.load_state_dict(optimizer.state_dict())
    assert all(map(is_aligned, held(net, optimizer)))
    assert all(is_aligned(p._array) for p in copy.deepcopy(net).parameters())


def test_results_of_a_compiled_function(rng):
    run = fastconv.compile(lambda x: x * 2 + 1)
    x = fastconv.from_numpy(rng.standard_normal(1000, np.float32))
    kept = [run(x) for _ in range(5)]
    assert all(is_aligned(y._array) for y in kept)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "i4", "u1", "?"])
def test_tensors_that_are_made(dtype):
    odd = np.zeros(4001, dtype)[1:]
    made = [
        fastconv.tensor(odd),
        fastconv.zeros(999, dtype=dtype),
        fastconv.empty(9, 300, dtype=dtype),
    ]
    made += [copy.deepcopy(fastconv.from_numpy(odd)), fastconv.from_numpy(odd).clone()]
    assert all(is_aligned(t._array) for t in made)
    assert all(t.dtype == np.dtype(dtype) for t in made)


def test_a_copy_of_any_array(rng):
    x = rng.standard_normal((30, 40)).astype(">f4")
    for array in (x, x.T, x[::-2, 3:], x.astype(np.float32)):
        for dtype in (None, np.float32, np.float64, np.int64):
            y = kernels.new_copy(array, dtype)
            assert is_aligned(y) and y.flags.c_contiguous and y.dtype.isnative
            assert np.array_equal(y, array.astype(dtype or np.float32))


def test_an_array_can_be_resized(rng):
    """NumPy's realloc meets our memory: the numbers stay, and the line."""
    for sizes in ([300, 5000, 10, 100_000, 3_000_000, 1, 0, 700], rng.integers(0, 50_000, 60)):
        y = kernels.empty_array((400,), np.float32)
        y[...] = np.arange(400)
        expected = np.arange(400, dtype=np.float32)
        for n in map(int, sizes):
            y.resize(n, refcheck=False)
            kept = min(n, len(expected))
            assert y.ctypes.data % LINE == 0 and np.array_equal(y[:kept], expected[:kept])
            assert not y[kept:].any()
            y[...] = expected = np.arange(n, dtype=np.float32)
    y.resize(0, refcheck=False)


@pytest.mark.parametrize("shape", [(-1,), (2**40, 2**40), (2**62,), (3, -5, 1000)])
def test_sizes_that_no_array_has(shape):
    with pytest.raises((ValueError, MemoryError)):
        kernels.empty_array(shape, np.float32)


def test_memory_is_traced_and_given_back():
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    y = kernels.empty_array((1_000_000,), np.float64)
    assert tracemalloc.get_traced_memory()[0] - before > 7_900_000
    view = y[5:]
    del y
    assert tracemalloc.get_traced_memory()[0] - before > 7_900_000
    del view
    gc.collect()
    assert tracemalloc.get_traced_memory()[0] - before < 100_000
    tracemalloc.stop()


def test_an_array_outlives_a_recording(rng):
    """Freed by the handler that made it, before and after; resized too."""
    x = rng.standard_normal(5000).astype(np.float32)
    with kernels.Recording():
        kept, freed = kernels.relu(x), kernels.exp(x)
        del freed
        small = np.zeros(3)
        small.resize(1000, refcheck=False)
    assert not small.any()
    y = kernels.copy(kept)
    kept.resize(9000, refcheck=False)
    assert bits(fastconv.from_numpy(kept[:5000])) == bits(fastconv.from_numpy(y))
