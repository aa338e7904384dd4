"""Tensors made from data, constants and random numbers."""

import numbers

import numpy as np

from fastconv import kernels, random
from fastconv.autograd import Tensor
from fastconv.ops.common import is_number

_DEFAULTS = {"f": np.dtype(np.float32), "i": np.dtype(np.int64), "u": np.dtype(np.int64)}


def tensor(data, dtype=None, requires_grad=False, device=None):
    """A Tensor with a copy of `data`: numbers, nested lists, an array, or a Tensor.

    Python floats become float32, ints int64; arrays keep their dtype.
    """
    if isinstance(data, Tensor):
        data = data._array
    if isinstance(data, np.ndarray | np.generic):
        array = kernels.new_copy(data, dtype)
    else:
        data = _plain(data)
        try:
            array = np.array(data)
        except ValueError:
            raise ValueError("nested lists must have equal lengths at each depth") from None
        if array.dtype.kind not in "fiub":
            raise TypeError(f"fastconv.tensor takes numbers, got {array.dtype}")
        array = kernels.new_copy(
            array,
            dtype or (_DEFAULTS.get(array.dtype.kind, array.dtype) if array.size else np.float32),
        )
    return Tensor(array, requires_grad)


def _plain(data):
    """Lists whose innermost items may be Tensors of one element, as lists of numbers."""
    if isinstance(data, list | tuple):
        return [_plain(item) for item in data]
    return data.tolist() if isinstance(data, Tensor) else data


def from_numpy(array):
    """A Tensor that shares the array's memory."""
    return Tensor(array)


def as_tensor(data, dtype=None, device=None):
    """A Tensor that shares memory with data where it can."""
    if isinstance(data, Tensor) and dtype in (None, data.dtype):
        return data
    if isinstance(data, np.ndarray) and dtype in (None, data.dtype):
        return Tensor(data)
    return tensor(data, dtype)


def _shape(sizes):
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = sizes[0]
    for s in sizes:
        if not hasattr(s, "__index__"):
            raise TypeError(f"sizes must be ints, got {type(s).__name__}")
        if s.__index__() < 0:
            raise RuntimeError(f"sizes must not be negative, got {tuple(sizes)}")
    return tuple(s.__index__() for s in sizes)


def _filled(shape, value, dtype, requires_grad):
    dtype = np.dtype(dtype or np.float32)
    array = kernels.empty_array(shape, dtype)
    if dtype.kind == "f":
        kernels.fill(array, value)
    else:
        array[...] = value
    return Tensor(array, requires_grad)


def zeros(*shape, size=(), dtype=None, requires_grad=False, device=None):
    """Zeros of a shape: zeros(2, 3) or zeros((2, 3))."""
    return _filled(_shape(shape or size), 0, dtype, requires_grad)


def ones(*shape, size=(), dtype=None, requires_grad=False, device=None):
    """Ones of a shape."""
    return _filled(_shape(shape or size), 1, dtype, requires_grad)


def full(size, fill_value, dtype=None, requires_grad=False, device=None):
    """One number, repeated."""
    if not is_number(fill_value):
        raise TypeError(f"fill_value must be a number, got {type(fill_value).__name__}")
    if dtype is None:
        whole = isinstance(fill_value, numbers.Integral)
        dtype = np.bool_ if isinstance(fill_value, bool) else np.int64 if whole else np.float32
    return _filled(_shape((size,)), fill_value, dtype, requires_grad)


def empty(*size, dtype=None, requires_grad=False, device=None):
    """A shape whose elements are whatever the memory held."""
    return Tensor(
        kernels.empty_array(_shape(size), dtype or np.float32, for_kernels=False), requires_grad
    )


def zeros_like(input, dtype=None, requires_grad=False):
    return _filled(input._array.shape, 0, dtype or input.dtype, requires_grad)


def ones_like(input, dtype=None, requires_grad=False):
    return _filled(input._array.shape, 1, dtype or input.dtype, requires_grad)


def full_like(input, fill_value, dtype=None, requires_grad=False):
    return _filled(input._array.shape, fill_value, dtype or input.dtype, requires_grad)


def empty_like(input, dtype=None, requires_grad=False):
    return Tensor(
        kernels.empty_array(input._array.shape, dtype or input.dtype, for_kernels=False),
        requires_grad,
    )


def arange(start, end=None, step=1, dtype=None, requires_grad=False, device=None):
    """start, start + step, ... below end; arange(n) counts from 0."""
    start, end = (0, start) if end is None else (start, end)
    if step == 0 or (end - start) * step < 0:
        raise RuntimeError(
            f"arange from {start} to {end} in steps of {step}: bounds and step disagree"
        )
    array = np.arange(start, end, step)
    return Tensor(kernels.new_copy(array, dtype or _DEFAULTS[array.dtype.kind]), requires_grad)


def linspace(start, end, steps, dtype=None, requires_grad=False, device=None):
    """`steps` numbers from start to end, evenly."""
    return Tensor(np.linspace(start, end, steps, dtype=dtype or np.float32), requires_grad)


def eye(n, m=None, dtype=None, requires_grad=False, device=None):
    """The identity matrix."""
    return Tensor(np.eye(n, m, dtype=dtype or np.float32), requires_grad)


def rand(*size, generator=None, dtype=None, requires_grad=False, device=None):
    """Numbers uniform in [0, 1)."""
    return Tensor(
        random.uniform(_shape(size), 0.0, 1.0, dtype or np.float32, generator), requires_grad
    )


def randn(*size, generator=None, dtype=None, requires_grad=False, device=None):
    """Standard normal numbers."""
    return Tensor(
        random.normal(_shape(size), 0.0, 1.0, dtype or np.float32, generator), requires_grad
    )


def rand_like(input, dtype=None):
    return rand(input._array.shape, dtype=dtype or input.dtype)


def randn_like(input, dtype=None):
    return randn(input._array.shape, dtype=dtype or input.dtype)


def randint(low, high=None, size=None, *, generator=None, device=None):
    """Integers in [low, high); randint(high, size) counts from 0."""
    if size is None:
        low, high, size = 0, low, high
    return Tensor(random.integers(low, high, _shape((size,)), generator))


def randperm(n, *, generator=None, device=None):
    """A random order of 0 .. n-1."""
    return Tensor(random.permutation(n, generator))


def equal(input, other):
    """Whether two Tensors have one shape and equal elements."""
    return input._array.shape == other._array.shape and bool((input == other).all())


def allclose(input, other, rtol=1e-05, atol=1e-08, equal_nan=False):
    """Whether |input - other| <= atol + rtol |other| everywhere."""
    kernels.not_recorded("allclose()")
    return np.allclose(input._array, other._array, rtol, atol, equal_nan)


def is_tensor(x):
    return isinstance(x, Tensor)


def numel(input):
    return input.numel()
