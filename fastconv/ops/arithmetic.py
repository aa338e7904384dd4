"""Pointwise arithmetic, comparisons, and matrix products. Shapes broadcast; integers become float32 where they must."""

import numpy as np

from fastconv import kernels
from fastconv.autograd import Tensor, _wrap, record
from fastconv.ops.common import (
    FLOAT32,
    array_of,
    as_tensor,
    cast,
    integer_result,
    is_floating,
    is_number,
    method,
    operands,
    unbroadcast,
)


def binary(op, kernel, a, b, gradient_a, gradient_b, saves, saves_result=False):
    """y = kernel(a, b);  gradient_a(dy, a, b, y) and gradient_b: gradients of the shape of y."""
    of_a, of_b = isinstance(a, Tensor), isinstance(b, Tensor)  # else it is a number
    x_a = a._array if of_a else a
    x_b = b._array if of_b else b
    y = kernel(x_a, x_b)
    want_a, want_b = of_a and a.requires_grad, of_b and b.requires_grad

    def backward(dy):
        da = unbroadcast(gradient_a(dy, x_a, x_b, y), x_a.shape) if want_a else None
        db = unbroadcast(gradient_b(dy, x_a, x_b, y), x_b.shape) if want_b else None
        return (da, db) if of_a and of_b else (da if of_a else db,)

    tensors = (a, b) if of_a and of_b else (a if of_a else b,)
    return record(op, y, tensors, backward, tensors if saves else (), saves_result)


@method("add", "__add__", "__radd__")
def add(input, other, *, alpha=1):
    """input + alpha other."""
    if alpha != 1:
        other = mul(other, alpha)
    a, b = operands(input, other)
    if not is_floating(a if isinstance(a, Tensor) else b):
        return integer_result("add", array_of(a), array_of(b))
    return binary("Add", kernels.add, a, b, lambda dy, *_: dy, lambda dy, *_: dy, False)


@method("sub", "__sub__")
def sub(input, other, *, alpha=1, op="Sub"):
    """input - alpha other."""
    if alpha != 1:
        other = mul(other, alpha)
    a, b = operands(input, other)
    if not is_floating(a if isinstance(a, Tensor) else b):
        return integer_result("subtract", array_of(a), array_of(b))
    return binary(op, kernels.sub, a, b, lambda dy, *_: dy, lambda dy, *_: kernels.neg(dy), False)


@method("__rsub__")
def rsub(input, other):
    return sub(other, input, op="Rsub")


@method("mul", "__mul__", "__rmul__", "multiply")
def mul(input, other):
    """input * other."""
    a, b = operands(input, other)
    if not is_floating(a if isinstance(a, Tensor) else b):
        return integer_result("multiply", array_of(a), array_of(b))
    return binary(
        "Mul",
        kernels.mul,
        a,
        b,
        lambda dy, a, b, y: kernels.mul(dy, b),
        lambda dy, a, b, y: kernels.mul(dy, a),
        True,
    )


def _floats(a, b):
    """Operands of a true division: integers become float32."""
    a, b = operands(a, b)
    if isinstance(a, Tensor) and not is_floating(a):
        a = cast(a, FLOAT32)
    if isinstance(b, Tensor) and not is_floating(b):
        b = cast(b, FLOAT32)
    return a, b


@method("div", "__truediv__", "true_divide")
def div(input, other):
    """input / other."""
    a, b = _floats(input, other)
    return binary(
        "Div",
        kernels.div,
        a,
        b,
        lambda dy, a, b, y: kernels.div(dy, b),
        lambda dy, a, b, y: kernels.neg(kernels.mul(dy, kernels.div(kernels.div(a, b), b))),
        True,
    )


@method("__rtruediv__")
def rdiv(input, other):
    return div(other, input)


def _refuse_zeros(divisor):
    if not np.asarray(array_of(divisor)).all():
        raise ZeroDivisionError("ZeroDivisionError")


@method("__floordiv__")
def floor_divide(input, other):
    """Quotient rounded down, of integer Tensors."""
    a, b = operands(input, other)
    if is_floating(a if isinstance(a, Tensor) else b):
        raise TypeError("// is for integer Tensors")
    _refuse_zeros(b)
    return integer_result("floor_divide", array_of(a), array_of(b))


@method("__mod__", "remainder")
def remainder(input, other):
    """Remainder with the sign of the divisor, of integer Tensors."""
    a, b = operands(input, other)
    if is_floating(a if isinstance(a, Tensor) else b):
        raise TypeError("% is for integer Tensors")
    _refuse_zeros(b)
    return integer_result("remainder", array_of(a), array_of(b))


