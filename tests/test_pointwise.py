import numpy as np
import pytest
import reference as ref
from helpers import (
    AWKWARD,
    check,
    check_bits,
    covers,
    guarded,
    integers,
    normal,
)

from fastconv import kernels

# The same names in NumPy, in float64, are the oracle.
EXACT_UNARY = {"neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "relu": ref.relu}
UNARY = {"exp": np.exp, "log": np.log, "tanh": np.tanh, "sigmoid": ref.sigmoid}
EXACT_BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
BINARY = {"pow": np.power}
COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 1000)
BROADCASTS = [
    ((), ()),
    ((5,), ()),
    ((), (2, 3)),
    ((7,), (1,)),
    ((3, 1), (1, 4)),
    ((3, 17), (17,)),
    ((3, 17), (3, 1)),
    ((2, 3, 4), (3, 1)),
    ((2, 1, 5), (4, 1)),
    ((2, 3, 4, 5), (1, 3, 1, 1)),
    ((2, 1, 3, 1, 2), (1, 4, 1, 2, 1)),
    ((0, 3), (1, 3)),
    ((1,), (0,)),
    ((3, 0), (3, 1)),
]
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e-30, -1e-30, 1e30, 88.0, -87.0, 700.0, -745.0)
ODD = (np.inf, -np.inf, np.nan)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def near(expected, dtype):
    """4 eps of the result; what is smaller than any normal number may be rounded to 0."""
    limits = np.finfo(dtype)
    return 4 * limits.eps * np.nan_to_num(np.abs(expected)) + limits.tiny


def inputs(rng, shape, dtype, name):
    """Any numbers, but positive ones as a base or under a logarithm or root."""
    x = 3 * normal(rng, shape, dtype)
    return np.asarray(abs(x) if name in ("log", "sqrt", "pow") else x, dtype)


@covers(*EXACT_UNARY, *UNARY)
@pytest.mark.parametrize("name", [*EXACT_UNARY, *UNARY])
def test_unary(isa, dtype, rng, name):
    oracle = {**EXACT_UNARY, **UNARY}[name]
    for size in SIZES:
        x = inputs(rng, size, dtype, name)
        expected = oracle(x.astype(float))
        bound = near(expected, dtype) if name in UNARY else 0.0
        check(getattr(kernels, name)(x), expected, bound, (name, size))
        with guarded((size,), dtype) as out:
            assert getattr(kernels, name)(x, out=out) is out
            check(out, expected, bound, (name, size))


@pytest.mark.parametrize("name", [*EXACT_UNARY, *UNARY])
def test_unary_at_special_values(isa, dtype, name):
    oracle = {**EXACT_UNARY, **UNARY}[name]
    x = np.array((*SPECIAL, *ODD) * 3, dtype)
    expected = oracle(x.astype(float)).astype(dtype).astype(float)
    y = getattr(kernels, name)(x)
    check(y, expected, near(expected, dtype) if name in UNARY else 0.0, name)
    if name in ("neg", "abs", "sqrt"):
        known = ~np.isnan(expected)
        assert np.array_equal(np.signbit(y[known]), np.signbit(expected[known]))


def check_number_by_number(name, x):
    """The same bits wherever a number lies; and, beside NumPy's long double, a few units in the last place."""
    function = getattr(kernels, name)
    y = function(x)
    wanted = UNARY[name](x.astype(np.longdouble))
    assert np.max(np.abs(y - wanted) / np.spacing(np.abs(wanted).astype(x.dtype))) < 4
    for first in (1, 3, 8):
        assert function(x[first : first + 21]).tobytes() == y[first : first + 21].tobytes()
        assert function(x[first::7]).tobytes() == y[first::7].tobytes()


@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid"])
def test_elementary_functions_number_by_number(isa, dtype, rng, name):
    x = np.concatenate([rng.uniform(-9, 9, 3000), rng.uniform(-1, 1, 3000) / 64]).astype(dtype)
    check_number_by_number(name, x)
    at = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0], dtype)
    ends = {"exp": (np.inf, 0, 1, 1), "tanh": (1, -1, 0, -0.0), "sigmoid": (1, 0, 0.5, 0.5)}[name]
    values = getattr(kernels, name)(at)
    assert np.isnan(values[2])
    assert np.delete(values, 2).tobytes() == np.array(ends, dtype).tobytes()


def test_logarithm_number_by_number(isa, dtype, rng):
    limits = np.finfo(dtype)
    x = np.concatenate([rng.uniform(0, 9, 3000), 1 + rng.uniform(-1, 1, 3000) / 64]).astype(dtype)
    tiny = limits.smallest_subnormal * rng.integers(1, 2**20, 100).astype(dtype)
    x = np.concatenate([x, tiny, [limits.smallest_subnormal, limits.max, 1, 2]]).astype(dtype)
    check_number_by_number("log", x)
    values = kernels.log(np.array([np.inf, 0.0, -0.0, 1, -np.inf, -1, np.nan], dtype))
    assert values[:4].tolist() == [np.inf, -np.inf, -np.inf, 0]
    assert np.isnan(values[4:]).all()


