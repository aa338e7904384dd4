"""Operations in place: they write the Tensor's own memory and return the Tensor."""

import numpy as np

from fastconv import kernels, random
from fastconv.autograd import Tensor, change
from fastconv.ops.common import (
    array_of,
    as_tensor,
    broadcasts,
    cast,
    is_floating,
    is_number,
    method,
    unbroadcast,
)
from fastconv.ops.views import _index, _index_tensors, _is_basic, slot


def _write(target, value):
    """target's memory = value, of any strides."""
    if is_floating(target):
        kernels.assign(target._array, value)
    else:
        kernels.not_recorded("writing integers in place")
        target._array[...] = value


def _is_plain(x):
    """Whether x can be the `out` of a kernel that reads it."""
    return x.flags.c_contiguous and x.flags.aligned and x.dtype.isnative


def _operand(target, other, what):
    """The right-hand side: a number, or a Tensor of target's dtype."""
    if is_number(other):
        if not is_floating(target) and isinstance(other, float | np.floating):
            raise RuntimeError(f"result of {what} with a float cannot be stored in {target.dtype}")
        if target._array.dtype.kind == "b" and not isinstance(other, bool | np.bool_):
            raise RuntimeError(f"result of {what} with an int cannot be stored in {target.dtype}")
        return other
    other = as_tensor(other)
    to_bool = target._array.dtype.kind == "b" and other._array.dtype.kind != "b"
    if to_bool or (is_floating(other) and not is_floating(target)):
        raise RuntimeError(
            f"result of {what} with {other.dtype} cannot be stored in {target.dtype}"
        )
    return cast(other, target._array.dtype)


def _arithmetic(op, kernel, function, target, other, gradient_target, gradient_other, saves):
    other = _operand(target, other, op)
    x, operand = target._array, array_of(other)
    if isinstance(operand, np.ndarray) and not broadcasts(operand.shape, x.shape):
        raise RuntimeError(
            f"shape {operand.shape} does not broadcast to {x.shape}, which is changed in place"
        )
    inputs = (target, other) if isinstance(other, Tensor) else (target,)
    need_other = isinstance(other, Tensor) and other.requires_grad
    before = kernels.copy(x) if need_other and saves else None
    kept = (
        before if other is target and saves else operand
    )  # y *= y overwrites what its backward reads

    def compute():
        if not is_floating(target):
            kernels.integer(function, x, operand, out=x, casting="unsafe")
        elif _is_plain(x):
            kernel(x, operand, out=x)
        else:
            kernels.assign(x, kernel(x, operand))

    def backward(dy):
        gradients = [gradient_target(dy, kept)]
        if isinstance(other, Tensor):
            gradients.append(
                unbroadcast(gradient_other(dy, before, kept), operand.shape) if need_other else None
            )
        return tuple(gradients)

    saved = (other,) if isinstance(other, Tensor) and saves else ()
    return change(target, op, compute, inputs, backward, saves=saved)


@method("add_", "__iadd__")
def add_(input, other, *, alpha=1):
    """input += alpha other."""
    other = other if alpha == 1 else other * alpha
    return _arithmetic(
        "Add", kernels.add, "add", input, other, lambda dy, b: dy, lambda dy, a, b: dy, False
    )


@method("sub_", "__isub__")
def sub_(input, other, *, alpha=1):
    """input -= alpha other."""
    other = other if alpha == 1 else other * alpha
    return _arithmetic(
        "Sub",
        kernels.sub,
        "subtract",
        input,
        other,
        lambda dy, b: dy,
        lambda dy, a, b: kernels.neg(dy),
        False,
    )


@method("mul_", "__imul__")
def mul_(input, other):
    """input *= other."""
    return _arithmetic(
        "Mul",
        kernels.mul,
        "multiply",
        input,
        other,
        lambda dy, b: kernels.mul(dy, b),
        lambda dy, a, b: kernels.mul(dy, a),
        True,
    )


