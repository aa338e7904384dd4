"""What holds for every function of the door: wrong dtypes, awkward layouts, `out=`."""

import numpy as np
import pytest
from example_calls import ELEMENTWISE, NAMES, example, examples
from helpers import (
    AWKWARD,
    SENTINEL,
    byte_swapped,
    check,
    check_bits,
    read_only,
    unaligned,
)

from fastconv import kernels

WITH_OUT = [e.title for e in examples(np.float32) if e.out]
REFUSALS = (TypeError, ValueError)
names = pytest.mark.parametrize("name", NAMES)


@names
@pytest.mark.parametrize(
    "wrong",
    ["int64", "int8", "uint8", "bool", "complex64", "complex128", "float16", "object", "U3"],
)
def test_wrong_dtype(name, wrong, dtype):
    e = example(name, dtype)
    for i in e.floats(dtype):
        arrays = list(e.arrays)
        arrays[i] = arrays[i].astype(wrong)
        with pytest.raises(TypeError, match=r"float32|float64"):
            e(*arrays)


@pytest.mark.parametrize("empty", [np.dtype([]), np.dtype("V0")])
def test_elements_of_no_bytes(empty):
    for wrong in (np.zeros(3, empty), np.zeros((4, 4), empty)[::2, ::2], np.zeros((), empty)):
        with pytest.raises(TypeError, match="float32 or float64"):
            kernels.relu(wrong)


@names
def test_mixed_dtypes(name):
    e, other = example(name, np.float32), np.float64
    places = e.floats(np.float32)
    for i in places if len(places) > 1 else ():
        arrays = list(e.arrays)
        arrays[i] = arrays[i].astype(other)
        with pytest.raises(TypeError):
            e(*arrays)


@names
@pytest.mark.parametrize("wrong", [None, "text", {}, object(), [[1.0], [1.0, 2.0]], b"bytes"])
def test_not_an_array(name, wrong):
    e = example(name, np.float32)
    optional = {("gemm", 2), ("linear_forward", 2), ("conv2d_forward", 2), ("nll_loss_forward", 2)}
    optional |= {("nll_loss_backward", 3), ("conv2d_forward by winograd", 2)}
    optional |= {
        (f"batch_norm_{which}", i)
        for which, i in (
            ("forward", 1),
            ("forward", 2),
            ("again", 1),
            ("again", 2),
            ("backward", 2),
        )
    }
    for i in range(len(e.arrays)):
        if wrong is None and (e.name, i) in optional:
            continue
        arrays = list(e.arrays)
        arrays[i] = wrong
        with pytest.raises(REFUSALS):
            e(*arrays)


@names
def test_one_axis_too_many_or_too_few(name):
    """Broadcasting and reducing functions take any rank; the others refuse."""
    if name in ELEMENTWISE or name in ("matmul", "sum", "mean", "max", "min", "argmax", "argmin"):
        pytest.skip("takes any rank")
    if "softmax" in name:
        pytest.skip("takes any rank")
    e = example(name, np.float32)
    for i, array in enumerate(e.arrays):
        for wrong in (array[None], array[None, None]) + ((array[0],) if array.ndim else ()):
            arrays = list(e.arrays)
            arrays[i] = wrong
            if name in ("linear_forward", "linear_backward_input") and i == 0:
                assert e(*arrays)[0].shape[:-1] == wrong.shape[:-1]  # (..., in) and (..., out)
                continue
            with pytest.raises(REFUSALS):
                e(*arrays)


@names
def test_inputs_are_left_alone(isa, dtype, name):
    e = example(name, dtype)
    copies = [a.copy() for a in e.arrays]
    results = e()
    for array, before in zip(e.arrays, copies, strict=True):
        check_bits(array, before)
        assert not any(np.shares_memory(array, result) for result in results)


@names
@pytest.mark.parametrize("awkward", AWKWARD)
def test_layout_does_not_change_a_bit(isa, dtype, name, awkward):
    e = example(name, dtype)
    for result, expected in zip(e(*map(awkward, e.arrays)), e(), strict=True):
        check(np.asarray(result, float), np.asarray(expected, float), label=name)
        assert result.dtype.isnative and result.flags.c_contiguous and result.flags.writeable


# out= --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_OUT)
def test_out_that_does_not_fit(dtype, name):
    e = example(name, dtype)
    y = np.zeros_like(e()[0])
    other = np.float32 if dtype == np.float64 else np.float64
    for wrong in (
        np.empty((*y.shape, 1), dtype),
        np.empty((1, *y.shape), dtype),
        np.empty(y.shape[::-1] if len(set(y.shape)) > 1 else (0,), dtype),
        np.empty((), dtype),
        y.astype(other),
        y.astype(np.int64),
        y.astype(complex),
        y.tolist(),
        "out",
        7,
    ):
        with pytest.raises(REFUSALS):
            e(out=wrong)


@pytest.mark.parametrize("name", WITH_OUT)
@pytest.mark.parametrize("awkward", AWKWARD)
def test_awkward_out_is_written_right_or_refused(isa, dtype, name, awkward):
    e = example(name, dtype)
    y = e()[0]
    out = awkward(np.full(y.shape, SENTINEL, dtype))
    before = out.copy()
    try:
        result = e(out=out)[0]
    except REFUSALS:
        assert np.array_equal(out, before)
    else:
        assert result is out and out.flags.writeable
        check(np.array(out, dtype), y.astype(float))


@pytest.mark.parametrize("name", WITH_OUT)
@pytest.mark.parametrize("awkward", [read_only, byte_swapped, unaligned])
def test_out_that_cannot_be_written_in_place_is_refused(dtype, name, awkward):
    e = example(name, dtype)
    out = awkward(e()[0])
    before = out.copy()
    with pytest.raises(REFUSALS):
        e(out=out)
    assert np.array_equal(out, before)


@pytest.mark.parametrize("name", WITH_OUT)
@pytest.mark.parametrize("shift", [0, 1, 7, 12])
def test_out_over_an_input(isa, dtype, name, shift):
    """The right answer, or refused with nothing written: never a half-read input."""
    e = example(name, dtype)
    y = e()[0]
    for i in e.floats(dtype):
        memory = np.zeros(max(e.arrays[i].size, y.size) + shift, dtype)
        arrays = list(e.arrays)
        arrays[i] = memory[: e.arrays[i].size].reshape(e.arrays[i].shape)
        arrays[i][...] = e.arrays[i]
        out = memory[shift : shift + y.size].reshape(y.shape)
        before = memory.copy()
        try:
            e(*arrays, out=out)
        except ValueError:
            check_bits(memory, before)
            assert not (name in ELEMENTWISE and shift == 0 and arrays[i].shape == out.shape)
        else:
            check(out, y.astype(float), label=(name, i))