@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid", "log"])
def test_unary_over_its_range(isa, dtype, rng, name):
    """From the smallest results to the largest, and close to where the function is nearly flat."""
    limits = np.finfo(dtype)
    if name == "log":
        x = np.exp(rng.uniform(np.log(limits.tiny), np.log(limits.max), 2000))
        x = np.concatenate([x, 1 + rng.uniform(-1, 1, 500) * 10.0 ** rng.uniform(-16, 0, 500)])
    else:
        far = np.log(limits.max)
        small = rng.uniform(-1, 1, 500) * 10.0 ** rng.uniform(-10, 0, 500)
        x = np.concatenate([rng.uniform(-far, far, 2000), rng.uniform(-5, 5, 1000), small])
    x = x.astype(dtype)
    expected = UNARY[name](x.astype(float))
    check(getattr(kernels, name)(x), expected, near(expected, dtype), name)


@covers(*EXACT_BINARY, *BINARY)
@pytest.mark.parametrize("name", [*EXACT_BINARY, *BINARY])
def test_binary(isa, dtype, rng, name):
    oracle = {**EXACT_BINARY, **BINARY}[name]
    for shapes in [*BROADCASTS, *(((n,), (n,)) for n in SIZES)]:
        a, b = inputs(rng, shapes[0], dtype, name), inputs(rng, shapes[1], dtype, "")
        expected = oracle(a.astype(float), b.astype(float))
        bound = near(expected, dtype) if name in BINARY else 0.0
        check(getattr(kernels, name)(a, b), expected, bound, (name, shapes))
        with guarded(expected.shape, dtype) as out:
            assert getattr(kernels, name)(a, b, out=out) is out
            check(out, expected, bound, (name, shapes))


@pytest.mark.parametrize("name", [*EXACT_BINARY, *BINARY])
def test_binary_at_special_values(isa, dtype, name):
    a, b = np.meshgrid(np.array((*SPECIAL[:9], *ODD), dtype), np.array((*SPECIAL, *ODD), dtype))
    expected = {**EXACT_BINARY, **BINARY}[name](a.astype(float), b.astype(float))
    expected = expected.astype(dtype).astype(float)
    bound = near(expected, dtype) if name in BINARY else 0.0
    check(getattr(kernels, name)(a, b), expected, bound, name)


@covers("relu_backward")
def test_relu_backward(isa, dtype, rng):
    odd = np.meshgrid(np.array((*SPECIAL, *ODD), dtype), np.array((*SPECIAL, *ODD), dtype))
    pairs = [(normal(rng, n, dtype), integers(rng, n, dtype, 1)) for n in (*SIZES, (), (3, 4))]
    for dy, y in [*pairs, odd]:
        check(kernels.relu_backward(dy, y), ref.relu_backward(dy, y))
        with guarded(dy.shape, dtype) as out:
            assert kernels.relu_backward(dy, y, out=out) is out
            check(out, ref.relu_backward(dy, y))
    with pytest.raises(ValueError):
        kernels.relu_backward(np.ones((2, 3), dtype), np.ones(3, dtype))


@covers(*COMPARISONS)
@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(isa, dtype, rng, name):
    odd = np.array((*SPECIAL, *ODD), dtype)
    pairs = [(integers(rng, s, dtype, 1), integers(rng, t, dtype, 1)) for s, t in BROADCASTS]
    pairs += [(integers(rng, n, dtype, 1), integers(rng, n, dtype, 1)) for n in SIZES]
    for a, b in [*pairs, np.meshgrid(odd, odd)]:
        y = getattr(kernels, name)(a, b)
        assert y.dtype == bool
        assert np.array_equal(y, COMPARISONS[name](a, b)), (name, a.shape, b.shape)


@pytest.mark.parametrize("name", [*EXACT_BINARY, *BINARY, *COMPARISONS])
def test_a_number_instead_of_an_array(isa, dtype, rng, name):
    oracle = {**EXACT_BINARY, **BINARY, **COMPARISONS}[name]
    x = inputs(rng, (3, 5), dtype, name)
    for number in (2, 0.5, True):
        for y, expected in (
            (getattr(kernels, name)(x, number), oracle(x.astype(float), number)),
            (getattr(kernels, name)(number, x), oracle(number, x.astype(float))),
        ):
            assert y.dtype == (bool if name in COMPARISONS else dtype)
            check(y.astype(dtype), expected, near(expected, dtype) if name in BINARY else 0.0)


@covers("where")
def test_where(isa, dtype, rng):
    for shapes in [*BROADCASTS, *(((n,), (n,)) for n in SIZES)]:
        a, b = normal(rng, shapes[0], dtype), normal(rng, shapes[1], dtype)
        whole = np.broadcast_shapes(*shapes)
        for condition in (rng.random(whole) < 0.5, rng.random(whole[-1:]) < 0.5):
            condition = np.asarray(condition)
            check(kernels.where(condition, a, b), np.where(condition, a, b), label=shapes)
    check(kernels.where(a > 0, a, 0.0), np.where(a > 0, a, 0.0))


