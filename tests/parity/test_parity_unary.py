"""Functions of one Tensor: values, gradients and dtypes, special numbers included."""

import numpy as np
import pytest
import torch
from libraries import check_result, compare, differences, distinct, normal, outcome

import fastconv

FUNCTIONS = ("neg", "abs", "exp", "log", "sqrt", "tanh", "sigmoid", "relu")
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 1e30, -1e30, 88.0, -88.0, 104.0, -104.0, 710.0]
NOT_FINITE = [np.inf, -np.inf, np.nan]
DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name, dtype):
    """Within a few units in the last place, gradients to the precision of their largest."""
    x = np.concatenate([normal(2000, dtype=dtype) * 3, np.linspace(-20, 20, 401, dtype=dtype)])
    x = np.abs(x) + x.dtype.type(1e-3) if name in ("log", "sqrt") else x
    compare(lambda torch, x: getattr(torch, name)(x).detach(), x, relative=name != "log")
    compare(lambda torch, x: getattr(torch, name)(x), x)
    compare(lambda torch, x: getattr(x, name)(), x.reshape(-1, 49)[::2, ::3])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_numbers(name, dtype):
    x = np.array(SPECIAL + NOT_FINITE, dtype)
    compare(lambda torch, x: getattr(torch, name)(x).detach(), x, relative=True)
    differences(
        (value, lambda torch, x: getattr(torch, name)(x), np.array([value], dtype))
        for value in SPECIAL + NOT_FINITE
    )


@pytest.mark.parametrize("name", [f for f in FUNCTIONS if f != "relu"])
def test_sign_of_zero(name):
    """relu(-0) is +0 here and -0 in PyTorch: both are zero."""
    x = np.array([0.0, -0.0], np.float32)
    compare(lambda torch, x: 1 / getattr(torch, name)(x).detach(), x, relative=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtypes(name, dtype):
    if (name, dtype) in (("abs", "bool"), ("relu", "bool")):
        return  # an error in PyTorch alone
    x = np.array([[1, 2], [0, 3]]).astype(dtype)
    compare(lambda torch, x: getattr(torch, name)(x), x)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (3, 1, 4)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_shapes(name, shape):
    compare(
        lambda torch, x: getattr(torch, name)(x),
        np.asarray(np.abs(normal(*shape)) + np.float32(0.1)),
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize(
    "limits",
    [{"min": -1}, {"max": 1}, {"min": -1, "max": 1}, {"min": 0.5}, {"min": 1, "max": -1}, {}],
    ids=str,
)
def test_clamp(limits, dtype):
    x = np.array([-2, -1, -0.5, 0, 0.5, 1, 3]).astype(dtype)
    compare(lambda torch, x: torch.clamp(x, **limits), x)
    compare(lambda torch, x: x.clip(**limits), x)


def test_clamp_of_what_is_not_finite():
    x = np.array(NOT_FINITE, np.float32)
    compare(lambda torch, x: x.clamp(-1, 1), x)
    compare(lambda torch, x: x.clamp(min=0), x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (2, 3, 4, 5), (1, 1), (0, 3), (3, 0)])
def test_softmax(name, shape, dtype):
    x = normal(*shape, dtype=dtype) * np.asarray(4, dtype)
    cases = []
    for dim in range(-len(shape) - 1, len(shape) + 1):
        cases += [
            (dim, lambda torch, x, dim=dim: getattr(torch, name)(x, dim), x),
            (dim, lambda torch, x, dim=dim: getattr(x, name)(dim=dim), x),
            (dim, lambda torch, x, dim=dim: getattr(torch.nn.functional, name)(x, dim=dim), x),
        ]
    differences(cases)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_special_numbers(name):
    inf, nan = np.inf, np.nan
    rows = [
        [1, inf, 2],
        [inf, inf, 0],
        [-inf, 1, 2],
        [-inf] * 3,
        [nan, 1, 2],
        [1e4, 0, -1e4],
        [1e38] * 3,
    ]
    x = np.array(rows, np.float32)
    compare(lambda torch, x: getattr(torch, name)(x, 1), x)
    compare(lambda torch, x: getattr(torch, name)(x, 0), x.T.copy())


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_integers(name):
    """Computed in float32; an error in PyTorch."""
    x = np.array([1, 2, 3])
    theirs = outcome(torch, lambda torch, x: getattr(torch, name)(x.float(), 0), [x])
    ours = outcome(fastconv, lambda torch, x: getattr(torch, name)(x, 0), [x])
    check_result(ours[0][0], theirs[0][0], 8, name)


@pytest.mark.parametrize("inplace", [False, True])
def test_relu_in_place(inplace):
    compare(lambda torch, x: torch.nn.functional.relu(x * 1, inplace), distinct(3, 4))
    compare(lambda torch, x: torch.nn.ReLU(inplace=inplace)(x.clone()) * 2, distinct(3, 4))
    compare(lambda torch, x: (x * 2).relu_(), distinct(3, 4))


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh"])
def test_functional_and_layers(name):
    layer = {"relu": "ReLU", "sigmoid": "Sigmoid", "tanh": "Tanh"}[name]
    compare(lambda torch, x: getattr(torch.nn.functional, name)(x), normal(4, 5))
    compare(lambda torch, x: getattr(torch.nn, layer)()(x), normal(4, 5))


@pytest.mark.parametrize("method", ["float", "double", "long", "int", "bool"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_conversions(dtype, method):
    x = np.array([0, 1, 2.75, 100]).astype(dtype)
    compare(lambda torch, x: getattr(x, method)(), x)
    name = {
        "float": "float32",
        "double": "float64",
        "long": "int64",
        "int": "int32",
        "bool": "bool",
    }[method]
    compare(lambda torch, x: x.to(getattr(torch, name)), x)
    compare(lambda torch, x: x.type(getattr(torch, name)), x)


def test_conversion_cuts_towards_zero():
    compare(
        lambda torch, x: (x.long(), x.int(), x.bool()),
        np.array([-1.9, -0.5, 0.0, 0.5, 1.9], np.float32),
    )


@pytest.mark.parametrize("target", ["cpu", "cuda", "nonsense"])
def test_devices(target):
    compare(lambda torch, x: x.to(target), normal(3))
    compare(lambda torch, x: x.to(torch.device(target)), normal(3))


def test_arithmetic_shares_of_the_tape():
    """A value used several times gets the sum of its gradients."""

    def program(torch, x, y):
        z = x * y + x
        w = z * z - torch.exp(z * 0.1)
        return (w + z).sum(), z.mean()

    compare(program, normal(3, 4), normal(4, seed=1), ulps=16)
