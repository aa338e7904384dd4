import numpy as np
import pytest
import reference as ref
from helpers import AWKWARD, check, covers, integers, normal, numeric_slope

from fastconv import kernels

REDUCTIONS = ("none", "mean", "sum")
SHAPES = [(1,), (7,), (3, 5), (4, 33), (2, 3, 4, 5), (0, 3), (1, 1), (600,)]
# log_p (N, C, ...), targets are (N, ...)
CLASSES = [(1, 1), (5, 3), (33, 10), (2, 4, 3, 5), (3, 2, 7), (0, 4)]

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.parametrize("reduction", REDUCTIONS),
]


def gradient_of(y, rng, reduction):
    """A dy of the shape of the loss: one number unless there is no reduction."""
    return normal(rng, y.shape, y.dtype) if reduction == "none" else np.full((), 0.75, y.dtype)


@covers("mse_loss", "mse_loss_backward")
@pytest.mark.parametrize("shape", SHAPES)
def test_mse_loss(isa, dtype, rng, shape, reduction):
    x, target = normal(rng, shape, dtype), normal(rng, shape, dtype)
    y = kernels.mse_loss_forward(x, target, reduction)
    expected = ref.mse_loss_forward(x, target, reduction)
    assert y.dtype == dtype
    terms = x.size if reduction != "none" and dtype == np.float64 else 1
    check(y, expected, ref.product_bound(np.nan_to_num(expected), terms, dtype))
    dy = gradient_of(y, rng, reduction)
    expected = ref.mse_loss_backward(dy, x, target, reduction)
    bound = ref.product_bound(abs(expected), 1, dtype)
    check(kernels.mse_loss_backward(dy, x, target, reduction), expected, bound)


@covers("nll_loss", "nll_loss_backward")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", CLASSES)
def test_nll_loss(isa, dtype, rng, shape, weighted, reduction):
    log_p = -abs(normal(rng, shape, dtype))
    target = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    target[rng.random(target.shape) < 0.2] = -100
    weight = abs(normal(rng, shape[1], dtype)) if weighted else None
    for given, ignore_index in ((target, -100), (np.where(target < 0, 0, target), 0)):
        options = given, weight, ignore_index, reduction
        expected = ref.nll_loss_forward(log_p, *options)
        y = kernels.nll_loss_forward(log_p, *options)
        assert y.dtype == dtype
        terms = 1 if reduction == "none" else 2 * given.size
        check(y, expected, ref.product_bound(abs(np.nan_to_num(expected)), terms, dtype))
        dy = gradient_of(y, rng, reduction)
        expected = ref.nll_loss_backward(dy, log_p, *options)
        dx = kernels.nll_loss_backward(dy, log_p, *options)
        check(dx, expected, ref.product_bound(abs(np.nan_to_num(expected)), terms, dtype))


def test_all_ignored(isa, dtype, reduction):
    """0/0 for the mean, as in PyTorch; and nothing flows back."""
    log_p, target = np.full((2, 3), np.nan, dtype), np.array([-100, -100])
    y = kernels.nll_loss_forward(log_p, target, reduction=reduction)
    check(y, {"none": [0, 0], "mean": np.nan, "sum": 0}[reduction])
    dx = kernels.nll_loss_backward(np.ones(y.shape, dtype), log_p, target, None, -100, reduction)
    check(dx, np.zeros((2, 3)))


def test_gradients_by_central_difference(isa, rng, reduction):
    x, other, direction = (rng.standard_normal((4, 5)) for _ in range(3))
    target, weight = np.array([0, 4, -100, 2]), rng.random(5) + 0.5
    losses = [
        (
            lambda x: kernels.mse_loss_forward(x, other, reduction),
            lambda dy: kernels.mse_loss_backward(dy, x, other, reduction),
        ),
        (
            lambda x: kernels.nll_loss_forward(x, target, weight, -100, reduction),
            lambda dy: kernels.nll_loss_backward(dy, x, target, weight, -100, reduction),
        ),
        (
            lambda x: kernels.nll_loss_forward(
                kernels.log_softmax(x, 1), target, weight, -100, reduction
            ),
            lambda dy: kernels.log_softmax_backward(
                kernels.nll_loss_backward(dy, x, target, weight, -100, reduction),
                kernels.log_softmax(x, 1),
                1,
            ),
        ),
    ]
    for forward, backward in losses:
        dy = gradient_of(forward(x), rng, reduction)
        slope = numeric_slope(lambda x, f=forward, dy=dy: np.vdot(f(x), dy), x, direction)
        assert slope == pytest.approx(np.vdot(backward(dy), direction), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("awkward", AWKWARD)
def test_awkward_operands(isa, dtype, rng, awkward, reduction):
    x, t = integers(rng, (4, 8), dtype), integers(rng, (4, 8), dtype)
    target, weight = rng.integers(0, 8, 4), np.array([1, 2] * 4, dtype)
    y = kernels.mse_loss_forward(awkward(x), awkward(t), reduction)
    check(y, ref.mse_loss_forward(x, t, reduction))
    dx = kernels.mse_loss_backward(np.ones_like(y), awkward(x), awkward(t), reduction)
    check(dx, ref.mse_loss_backward(np.ones_like(y), x, t, reduction))
    given = awkward(target), awkward(weight), -100, reduction
    y = kernels.nll_loss_forward(awkward(x), *given)
    bound = 4 * np.finfo(dtype).eps * 16
    check(y, ref.nll_loss_forward(x, target, weight, -100, reduction), bound)
    dx = kernels.nll_loss_backward(np.ones_like(y), awkward(x), *given)
    check(dx, ref.nll_loss_backward(np.ones_like(y), x, target, weight, -100, reduction), bound)


def test_nan_and_inf_propagate(isa, dtype, reduction):
    x, target = np.array([[np.nan, 1], [np.inf, 2]], dtype), np.ones((2, 2), dtype)
    y = kernels.mse_loss_forward(x, target, reduction)
    check(y, ref.mse_loss_forward(x, target, reduction), np.finfo(dtype).eps)
    labels = np.array([0, 1])
    y = kernels.nll_loss_forward(x, labels, reduction=reduction)
    check(y, ref.nll_loss_forward(x, labels, reduction=reduction), np.finfo(dtype).eps)
    y = kernels.nll_loss_forward(x, np.array([1, 1]), reduction=reduction)  # NaN is not looked at
    check(y, ref.nll_loss_forward(x, np.array([1, 1]), reduction=reduction))


def test_labels_of_64_bits(reduction):
    """None is taken for another number."""
    log_p = np.zeros((2, 3), np.float32)
    with pytest.raises(IndexError, match=f"{2**64 - 100} is out of bounds"):
        kernels.nll_loss_forward(log_p, np.array([0, 2**64 - 100], np.uint64), reduction=reduction)
    with pytest.raises(ValueError, match="ignore_index must be an integer of 64 bits"):
        kernels.nll_loss_forward(log_p, np.array([0, 1]), None, 2**70, reduction)
    kernels.nll_loss_forward(log_p, np.array([0, 1], np.uint64), reduction=reduction)