def _like(number, array):
    """A number as an array of no axes, of the array's dtype."""
    result = kernels.empty_array((), array.dtype)
    kernels.fill(result, number)
    return result


@method("pow", "__pow__")
def pow(input, exponent):
    """input ** exponent."""
    a, b = operands(input, exponent)
    if not is_floating(a if isinstance(a, Tensor) else b):
        if array_of(b if is_number(a) else a).dtype.kind == "b":
            if not isinstance(b, bool):
                raise TypeError("** of boolean Tensors is for an exponent of True or False")
            return integer_result("logical_or", a._array, not b)
        return integer_result("power", array_of(a), array_of(b))

    def gradient_a(dy, a, b, y):
        if is_number(b) and b == 2:
            return kernels.mul(dy, kernels.mul(a, 2))
        exponent = b if not is_number(b) else _like(b, y)
        slope = kernels.mul(exponent, kernels.pow(a, kernels.sub(exponent, 1)))
        return kernels.where(kernels.eq(exponent, 0), 0, kernels.mul(dy, slope))

    def gradient_b(dy, a, b, y):
        base = a if not is_number(a) else _like(a, y)
        flat = kernels.integer("logical_and", kernels.eq(base, 0), kernels.ge(b, 0))
        return kernels.where(flat, 0, kernels.mul(kernels.mul(dy, y), kernels.log(base)))

    def power(a, b):
        return kernels.mul(a, a) if is_number(b) and b == 2 else kernels.pow(a, b)

    reads_result = isinstance(b, Tensor) and b.requires_grad
    return binary("Pow", power, a, b, gradient_a, gradient_b, True, reads_result)


@method("__rpow__")
def rpow(input, other):
    return pow(other, input)


# ---- one operand ----------------------------------------------------------------------------------


def _unary(op, kernel, input, gradient, saves=False, saves_result=False):
    """y = kernel(x);  gradient(dy, x, y)."""
    input = as_tensor(input, "input")
    if not is_floating(input):
        input = cast(input, FLOAT32)
    x = input._array
    y = kernel(x)
    return record(
        op,
        y,
        (input,),
        lambda dy: (gradient(dy, x, y),),
        saves=(input,) if saves else (),
        saves_result=saves_result,
    )


@method("neg", "__neg__", "negative")
def neg(input):
    """-input."""
    if not is_floating(input):
        return integer_result("negative", input._array)
    return _unary("Neg", kernels.neg, input, lambda dy, x, y: kernels.neg(dy))


@method("abs", "__abs__")
def abs(input):
    """|input|; its derivative at 0 is 0."""
    if not is_floating(input):
        return integer_result("absolute", input._array)

    def gradient(dy, x, y):
        return kernels.where(
            kernels.gt(y, 0), kernels.where(kernels.gt(x, 0), dy, kernels.neg(dy)), 0
        )

    return _unary("Abs", kernels.abs, input, gradient, saves=True, saves_result=True)


@method("exp")
def exp(input):
    """e ** input."""
    return _unary("Exp", kernels.exp, input, lambda dy, x, y: kernels.mul(dy, y), saves_result=True)


@method("log")
def log(input):
    """Natural logarithm."""
    return _unary("Log", kernels.log, input, lambda dy, x, y: kernels.div(dy, x), saves=True)


@method("sqrt")
def sqrt(input):
    """Square root."""
    return _unary(
        "Sqrt",
        kernels.sqrt,
        input,
        lambda dy, x, y: kernels.div(dy, kernels.mul(y, 2)),
        saves_result=True,
    )


@method("tanh")
def tanh(input):
    """Hyperbolic tangent; derivative 1 - y^2."""
    return _unary(
        "Tanh",
        kernels.tanh,
        input,
        lambda dy, x, y: kernels.mul(dy, kernels.sub(1, kernels.mul(y, y))),
        saves_result=True,
    )


@method("sigmoid")
def sigmoid(input):
    """1 / (1 + e ** -input); derivative y (1 - y)."""
    return _unary(
        "Sigmoid",
        kernels.sigmoid,
        input,
        lambda dy, x, y: kernels.mul(dy, kernels.mul(y, kernels.sub(1, y))),
        saves_result=True,
    )


@method("relu")
def relu(input):
    """max(input, 0)."""
    input = as_tensor(input, "input")
    if not is_floating(input):
        return integer_result("maximum", input._array, 0)
    y = kernels.relu(input._array)
    return record(
        "Relu", y, (input,), lambda dy: (kernels.relu_backward(dy, y),), saves_result=True
    )


