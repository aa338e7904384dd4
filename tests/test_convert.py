import numpy as np
import pytest
from helpers import (
    AWKWARD,
    channels_last,
    check,
    check_bits,
    covers,
    fortran,
    guarded,
    integers,
    normal,
    read_only,
    reversed_,
    strided,
)

from fastconv import kernels

SHAPES = [(), (1,), (7,), (0,), (3, 5), (2, 3, 17), (2, 6, 5, 7), (64, 65), (1, 1, 1)]


@covers("copy")
@pytest.mark.parametrize("awkward", AWKWARD)
@pytest.mark.parametrize("shape", SHAPES)
def test_copy(isa, dtype, rng, shape, awkward):
    x = normal(rng, shape, dtype)
    y = kernels.copy(awkward(x))
    assert y.flags.c_contiguous and y.flags.writeable and y.flags.aligned
    assert not np.shares_memory(x, y)
    check_bits(y, x)
    with guarded(shape, dtype) as out:
        assert kernels.copy(awkward(x), out=out) is out
        check_bits(out, x)


def test_copy_of_a_broadcast(isa, dtype, rng):
    x = normal(rng, (3, 1), dtype)
    check(kernels.copy(np.broadcast_to(x, (2, 3, 17))), np.broadcast_to(x, (2, 3, 17)))


ASSIGNED = [
    ((5,), (5,)),
    ((3, 17), (17,)),
    ((3, 17), (3, 1)),
    ((2, 3, 4), ()),
    ((2, 3, 4), (1, 1)),
    ((2, 6, 5, 7), (2, 6, 5, 7)),
    ((0, 3), (3,)),
    ((), ()),
    ((1, 1), (1, 1)),
]


@covers("assign")
@pytest.mark.parametrize("layout", [lambda y: y, strided, reversed_, fortran, channels_last])
@pytest.mark.parametrize("shape,given", ASSIGNED)
def test_assign(isa, dtype, rng, layout, shape, given):
    y, x = layout(np.full(shape, np.nan, dtype)), normal(rng, given, dtype)
    around = y.base.copy() if layout is strided else None
    assert kernels.assign(y, x) is None
    check(y, np.broadcast_to(x, shape))
    if around is not None:
        y[...] = np.nan
        check_bits(y.base, around)


def test_assign_to_overlapping_memory(isa, dtype, rng):
    """As if x had been copied first."""
    for target, source in (
        (np.s_[1:], np.s_[:-1]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:], np.s_[::-1]),
    ):
        memory = normal(rng, 100, dtype)
        expected = memory[source].copy()
        kernels.assign(memory[target], memory[source])
        check(memory[target], expected)


@pytest.mark.parametrize("awkward", AWKWARD)
def test_assign_awkward_arrays(isa, dtype, rng, awkward):
    x, y = normal(rng, (3, 5, 7), dtype), np.zeros((3, 5, 7), dtype)
    kernels.assign(y, awkward(x))
    check_bits(y, x)
    target = awkward(y * 0)
    try:
        kernels.assign(target, x)
    except (TypeError, ValueError):
        assert not target.any()
    else:
        assert target.flags.writeable
        assert np.array_equal(target, x)


def test_assign_refuses(dtype):
    y, other = np.zeros((2, 3), dtype), np.float32 if dtype == np.float64 else np.float64
    for given in (
        np.zeros(4, dtype),
        np.zeros((1, 2, 3), dtype),
        np.zeros((2, 3), other),
        np.zeros((2, 3), int),
        np.zeros((2, 3), complex),
        [[1.0, 2.0, 3.0]] * 2,
        None,
        "1",
        1j,
    ):
        with pytest.raises((TypeError, ValueError)):
            kernels.assign(y, given)
    for target in (y.astype(int), y.tolist(), None, read_only(y), 1.0):
        with pytest.raises((TypeError, ValueError)):
            kernels.assign(target, np.zeros((2, 3), dtype))
    assert not y.any()


def test_index_add_adds_twice_where_an_index_stands_twice(dtype, rng):
    y, x = integers(rng, (4, 5), dtype), integers(rng, (6, 5), dtype)
    index, expected = np.array([0, 3, 3, -1, 0, 2]), y.astype(float)
    for i, row in zip(index, x, strict=True):
        expected[i] += row
    kernels.index_add(y, index, x)
    check(y, expected)
    for wrong in (np.array([0, 4, 0, 0, 0, 0]), np.array([-5] * 6)):
        with pytest.raises(IndexError):
            kernels.index_add(y, wrong, x)
    with pytest.raises((TypeError, ValueError)):
        kernels.index_add(read_only(y), index, x)
    with pytest.raises((TypeError, ValueError)):
        kernels.index_add(y, index, x[:, :3])


@pytest.mark.parametrize("value", [0, 1.5, -2, np.nan, np.inf])
@pytest.mark.parametrize("shape", SHAPES)
def test_fill(isa, dtype, shape, value):
    with guarded(shape, dtype) as out:
        kernels.fill(out, value)
        check(out, np.full(shape, value, float))


def test_zero(isa, dtype):
    arrays = [np.ones((2, 3), dtype), np.ones(5, dtype)[::2], np.ones((), dtype)]
    kernels.zero(arrays)
    assert not any(a.any() for a in arrays)


def test_fill_refuses_what_cannot_be_written(dtype):
    x = np.zeros(3, dtype)
    x.flags.writeable = False
    with pytest.raises(ValueError):
        kernels.fill(x, 1.0)
    assert not x.any()


@pytest.mark.parametrize(
    "given", ["float32", "float64", "int64", "int32", "uint8", "bool", "float16"]
)
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (0, 2)])
def test_cast(isa, dtype, rng, shape, given):
    x = np.asarray(abs(integers(rng, shape, np.float32)), given)
    y = kernels.cast(x, dtype)
    assert y.dtype == dtype
    check(y, x.astype(float))


def test_cast_rounds_to_nearest(isa, rng):
    x = np.array([1 + 2**-24, 1 + 3 * 2**-24, 1e300, -1e300, 1e-300, np.nan, -np.inf, 2**-149])
    with np.errstate(over="ignore"):
        check(kernels.cast(x, np.float32), x.astype(np.float32))


@pytest.mark.parametrize("awkward", AWKWARD)
def test_cast_of_awkward_operands(isa, rng, awkward):
    x = normal(rng, (3, 5, 7), np.float32)
    check(kernels.cast(awkward(x), np.float64), x)