@method("div_", "__itruediv__")
def div_(input, other):
    """input /= other."""
    if not is_floating(input):
        raise RuntimeError(f"result of Div cannot be stored in {input.dtype}")
    return _arithmetic(
        "Div",
        kernels.div,
        None,
        input,
        other,
        lambda dy, b: kernels.div(dy, b),
        lambda dy, a, b: kernels.neg(kernels.div(kernels.div(kernels.mul(dy, a), b), b)),
        True,
    )


@method("relu_")
def relu_(input):
    """input = max(input, 0)."""
    x = input._array

    def compute():
        if is_floating(input) and _is_plain(x):
            kernels.relu(x, out=x)
        else:
            _write(input, kernels.relu(x))

    return change(
        input,
        "Relu",
        compute,
        (input,),
        lambda dy: (kernels.relu_backward(dy, x),),
        saves_result=True,
    )


def _overwritten(dy):
    """The gradient of what an operation overwrites: 0."""
    dx = kernels.empty_array(dy.shape, dy.dtype)
    kernels.fill(dx, 0)
    return dx


@method("fill_")
def fill_(input, value):
    """Every element = value."""
    if isinstance(value, Tensor):
        if value._array.size != 1:
            raise RuntimeError(
                f"fill_ wants one number, got a Tensor of shape {tuple(value.shape)}"
            )
        return copy_(input, value.reshape(()))

    def compute():
        _write(input, value)

    return change(input, "Fill", compute, (input,), lambda dy: (_overwritten(dy),))


@method("zero_")
def zero_(input):
    """Every element = 0."""
    return fill_(input, 0)


@method("copy_")
def copy_(input, other):
    """input = other, which broadcasts and is converted to input's dtype."""
    other = as_tensor(other, "other")
    own, source = input._array.dtype, cast(other, input._array.dtype)
    shape = source._array.shape
    if not broadcasts(shape, input._array.shape):
        raise RuntimeError(f"shape {shape} does not broadcast to {input._array.shape} ({own})")

    def compute():
        _write(input, source._array)

    return change(
        input,
        "Copy",
        compute,
        (input, source),
        lambda dy: (_overwritten(dy), unbroadcast(dy, shape)),
    )


@method("__setitem__")
def setitem(input, key, value):
    """input[key] = value."""
    x, index, basic = input._array, _index(key), _is_basic(_index(key))
    value = _operand(input, value, "assignment")
    source = array_of(value)
    place = slot(x, index) if basic else x[index]
    if not is_number(value):
        while source.ndim > place.ndim and source.shape[0] == 1:
            source = source[0]
        if not broadcasts(source.shape, place.shape):
            raise RuntimeError(f"shape {source.shape} does not broadcast to {place.shape}")

    def compute():
        if basic and is_floating(input):
            kernels.assign(place, source)
        else:
            kernels.not_recorded("assignment to integers, or through an array of indices")
            x[index] = source

    def backward(dy):
        dx = kernels.copy(dy)
        if basic:
            kernels.assign(slot(dx, index), 0)
        else:
            kernels.not_recorded("the gradient of an assignment through an array of indices")
            dx[index] = 0
        if not isinstance(value, Tensor):
            return (dx,)
        dv = slot(dy, index) if basic else dy[index]
        return dx, unbroadcast(dv, source.shape).reshape(value._array.shape)

    inputs = (input, value) if isinstance(value, Tensor) else (input,)
    change(input, "Setitem", compute, inputs, backward, saves=_index_tensors(key))


@method("uniform_")
def uniform_(input, a=0.0, b=1.0):
    """Independent numbers, uniform in [a, b)."""

    def compute():
        kernels.assign(input._array, random.uniform(input._array.shape, a, b, input._array.dtype))

    return change(input, "Uniform", compute, (input,), lambda dy: (_overwritten(dy),))


@method("normal_")
def normal_(input, mean=0.0, std=1.0):
    """Independent normal numbers."""

    def compute():
        kernels.assign(
            input._array, random.normal(input._array.shape, mean, std, input._array.dtype)
        )

    return change(input, "Normal", compute, (input,), lambda dy: (_overwritten(dy),))
