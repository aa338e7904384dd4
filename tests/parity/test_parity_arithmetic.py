"""Arithmetic and comparisons: value, dtype, broadcasting and gradient of every pair of operands."""

import operator

import numpy as np
import pytest
from libraries import compare, differences, normal, refused

DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")
WHOLE = ("int64", "int32", "uint8")
OPERATORS = {
    name: getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "pow", "eq", "ne", "lt", "le", "gt", "ge")
}
NUMBERS = {"2": 2, "1.5": 1.5, "True": True}
OPERANDS = (*DTYPES, *(f"0-d {d}" for d in DTYPES), *NUMBERS)


def lenient(name, left, right):
    """Where fastconv gives, on purpose, what NumPy or Python would, and PyTorch an error."""
    booleans = [kind.endswith(("bool", "True")) for kind in (left, right)]
    return (name == "sub" and any(booleans) and not all(booleans)) or (
        name == "pow"
        and left == "True"
        and right.endswith(("float32", "float64"))
        or name == "pow"
        and right.endswith("bool")
        and left.endswith(("float32", "float64"))
    )


def operand(kind, seed):
    """A Tensor's array of shape (2, 3) or (), or a number."""
    if kind in NUMBERS:
        return NUMBERS[kind]
    shape = () if kind.startswith("0-d") else (2, 3)
    values = np.random.default_rng(seed).integers(1, 5, shape)
    dtype = kind.removeprefix("0-d ")
    return np.asarray(values * (0.75 if dtype.startswith("float") else 1)).astype(dtype)


@pytest.mark.parametrize("left", OPERANDS)
@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name, left):
    rights = OPERANDS if left not in NUMBERS else [o for o in OPERANDS if o not in NUMBERS]
    program = lambda torch, a, b: OPERATORS[name](a, b)  # noqa: E731
    differences(
        (right, program, operand(left, 1), operand(right, 2))
        for right in rights
        if not lenient(name, left, right)
    )


@pytest.mark.parametrize("name", ["floordiv", "mod"])
@pytest.mark.parametrize("left", WHOLE)
def test_whole_division(name, left):
    program = lambda torch, a, b: getattr(operator, name)(a, b)  # noqa: E731
    for right in (*WHOLE, *(f"0-d {d}" for d in WHOLE), "2"):
        compare(program, operand(left, 1), operand(right, 2))


@pytest.mark.parametrize("name", ["and_", "or_", "xor"])
def test_logic(name):
    program = lambda torch, a, b: getattr(operator, name)(a, b)  # noqa: E731
    for right in ("bool", "0-d bool", "True"):
        compare(program, operand("bool", 1), operand(right, 2))


@pytest.mark.parametrize("name", ["floordiv", "mod", "and_", "or_", "xor"])
def test_what_fastconv_leaves_out(name):
    """// and % of floats, bitwise logic of integers."""
    kind = "float32" if name in ("floordiv", "mod") else "int64"
    refused(lambda torch, a: getattr(operator, name)(a.detach(), a.detach()), operand(kind, 1))


@pytest.mark.parametrize(
    "function", ["add", "sub", "mul", "div", "pow", "eq", "ne", "lt", "le", "gt", "ge"]
)
@pytest.mark.parametrize("right", ["float32", "0-d float64", "int64", "2", "1.5"])
def test_function(function, right):
    a, b = operand("float32", 3), operand(right, 4)
    compare(lambda torch, a, b: getattr(torch, function)(a, b), a, b)
    compare(lambda torch, a, b: getattr(a, function)(b), a, b)


@pytest.mark.parametrize("function", ["add_", "sub_", "mul_", "div_"])
@pytest.mark.parametrize("left", DTYPES)
def test_in_place(function, left):
    program = lambda torch, a, b: getattr(a.clone(), function)(b)  # noqa: E731
    differences(
        (right, program, operand(left, 5), operand(right, 6))
        for right in OPERANDS
        if not lenient(function.strip("_"), left, right)
    )


@pytest.mark.parametrize("function", ["add", "sub", "add_", "sub_"])
@pytest.mark.parametrize("alpha", [2, 0.5, -1])
def test_alpha(function, alpha):
    compare(
        lambda torch, a, b: getattr(a.clone(), function)(b, alpha=alpha),
        normal(3),
        normal(3, seed=1),
    )


SHAPES = [
    ((3,), (2, 3)),
    ((2, 1), (1, 3)),
    ((1,), (2, 3)),
    ((), (4,)),
    ((2, 3, 1, 5), (3, 4, 1)),
    ((0,), (1,)),
    ((0, 3), (3,)),
    ((2, 0), (2, 1)),
    ((2, 3), (3, 2)),
    ((4,), (5,)),
    ((0,), (2,)),
]