@method("clamp", "clip")
def clamp(input, min=None, max=None):
    """input, limited to [min, max], two numbers; the gradient passes where nothing was cut."""
    if min is None and max is None:
        raise ValueError("clamp wants min, max, or both")
    if not is_floating(input) and (isinstance(min, float) or isinstance(max, float)):
        input = cast(input, FLOAT32)
    if not is_floating(input):
        x = input._array if min is None else kernels.integer("maximum", input._array, min)
        return _wrap(x if max is None else kernels.integer("minimum", x, max))

    def limit(x):
        x = x if min is None else kernels.maximum(x, min)
        return x if max is None else kernels.minimum(x, max)

    def gradient(dy, x, y):
        dy = dy if min is None else kernels.where(kernels.ge(x, min), dy, 0)
        return dy if max is None else kernels.where(kernels.le(x, max), dy, 0)

    return _unary("Clamp", limit, input, gradient, saves=True)


# ---- comparisons ------------------------------------------------------------------------------------


def _comparison(kernel, function):
    def compare(input, other):
        if not (isinstance(other, Tensor | np.ndarray) or is_number(other)):
            return NotImplemented
        a, b = operands(input, other)
        if not is_floating(a if isinstance(a, Tensor) else b):
            return integer_result(function, array_of(a), array_of(b))
        return _wrap(kernel(array_of(a), array_of(b)))

    compare.__name__ = kernel.__name__
    compare.__doc__ = f"{kernel.__doc__.split(',')[0].rstrip('.')}: a boolean Tensor."
    return compare


eq = method("eq", "__eq__")(_comparison(kernels.eq, "equal"))
ne = method("ne", "__ne__")(_comparison(kernels.ne, "not_equal"))
lt = method("lt", "__lt__")(_comparison(kernels.lt, "less"))
le = method("le", "__le__")(_comparison(kernels.le, "less_equal"))
gt = method("gt", "__gt__")(_comparison(kernels.gt, "greater"))
ge = method("ge", "__ge__")(_comparison(kernels.ge, "greater_equal"))


def _logical(function, symbol):
    def combine(input, other):
        other = other._array if isinstance(other, Tensor) else other
        if input._array.dtype.kind != "b" or np.asarray(other).dtype.kind != "b":
            raise TypeError(f"{symbol} is for boolean Tensors")
        return integer_result(function, input._array, other)

    return combine


method("__and__", "logical_and")(_logical("logical_and", "&"))
method("__or__", "logical_or")(_logical("logical_or", "|"))
method("__xor__", "logical_xor")(_logical("logical_xor", "^"))


@method("__invert__", "logical_not")
def logical_not(input):
    if input._array.dtype.kind != "b":
        raise TypeError("~ is for boolean Tensors")
    return integer_result("logical_not", input._array)


# ---- matrix product ---------------------------------------------------------------------------------


_PRODUCTS = {(1, 1): "Dot", (2, 1): "Mv", (2, 2): "Mm"}


@method("matmul", "__matmul__")
def matmul(input, other):
    """Matrix product of vectors, matrices, and stacks of matrices, which broadcast.

    y = a b;  da = dy bᵀ, db = aᵀ dy, summed over what was broadcast. A vector counts as a row on the left, a column on
    the right.
    """
    a, b = operands(as_tensor(input), as_tensor(other))
    x_a, x_b = a._array, b._array
    y = kernels.matmul(x_a, x_b)
    need_a, need_b = a.requires_grad, b.requires_grad

    def backward(dy):
        rows = x_a[None, :] if x_a.ndim == 1 else x_a
        columns = x_b[:, None] if x_b.ndim == 1 else x_b
        dy = dy[..., None] if x_b.ndim == 1 else dy
        dy = dy[..., None, :] if x_a.ndim == 1 else dy
        da = db = None
        if need_a:
            da = kernels.matmul(dy, columns.swapaxes(-1, -2))
            da = unbroadcast(da, rows.shape).reshape(x_a.shape)
        if need_b:
            db = kernels.matmul(rows.swapaxes(-1, -2), dy)
            db = unbroadcast(db, columns.shape).reshape(x_b.shape)
        return da, db

    name = _PRODUCTS.get((x_a.ndim, x_b.ndim), "Matmul")
    return record(name, y, (a, b), backward, saves=(a, b))


def _of_rank(rank, name):
    def product(input, other):
        for t in (input, other):
            if t._array.ndim != rank:
                raise RuntimeError(
                    f"{name} wants Tensors of {rank} axes, got {tuple(t.shape)}; use matmul"
                )
        return matmul(input, other)

    product.__name__ = name
    product.__doc__ = f"matmul of Tensors of {rank} axes."
    return method(name)(product)


mm = _of_rank(2, "mm")
bmm = _of_rank(3, "bmm")
