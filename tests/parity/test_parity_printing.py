"""Tensors of many shapes, sizes and dtypes print alike, letter for letter."""

import numpy as np
import pytest
from libraries import LIBRARIES, compare, distinct, dtype_of, normal, same_print

inf, nan = np.inf, np.nan


ARRAYS = {
    "0-d": np.float32(1.5),
    "0-d whole": np.float32(3),
    "0-d int": np.int64(3),
    "0-d bool": np.True_,
    "0-d float64": np.float64(0.1),
    "0-d nan": np.float32(nan),
    "0-d big": np.float32(1e10),
    "0-d small": np.float32(1e-10),
    "1-d": normal(3),
    "1-d wraps": normal(30),
    "1-d long": normal(1001),
    "1-d 1000": normal(1000),
    "2-d": normal(3, 4),
    "2-d wide": normal(3, 20),
    "2-d tall": normal(20, 2),
    "2-d long": normal(100, 100),
    "2-d one long axis": normal(2, 2000),
    "3-d": normal(2, 3, 4),
    "3-d long": normal(20, 20, 20),
    "4-d": normal(1, 1, 32, 32),
    "4-d weights": normal(6, 1, 3, 3),
    "5-d": normal(1, 2, 1, 2, 1),
    "ones": np.ones((2, 3), np.float32),
    "whole": np.arange(6, dtype=np.float32),
    "whole large": np.array([1e5, 12345678.0], np.float32),
    "mixed sizes": np.array([1e-3, 1e3], np.float32),
    "sci": np.array([1e-5, 1.0, 1e5], np.float32),
    "sci large": np.array([1.5e9, 2.5], np.float32),
    "sci small": np.array([1e-6, 1e-7], np.float32),
    "sci negative": np.array([-1e-6, 1e-7], np.float32),
    "ratio 1000": np.array([1.0, 1000.5], np.float32),
    "ratio over 1000": np.array([1.0, 1000.5, 0.5], np.float32),
    "inf": np.array([1.5, inf, -inf, nan], np.float32),
    "inf whole": np.array([1, inf, -inf, nan], np.float32),
    "only inf": np.array([inf, -inf], np.float32),
    "only nan": np.array([nan, nan], np.float32),
    "zeros": np.zeros((2, 2), np.float32),
    "minus zero": np.array([-0.0, 0.0], np.float32),
    "zero and small": np.array([0, 1e-5], np.float32),
    "float64": normal(2, 3, dtype="float64"),
    "float64 long": normal(40, 40, dtype="float64"),
    "int64": np.array([[1, -20], [300, 4]]),
    "int64 long": distinct(50, 50).astype(np.int64),
    "int32": np.arange(4, dtype=np.int32),
    "uint8": np.arange(4, dtype=np.uint8),
    "bool": np.array([[True, False], [False, False]]),
    "bool long": np.arange(2000) % 2 == 0,
    "empty": np.zeros(0, np.float32),
    "empty 2-d": np.zeros((0, 3), np.float32),
    "empty 3-d": np.zeros((2, 0, 3), np.float32),
    "empty int": np.zeros(0, np.int64),
    "empty float64": np.zeros((0, 2)),
    "empty bool": np.zeros(0, bool),
    "int8-like": np.array([-128, 127], np.int32),
    "rounding": np.array([0.00005, 0.12345, 0.99995, 9.99999], np.float32),
    "long strides": normal(40, 60)[::7, ::9].copy(),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_tensor(name):
    array = np.asarray(ARRAYS[name])
    same_print(lambda torch, x: x, array)
    same_print(lambda torch, x: [x, (x,)], array)
    if array.dtype.kind == "f":
        same_print(lambda torch, x: x.requires_grad_(), array)
        same_print(lambda torch, x: x.requires_grad_() * 1, array)
        same_print(lambda torch, x: torch.nn.Parameter(x), array)
        same_print(lambda torch, x: torch.nn.Parameter(x, requires_grad=False), array)


@pytest.mark.parametrize("seed", range(40))
def test_random_tensor(seed):
    """Random shapes and magnitudes."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9 if seed % 2 else 14, rng.integers(0, 5)))
    x = rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 7)
    x = np.asarray(x if seed % 3 else np.round(x), "float64" if seed % 5 == 0 else "float32")
    if seed % 4 == 0:
        x = np.where(rng.random(shape) < 0.2, rng.choice([inf, -inf, nan, 0]), x).astype(x.dtype)
    same_print(lambda torch, x: x, x)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": 2},
        {"precision": 8},
        {"precision": 0},
        {"threshold": 5},
        {"edgeitems": 1, "threshold": 2},
        {"linewidth": 40},
        {"linewidth": 200},
        {"sci_mode": True},
        {"sci_mode": False},
        {"profile": "short"},
        {"profile": "full"},
    ],
    ids=str,
)
def test_options(options):
    for array in (
        normal(5, 12),
        np.float32(1e-6) * normal(4),
        np.arange(30),
        np.array([1e-6, 1e6]),
    ):
        try:
            for lib in LIBRARIES:
                lib.set_printoptions(**options)
            same_print(lambda torch, x: x, array)
        finally:
            for lib in LIBRARIES:
                lib.set_printoptions(profile="default")


OTHERS = {
    "size": lambda torch, x: x.size(),
    "shape of a number": lambda torch, x: x.sum().size(),
    "slice of a size": lambda torch, x: x.size()[1:],
    "size plus size": lambda torch, x: x.size() + x.size(),
    "dtype": lambda torch, x: x.dtype,
    "dtype int": lambda torch, x: torch.int64,
    "device": lambda torch, x: x.device,
    "max": lambda torch, x: x.max(1),
    "min": lambda torch, x: torch.min(x, 0),
    "sum": lambda torch, x: x.requires_grad_().sum(),
    "item": lambda torch, x: x.sum().item(),
    "list": lambda torch, x: x.tolist(),
    "loaded": lambda torch, x: torch.nn.ReLU().load_state_dict({}),
    "state_dict": lambda torch, x: list(torch.nn.Linear(1, 1).state_dict()),
}


@pytest.mark.parametrize("name", [n for n in OTHERS if "dtype" not in n])
def test_others(name):
    same_print(OTHERS[name], normal(2, 3))


@pytest.mark.parametrize("name", ["float32", "float64", "int64", "int32", "uint8", "bool"])
def test_dtypes_print_as_numpys(name):
    """On purpose: fastconv's dtypes are NumPy's."""
    ours, theirs = (dtype_of(lib, name) for lib in LIBRARIES)
    assert str(ours) == str(theirs).removeprefix("torch.")


def test_format():
    def program(torch, x):
        y = x.sum()
        return f"{y:.4f} {y} {y.item():5.2f} {x} {float(y):.3e} {x[0]:>10}"

    ours, theirs = (
        program(lib, lib.tensor(np.array([1.5, 2.25], np.float32))) for lib in LIBRARIES
    )
    assert ours == theirs
    compare(lambda torch, x: f"{x.sum():.3f}", normal(3))
    compare(lambda torch, x: f"{x:.3f}", normal(3))
    compare(lambda torch, x: f"{x.long().sum():d}", normal(3))
