"""Sums, means, extrema. PyTorch's names: dim and keepdim."""

from typing import NamedTuple

import numpy as np

from fastconv import kernels
from fastconv.autograd import Tensor, _wrap, record
from fastconv.ops.common import FLOAT32, as_tensor, cast, integer_result, is_floating, method


def _keep(dy, shape, dim, keepdim):
    """dy with the reduced axes back, as axes of one element."""
    if keepdim:
        return dy
    dims = (
        range(len(shape))
        if dim is None
        else [d % len(shape) for d in (dim if isinstance(dim, tuple | list) else (dim,))]
    )
    return dy.reshape([1 if d in dims else size for d, size in enumerate(shape)])


def _total(op, kernel, input, dim, keepdim, scale):
    """A sum, or a mean, whose gradient is dy times scale(x, y), repeated."""
    x = input._array
    y = kernel(x, dim, keepdim)

    def backward(dy):
        each = kernels.mul(dy, scale(x, y)) if scale else dy
        return (np.broadcast_to(_keep(each, x.shape, dim, keepdim), x.shape),)

    return record(op, y, (input,), backward)


@method("sum")
def sum(input, dim=None, keepdim=False):
    """The sum over dim: an axis, several, or all (None). Integers and booleans are counted in int64."""
    input = as_tensor(input, "input")
    if not is_floating(input):
        dims = tuple(dim) if isinstance(dim, list) else dim
        return integer_result("sum", input._array, axis=dims, keepdims=keepdim, dtype=np.int64)
    return _total("Sum", kernels.sum, input, dim, keepdim, None)


@method("mean")
def mean(input, dim=None, keepdim=False):
    """The mean over dim: an axis, several, or all (None)."""
    input = as_tensor(input, "input")
    if not is_floating(input):
        raise RuntimeError(
            f"mean wants a floating-point Tensor, got {input.dtype}; use .float().mean()"
        )
    return _total(
        "Mean", kernels.mean, input, dim, keepdim, lambda x, y: y.size / x.size if x.size else 1.0
    )


@method("var")
def var(input, dim=None, unbiased=True, keepdim=False):
    """The variance over dim; divided by n - 1, or by n if not unbiased."""
    centred = input - mean(input, dim, True)
    squares = sum(centred * centred, dim, keepdim)
    n = input.numel() // squares.numel() if squares.numel() else 0
    return squares * (1.0 / (n - unbiased) if n > unbiased else float("nan"))


@method("std")
def std(input, dim=None, unbiased=True, keepdim=False):
    """The standard deviation over dim, the square root of var."""
    return var(input, dim, unbiased, keepdim).sqrt()


class Extremum(NamedTuple):
    """What max(dim) and min(dim) return."""

    values: Tensor
    indices: Tensor


def _extremum(op, kernel, function, input, dim, keepdim):
    input = as_tensor(input, "input")
    x = input._array
    if not is_floating(input):
        values = integer_result(function, x, axis=dim, keepdims=keepdim)
        if dim is None:
            return values
        return Extremum(values, integer_result(f"arg{function}", x, axis=dim, keepdims=keepdim))
    values, indices = kernel(x, dim, keepdim)

    def backward(dy):
        axis = 0 if dim is None else dim % max_ndim
        places = x.size if dim is None else x.shape[axis]
        full = (x.size,) if dim is None else x.shape
        position = np.arange(places).reshape([-1 if d == axis else 1 for d in range(len(full))])
        found = _keep(indices, x.shape, dim, keepdim) if dim is not None else indices.reshape(1)
        grad = _keep(dy, x.shape, dim, keepdim) if dim is not None else dy.reshape(1)
        return (kernels.where(kernels.integer("equal", position, found), grad, 0).reshape(x.shape),)

    max_ndim = x.ndim or 1
    result = record(op, values, (input,), backward)
    return result if dim is None else Extremum(result, _wrap(indices))


@method("max")
def max(input, dim=None, keepdim=False):
    """The largest element; with dim, (values, indices) along that axis; with a Tensor, the larger of each pair.

    Of equal elements the first gets the gradient.
    """
    if isinstance(dim, Tensor):
        return _choose("Maximum", kernels.maximum, kernels.ge, input, dim)
    return _extremum("Max", kernels.max, "max", input, dim, keepdim)


@method("min")
def min(input, dim=None, keepdim=False):
    """The smallest element; with dim, (values, indices) along that axis; with a Tensor, the smaller of each pair."""
    if isinstance(dim, Tensor):
        return _choose("Minimum", kernels.minimum, kernels.le, input, dim)
    return _extremum("Min", kernels.min, "min", input, dim, keepdim)


def _choose(op, kernel, first_wins, a, b):
    from fastconv.ops.arithmetic import _binary, operands

    a, b = operands(a, b)
    return _binary(
        op,
        kernel,
        a,
        b,
        lambda dy, a, b, y: kernels.where(first_wins(a, b), dy, 0),
        lambda dy, a, b, y: kernels.where(first_wins(a, b), 0, dy),
        True,
    )


@method("argmax")
def argmax(input, dim=None, keepdim=False):
    """The index of the largest element along dim, or among all (None); of equals the first."""
    input = as_tensor(input, "input")
    if not is_floating(input):
        return integer_result("argmax", input._array, axis=dim, keepdims=keepdim)
    return _wrap(kernels.argmax(input._array, dim, keepdim))


@method("argmin")
def argmin(input, dim=None, keepdim=False):
    """The index of the smallest element along dim, or among all (None); of equals the first."""
    input = as_tensor(input, "input")
    if not is_floating(input):
        return integer_result("argmin", input._array, axis=dim, keepdims=keepdim)
    return _wrap(kernels.argmin(input._array, dim, keepdim))


def _truth(input):
    return input if input._array.dtype.kind == "b" else input != 0


@method("all")
def all(input, dim=None):
    """Whether every element is true."""
    return integer_result("all", _truth(input)._array, axis=dim)


@method("any")
def any(input, dim=None):
    """Whether some element is true."""
    return integer_result("any", _truth(input)._array, axis=dim)


@method("softmax")
def softmax(input, dim):
    """exp(x_j) / sum_i exp(x_i) along dim."""
    input = input if is_floating(input) else cast(input, FLOAT32)
    y = kernels.softmax(input._array, dim)
    return record(
        "Softmax",
        y,
        (input,),
        lambda dy: (kernels.softmax_backward(dy, y, dim),),
        saves_result=True,
    )


@method("log_softmax")
def log_softmax(input, dim):
    """The logarithm of softmax along dim."""
    input = input if is_floating(input) else cast(input, FLOAT32)
    y = kernels.log_softmax(input._array, dim)
    return record(
        "LogSoftmax",
        y,
        (input,),
        lambda dy: (kernels.log_softmax_backward(dy, y, dim),),
        saves_result=True,
    )
