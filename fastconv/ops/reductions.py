"""Sums, means, extrema. PyTorch's names: dim and keepdim."""

import builtins
from typing import NamedTuple

import numpy as np

from fastconv import kernels
from fastconv.autograd import Tensor, _wrap, record
from fastconv.ops.arithmetic import binary
from fastconv.ops.common import (
    FLOAT32,
    as_tensor,
    cast,
    integer_result,
    is_floating,
    method,
    operands,
)
from fastconv.ops.views import clone


def _dim(input, dim):
    """dim as the kernels want it: PyTorch lets () mean all, and a Tensor of no axes have axis 0."""
    none = isinstance(dim, tuple | list) and len(dim) == 0
    return None if none or input._array.ndim == 0 and dim in (0, -1) else dim


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
    x, dim = input._array, _dim(input, dim)
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
        dim = _dim(input, dim)
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
    """The standard deviation over dim, the square root of var; its gradient where it is 0 is 0."""
    square = var(input, dim, unbiased, keepdim)
    y = kernels.sqrt(square._array)

    def backward(dy):
        slope = kernels.div(dy, kernels.mul(y, 2))
        return (kernels.where(kernels.eq(y, 0), 0, slope),)

    return record("Std", y, (square,), backward, saves_result=True)


class Maximum(NamedTuple):
    """What max(dim) returns."""

    values: Tensor
    indices: Tensor

    def __repr__(self):
        return f"fastconv.return_types.max(\nvalues={self.values!r},\nindices={self.indices!r})"


class Minimum(NamedTuple):
    """What min(dim) returns."""

    values: Tensor
    indices: Tensor

    def __repr__(self):
        return f"fastconv.return_types.min(\nvalues={self.values!r},\nindices={self.indices!r})"


def _of_all(op, kernel, function, input):
    """The extreme element of all; elements that equal it share the gradient."""
    x = input._array
    if not is_floating(input):
        return integer_result(function, x)
    y = kernel(x)[0]

    def backward(dy):
        ties = kernels.eq(x, y) if y == y else kernels.ne(x, x)  # NaN is the extreme element
        count = builtins.max(int(kernels.integer("sum", ties)), 1)
        return (kernels.where(ties, kernels.div(dy, count), 0),)

    return record(op, y, (input,), backward, saves=(input,), saves_result=True)


def _along(op, kernel, function, result_type, input, dim, keepdim):
    """Values and indices along one axis; the element of the index gets the gradient."""
    x = input._array
    if not is_floating(input):
        values = integer_result(function, x, axis=dim, keepdims=keepdim)
        return result_type(values, integer_result(f"arg{function}", x, axis=dim, keepdims=keepdim))
    if x.ndim == 0 and dim in (0, -1):
        return result_type(clone(input), _wrap(np.zeros((), np.int64)))
    values, indices = kernel(x, dim, keepdim)

    def backward(dy):
        axis = dim % x.ndim
        position = np.arange(x.shape[axis]).reshape([-1 if d == axis else 1 for d in range(x.ndim)])
        found = kernels.integer("equal", position, _keep(indices, x.shape, dim, keepdim))
        return (kernels.where(found, _keep(dy, x.shape, dim, keepdim), 0),)

    return result_type(record(op, values, (input,), backward), _wrap(indices.copy()))


@method("max")
def max(input, dim=None, keepdim=False):
    """The largest element; with dim, (values, indices) along that axis; with a Tensor, the larger of each pair.

    Of equal elements along an axis the first counts; without dim, and in pairs, equal elements share the gradient.
    """
    input = as_tensor(input, "input")
    if isinstance(dim, Tensor):
        return _choose("Maximum", kernels.maximum, kernels.lt, "maximum", input, dim)
    if dim is None:
        return _of_all("Max", kernels.max, "max", input)
    return _along("Max", kernels.max, "max", Maximum, input, dim, keepdim)


@method("min")
def min(input, dim=None, keepdim=False):
    """The smallest element; with dim, (values, indices) along that axis; with a Tensor, the smaller of each pair."""
    input = as_tensor(input, "input")
    if isinstance(dim, Tensor):
        return _choose("Minimum", kernels.minimum, kernels.gt, "minimum", input, dim)
    if dim is None:
        return _of_all("Min", kernels.min, "min", input)
    return _along("Min", kernels.min, "min", Minimum, input, dim, keepdim)


def _choose(op, kernel, worse, function, a, b):
    a, b = operands(a, b)
    if not is_floating(a):
        return integer_result(function, a._array, b._array)

    def share(dy, mine, other):
        dy = kernels.where(kernels.eq(mine, other), kernels.mul(dy, 0.5), dy)
        return kernels.where(worse(mine, other), 0, dy)

    return binary(
        op,
        kernel,
        a,
        b,
        lambda dy, a, b, y: share(dy, a, b),
        lambda dy, a, b, y: share(dy, b, a),
        True,
    )


@method("argmax")
def argmax(input, dim=None, keepdim=False):
    """The index of the largest element along dim, or among all (None); of equals the first."""
    input = as_tensor(input, "input")
    if not is_floating(input):
        return integer_result("argmax", input._array, axis=dim, keepdims=keepdim)
    return _wrap(kernels.argmax(input._array, _dim(input, dim), keepdim))


@method("argmin")
def argmin(input, dim=None, keepdim=False):
    """The index of the smallest element along dim, or among all (None); of equals the first."""
    input = as_tensor(input, "input")
    if not is_floating(input):
        return integer_result("argmin", input._array, axis=dim, keepdims=keepdim)
    return _wrap(kernels.argmin(input._array, _dim(input, dim), keepdim))


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
