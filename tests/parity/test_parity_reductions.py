"""Sums, means, extrema: every axis, keepdim, dtypes, ties, NaN, empty Tensors."""

import numpy as np
import pytest
from libraries import compare, differences, distinct, normal, refused

DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")
# all and any of uint8: uint8 in PyTorch, bool here; argmax of bool: an error there, not here.
ELSEWHERE = {("all", "uint8"), ("any", "uint8"), ("argmax", "bool"), ("argmin", "bool")}
SHAPES = [(), (5,), (3, 4), (2, 3, 4), (2, 1, 3, 4)]


def dims_of(shape):
    n = len(shape)
    pairs = [(0, -1), (0, 1), (1, 2), tuple(range(n)), (0, 0), ()]
    return [None, *range(-n - 1, n + 1), *pairs]


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["sum", "mean", "var", "std"])
def test_totals(name, shape, keepdim):
    x = normal(*shape)
    dims = dims_of(shape)
    if name in ("var", "std"):
        dims = [d for d in dims if d != ()]
    differences(
        (dim, lambda torch, x, dim=dim: getattr(torch, name)(x, dim=dim, keepdim=keepdim), x)
        for dim in dims
    )


@pytest.mark.parametrize(
    "name", ["sum", "mean", "max", "min", "argmax", "argmin", "all", "any", "var", "std"]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_of_all(name, dtype):
    if (name, dtype) in ELSEWHERE:
        return
    x = np.array([[3, 0, 2], [1, 1, 0]]).astype(dtype)
    compare(lambda torch, x: getattr(torch, name)(x), x)
    compare(lambda torch, x: getattr(x, name)(), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin", "sum", "all", "any"])
def test_along_an_axis(name, dtype):
    if (name, dtype) in ELSEWHERE:
        return
    x = distinct(2, 3, 4, dtype="float64")
    x = (
        (x > 0).astype(bool)
        if dtype == "bool"
        else np.abs(x).astype(dtype)
        if dtype == "uint8"
        else x.astype(dtype)
    )
    cases = []
    for dim in range(-4, 4):
        cases.append((dim, lambda torch, x, dim=dim: getattr(torch, name)(x, dim), x))
        if name not in ("all", "any"):
            cases.append((dim, lambda torch, x, dim=dim: getattr(x, name)(dim, keepdim=True), x))
    differences(cases)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("name", ["var", "std"])
def test_unbiased(name, unbiased):
    compare(lambda torch, x: getattr(x, name)(unbiased=unbiased), normal(7))
    compare(lambda torch, x: getattr(x, name)(1, unbiased=unbiased), normal(3, 7))
    compare(lambda torch, x: getattr(x, name)(1, unbiased), normal(3, 7))
    compare(lambda torch, x: getattr(x, name)(0, unbiased=unbiased), normal(1, 3))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
@pytest.mark.parametrize(
    "name", ["sum", "mean", "max", "min", "argmax", "argmin", "all", "any", "var"]
)
def test_empty(name, shape):
    x = normal(*shape)
    cases = [("all", lambda torch, x: getattr(torch, name)(x), x)]
    for dim in range(len(shape)):
        cases.append((dim, lambda torch, x, dim=dim: getattr(torch, name)(x, dim), x))
    differences(cases)


@pytest.mark.parametrize("name", ["max", "min"])
def test_ties_along_an_axis(name):
    x = np.array([[1, 3, 3, 1], [0, 0, 0, 0], [2, 1, 2, 1]], np.float32)
    compare(lambda torch, x: getattr(x, name)(1), x)
    compare(lambda torch, x: getattr(x, name)(0), x)


@pytest.mark.parametrize("name", ["max", "min"])
def test_ties_of_all(name):
    compare(lambda torch, x: getattr(x, name)(), np.array([[1, 3, 3, 1]], np.float32))


@pytest.mark.parametrize("name", ["max", "min"])
def test_of_two(name):
    a, b = np.array([1, 3, 2, np.nan, 1], np.float32), np.array([2, 1, 2, 0, np.nan], np.float32)
    compare(lambda torch, a, b: getattr(torch, name)(a, b), a, b)
    compare(lambda torch, a, b: getattr(torch, name)(a, b), normal(2, 3), normal(3, seed=1))
    compare(lambda torch, a, b: getattr(a, name)(b), normal(2, 3), normal(2, 1, seed=1))


@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin"])
@pytest.mark.parametrize(
    "row",
    [[1, np.nan, 2, np.nan], [np.nan] * 3, [-np.inf, 1, np.inf], [-np.inf] * 2, [np.inf, np.nan]],
    ids=str,
)
def test_not_finite(name, row):
    x = np.array([row, row[::-1]], np.float32)
    compare(lambda torch, x: getattr(torch, name)(x), x, backward=False)
    compare(lambda torch, x: getattr(torch, name)(x, 1), x)
    compare(lambda torch, x: getattr(torch, name)(x, 0), x)


@pytest.mark.parametrize("name", ["sum", "mean", "var", "std"])
def test_totals_of_what_is_not_finite(name):
    x = np.array([[1, np.nan, 2], [np.inf, 1, 2], [np.inf, -np.inf, 0]], np.float32)
    compare(lambda torch, x: getattr(x, name)(1), x, backward=name in ("sum", "mean"))


def test_results_with_names():
    compare(
        lambda torch, x: (x.max(1).values, x.max(1).indices, x.min(1)[0], x.min(1)[1]),
        distinct(3, 4),
    )
    compare(lambda torch, x: [t for t in torch.max(x, dim=1)], distinct(3, 4))


def test_one_tensor_and_its_index():
    """The accuracy loop of every script."""
    scores = normal(8, 5)
    target = np.arange(8) % 5
    compare(lambda torch, x, t: (x.argmax(1) == t).sum().item(), scores, target)
    compare(lambda torch, x, t: (torch.max(x.data, 1)[1] == t).sum().item(), scores, target)
    compare(
        lambda torch, x, t: (
            x.argmax(dim=1, keepdim=True).eq(t.view_as(x.argmax(1, True))).sum().item()
        ),
        scores,
        target,
    )
    compare(lambda torch, x, t: (x.argmax(1) == t).float().mean().item(), scores, target)


def test_sum_is_as_exact_as_pytorch():
    compare(lambda torch, x: (x.sum(), x.mean(), x.sum(0)), normal(100, 1000) + 1)


@pytest.mark.parametrize("name", ["mean", "var", "std"])
def test_no_means_of_integers(name):
    compare(lambda torch, x: getattr(x, name)(), np.arange(4))


@pytest.mark.parametrize("name", ["sum", "mean", "max"])
def test_a_dtype_is_not_an_argument(name):
    """PyTorch's sum(dtype=) is left out: convert first."""
    if name != "max":
        refused(lambda torch, x: getattr(torch, name)(x, dtype=torch.float64), normal(3))


def test_equal_and_allclose():
    a, b = normal(3, 4), normal(3, 4)
    compare(lambda torch, a, b: (torch.equal(a, b), torch.allclose(a, b)), a, b)
    compare(lambda torch, a, b: (torch.equal(a, b), torch.allclose(a, b)), a, b + np.float32(1e-3))
    compare(lambda torch, a, b: torch.equal(a, b), a, b[:2])
    compare(lambda torch, a, b: torch.equal(a, b), a, normal(4))
    nan = np.array([1, np.nan])
    compare(lambda torch, a, b: (torch.equal(a, b), torch.allclose(a, b)), nan, nan)
    compare(lambda torch, a, b: torch.allclose(a, b, equal_nan=True), nan, nan)
    compare(lambda torch, a, b: torch.allclose(a, b, rtol=0, atol=0.5), a, b + np.float32(0.25))
