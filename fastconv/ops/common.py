"""What the operations share: attaching them to Tensor, operands of mixed kinds, broadcasting undone."""

import numbers

import numpy as np

from fastconv import kernels
from fastconv.autograd import Tensor, _wrap, record
from fastconv.missing import kind

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
NUMBERS = (int, float, numbers.Real, np.number, np.bool_)  # the usual ones first


def method(*names):
    """Attach a function to Tensor under these names; the first argument is the Tensor."""

    def attach(function):
        for name in names:
            setattr(Tensor, name, function)
        return function

    return attach


def is_number(x):
    return isinstance(x, NUMBERS)


def is_floating(tensor):
    return tensor._array.dtype.kind == "f"


def as_tensor(x, what="operand"):
    """A Tensor: x itself, or around an array."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, np.ndarray):
        return Tensor(x)
    raise TypeError(f"{what} must be a Tensor or a number, got {kind(x)}")


def cast(tensor, dtype):
    """`tensor` in another dtype, recorded where both are floating-point."""
    dtype = np.dtype(dtype)
    own = tensor._array.dtype
    if own == dtype:
        return tensor
    array = kernels.cast(tensor._array, dtype)
    if dtype.kind != "f" or own.kind != "f":
        return Tensor(array)
    return record("ToCopy", array, (tensor,), lambda dy: (kernels.cast(dy, own),))


def common_dtype(a, b):
    """The dtype of a result: that of the wider operand, where a Tensor of no axes counts less than one with some."""
    kind_a, kind_b = (
        0 if t._array.dtype.kind == "b" else 2 if is_floating(t) else 1 for t in (a, b)
    )
    if kind_a != kind_b:
        return (a if kind_a > kind_b else b)._array.dtype
    if (a._array.ndim == 0) != (b._array.ndim == 0):
        return (b if a._array.ndim == 0 else a)._array.dtype
    return np.promote_types(a._array.dtype, b._array.dtype)


def joint_dtype(tensors):
    """The dtype of Tensors joined: floating-point before integer before bool, the widest of that kind."""
    rank = {"b": 0, "u": 1, "i": 1, "f": 2}
    highest = max(rank[t._array.dtype.kind] for t in tensors)
    return np.result_type(
        *(t._array.dtype for t in tensors if rank[t._array.dtype.kind] == highest)
    )


def _beside(number, tensor):
    """`tensor` in the dtype that an operation with `number` has."""
    if is_floating(tensor):
        return tensor
    if not isinstance(number, numbers.Integral | np.bool_):
        return cast(tensor, FLOAT32)
    if tensor._array.dtype.kind == "b" and not isinstance(number, bool | np.bool_):
        return cast(tensor, np.int64)
    return tensor


def operands(a, b):
    """Both operands, of one dtype: Tensors, or one of them a Python number."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a._array.dtype == b._array.dtype:
            return a, b
    elif is_number(b):
        return _beside(b, as_tensor(a)), b
    elif is_number(a):
        return a, _beside(a, as_tensor(b))
    a, b = as_tensor(a), as_tensor(b)
    dtype = common_dtype(a, b)
    return cast(a, dtype), cast(b, dtype)


def array_of(x):
    return x._array if isinstance(x, Tensor) else x


def broadcasts(shape, to):
    """Whether an array of one shape broadcasts to another."""
    missing = len(to) - len(shape)
    return missing >= 0 and all(
        size in (1, wanted) for size, wanted in zip(shape, to[missing:], strict=True)
    )


def unbroadcast(gradient, shape):
    """The adjoint of broadcasting `shape` to gradient.shape: the sum over what was repeated."""
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    axes = (*range(extra), *(extra + d for d, size in enumerate(shape) if size == 1))
    axes = tuple(d for d in axes if d < extra or gradient.shape[d] != 1)
    return kernels.sum(gradient, axes, True).reshape(shape)


def integer_result(function, *args, **kwargs):
    return _wrap(kernels.integer(function, *args, **kwargs))