def test_where_takes_nothing_from_the_other_side(isa, dtype):
    a, b = np.array([1, np.nan, np.inf], dtype), np.array([np.nan, 2, np.nan], dtype)
    check(kernels.where(np.array([True, False, True]), a, b), [1, 2, np.inf])


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 17, 5), (2, 6, 7, 9), (0, 3, 2), (3, 2, 0)])
def test_bias_add(isa, dtype, rng, shape):
    x, b = integers(rng, shape, dtype), integers(rng, shape[1], dtype)
    check(kernels.bias_add(x, b), ref.bias_add(x, b))
    with guarded(shape, dtype) as out:
        assert kernels.bias_add(x, b, out=out) is out
        check(out, ref.bias_add(x, b))


@pytest.mark.parametrize("awkward", AWKWARD)
def test_awkward_operands(isa, dtype, rng, awkward):
    a, b = integers(rng, (3, 5, 7), dtype), integers(rng, (3, 5, 7), dtype)
    check(kernels.add(awkward(a), awkward(b)), a + b)
    check(kernels.sub(a, awkward(b)), a - b)
    check(kernels.mul(awkward(a), b[:, :1]), a * b[:, :1])
    check(kernels.relu(awkward(a)), ref.relu(a))
    check(kernels.relu_backward(awkward(a), awkward(b)), ref.relu_backward(a, b))
    check(kernels.bias_add(awkward(a), awkward(b[0, :, 0])), ref.bias_add(a, b[0, :, 0]))
    condition = awkward(a > 0)
    check(kernels.where(condition, awkward(a), awkward(b)), np.where(a > 0, a, b))
    assert np.array_equal(kernels.lt(awkward(a), awkward(b)), a < b)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("n", [2, 3, 7, 8, 9, 16, 31, 100, 9000])
@pytest.mark.parametrize("m", [1, 3, 15, 16, 17, 61, 300])
def test_copies_of_transposed_planes(isa, dtype, rng, threads, m, n, count):
    """Planes that lie by columns, with and without gaps, and a y whose surroundings stay as they are."""
    threads(count)
    for planes, gap in ((1, 0), (3, 5)):
        a = normal(rng, (planes, n, m + gap), dtype)[:, :, :m].swapaxes(1, 2)
        with guarded((planes, m, n), dtype) as out:
            assert kernels.copy(a, out=out) is out
            assert np.array_equal(out, a)
            assert np.array_equal(kernels.neg(a), -a)


@pytest.mark.parametrize("rows", [1, 40, 3000])
@pytest.mark.parametrize("n", [1, 5, 4096, 8192, 20000])
def test_rows_of_broadcast_operands(isa, dtype, rng, rows, n):
    """Tasks are several short rows, or parts of long ones."""
    if rows * n > 1_000_000:
        rows = 5
    x, y = integers(rng, (2, rows, n), dtype), integers(rng, (2, rows, 2 * n), dtype)[:, :, ::2]
    for b in (x[:1, :, :1], x[:, :1], y, x[0, 0, :1]):
        check(kernels.add(x, b), x + b)
        check(kernels.where(x > 0, x, b), np.where(x > 0, x, b))
        assert np.array_equal(kernels.gt(x, b), x > b)
        target = np.zeros((2, rows, n + 3), dtype)
        kernels.assign(target[:, :, 1:-2], b)
        assert np.array_equal(target[:, :, 1:-2], np.broadcast_to(b, x.shape))
        assert not target[:, :, 0].any() and not target[:, :, -2:].any()


def test_many_axes(isa, dtype, rng):
    """More axes than FC_MAX_DIMS, none of which can be merged: the right answer or an exception."""
    a = integers(rng, (2,) * 12, dtype).transpose(rng.permutation(12))
    b = integers(rng, (2,) * 12, dtype).transpose(rng.permutation(12))
    check(kernels.add(a, b), a + b)
    check(
        kernels.add(a, b[:, :1, :, :1, :, :1, :, :1, :, :1]),
        a + b[:, :1, :, :1, :, :1, :, :1, :, :1],
    )
    check(kernels.neg(a), -a)


def test_in_place(isa, dtype, rng):
    """An elementwise function may write over one of its own operands."""
    a, b = integers(rng, (5, 33), dtype), integers(rng, (5, 33), dtype)
    expected = a + b
    check(kernels.add(a, b, out=a), expected)
    check(kernels.relu(a, out=a), ref.relu(expected))
    check(kernels.sub(b, a, out=a), b - ref.relu(expected))


def test_overlap_that_is_not_the_same_array(isa, dtype):
    """Shifted by one: right, or refused; never half-read values that were already overwritten."""
    memory = np.arange(100).astype(dtype)
    before = memory.copy()
    try:
        kernels.add(memory[:-1], memory[:-1], out=memory[1:])
    except ValueError:
        check_bits(memory, before)
    else:
        check(memory[1:], 2 * before[:-1])