def away_from_zero(*shape, seed=0):
    x = normal(*shape, seed=seed)
    return np.asarray(x + np.copysign(np.float32(0.5), x))


@pytest.mark.parametrize("shape_a, shape_b", SHAPES)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "pow", "lt", "eq"])
def test_broadcasting(name, shape_a, shape_b):
    a, b = away_from_zero(*shape_a), away_from_zero(*shape_b, seed=1)
    program = lambda torch, a, b: OPERATORS[name](a, b)  # noqa: E731
    compare(program, np.abs(a) if name == "pow" else a, b)
    compare(program, np.abs(b) if name == "pow" else b, a)


@pytest.mark.parametrize("shape_a, shape_b", SHAPES)
@pytest.mark.parametrize("name", ["add_", "sub_", "mul_", "div_", "copy_"])
def test_broadcasting_in_place(name, shape_a, shape_b):
    program = lambda torch, a, b: getattr(a.clone(), name)(b)  # noqa: E731
    compare(program, normal(*shape_a), normal(*shape_b, seed=1))
    compare(program, normal(*shape_b), normal(*shape_a, seed=1))


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, -2, 0.5, 1.5, -0.5, 0.0, 2.0])
def test_pow_of_zero_and_negatives(exponent):
    """Without half powers of -0 and -inf, where PyTorch takes roots and IEEE's pow does not."""
    x = np.array([0.0, 1.0, -1.0, 2.5, -2.5, np.inf, np.nan, -0.0, -np.inf], np.float32)
    x = x[:-2] if exponent % 1 else x
    compare(lambda torch, x: x**exponent, x, relative=True)


@pytest.mark.parametrize("base", [0, 1, 2, 0.5, 0.0])
def test_number_to_the_power_of_a_tensor(base):
    x = np.array([0.0, 1.0, -1.0, 2.5, -2.5], np.float32)
    compare(lambda torch, x: base**x, x, relative=True)


def test_pow_of_tensors_with_zero_base():
    a, b = np.array([0.0, 0.0, 0.0, 2.0, 1.0]), np.array([0.0, 1.0, 2.0, 0.0, -1.0])
    compare(lambda torch, a, b: a**b, a, b)


def test_negative_powers_of_integers_are_refused():
    """PyTorch rounds them to 0."""
    refused(lambda torch, a: a**-a, np.array([7, 2]))


@pytest.mark.parametrize("name", ["truediv", "floordiv", "mod"])
@pytest.mark.parametrize("b", [np.array([3, -3, 2]), np.array([0, 1, 2]), 3, -3, 0])
def test_integers(name, b):
    compare(lambda torch, a, b: getattr(operator, name)(a, b), np.array([7, -7, 0]), b)


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_integers_wrap_around(name):
    a = np.array([250, 3], np.uint8)
    compare(lambda torch, a: OPERATORS[name](a, a[[1, 0]] if name == "sub" else a), a)
    compare(lambda torch, a: OPERATORS[name](a, 10), a)


@pytest.mark.parametrize("other", [None, "2", [1.0, 2.0, 3.0], object()])
@pytest.mark.parametrize("name", ["add", "mul", "eq", "lt", "pow"])
def test_foreign_operands(name, other):
    compare(lambda torch, a: OPERATORS[name](a, other), normal(3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "a, b",
    [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 4)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((5, 1, 2, 3), (7, 3, 4)),
        ((3,), (5, 3, 4)),
        ((5, 2, 3), (3,)),
        ((0, 3), (3, 4)),
        ((2, 0), (0, 4)),
        ((2, 3), (4, 3)),
        ((), (3,)),
        ((5, 2, 3), (4, 3, 4)),
    ],
)
def test_matmul(a, b, dtype):
    for program in (lambda torch, a, b: a @ b, lambda torch, a, b: torch.matmul(a, b)):
        compare(program, normal(*a, dtype=dtype), normal(*b, dtype=dtype, seed=1))


@pytest.mark.parametrize("name", ["mm", "bmm", "matmul"])
def test_matrix_products_check_their_ranks(name):
    for a, b in (((2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((2, 3), (3,)), ((5, 2, 3), (3, 4))):
        compare(lambda torch, a, b: getattr(a, name)(b), normal(*a), normal(*b))


def test_matmul_of_integers_is_left_out():
    refused(lambda torch, a, b: a @ b, operand("int64", 1), operand("int64", 2).T.copy())
