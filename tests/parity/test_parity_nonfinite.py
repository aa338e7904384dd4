"""NaN and infinities go through a network as they do in PyTorch: forward and backward."""

import numpy as np
import pytest
from libraries import compare, normal

inf, nan = np.inf, np.nan
SPECIAL = (nan, inf, -inf)


def spoiled(shape, value, *places, seed=0):
    x = normal(*shape, seed=seed)
    for place in places:
        x[place] = value
    return x


LAYERS = [
    (1, 2, {}),
    (3, 4, {"padding": 1}),
    (3, 4, {"stride": 2, "padding": 1}),
    (4, 4, {"groups": 4, "padding": 1}),
    (16, 32, {"padding": 1}),
    (3, 4, {"dilation": 2, "padding": 2}),
]


def conv2d_arrays(channels, filters, options, dtype):
    shapes = (
        (2, channels, 9, 10),
        (filters, channels // options.get("groups", 1), 3, 3),
        (filters,),
    )
    return [normal(*shape, seed=j).astype(dtype) for j, shape in enumerate(shapes)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", SPECIAL, ids=str)
@pytest.mark.parametrize("channels, filters, options", LAYERS, ids=str)
def test_conv2d(channels, filters, options, value, dtype):
    """One spoiled pixel, or bias, spoils what sees it, and nothing else."""
    conv2d = lambda torch, x, w, b: torch.nn.functional.conv2d(x, w, b, **options)  # noqa: E731
    for i in (0, 2):
        arrays = conv2d_arrays(channels, filters, options, dtype)
        arrays[i].flat[arrays[i].size // 2] = value
        compare(conv2d, *arrays, ulps=32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", SPECIAL, ids=str)
@pytest.mark.parametrize("channels, filters, options", LAYERS, ids=str)
def test_conv2d_of_a_spoiled_weight(channels, filters, options, value, dtype):
    """Without padding: whether NaN times the zeros around x counts, PyTorch itself disagrees."""
    options = {name: v for name, v in options.items() if name != "padding"}
    conv2d = lambda torch, x, w, b: torch.nn.functional.conv2d(x.detach(), w, b, **options)  # noqa: E731
    arrays = conv2d_arrays(channels, filters, options, dtype)
    arrays[1].flat[arrays[1].size // 2] = value
    compare(conv2d, *arrays, ulps=32)


@pytest.mark.parametrize("value", SPECIAL, ids=str)
def test_conv2d_of_a_spoiled_gradient(value):
    """dy with one NaN or infinity."""

    def program(torch, x, w, b, factor):
        return torch.nn.functional.conv2d(x, w, b, padding=1) * factor.detach()

    factor = np.ones((2, 4, 6, 6), np.float32)
    factor[1, 2, 3, 4] = value
    compare(program, normal(2, 3, 6, 6), normal(4, 3, 3, 3), normal(4), factor, ulps=32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 1, "padding": 1}, {"ceil_mode": True, "stride": 3}], ids=str
)
def test_max_pool2d(options, dtype):
    """NaN wins over everything; a window of -inf has a place too."""
    corner = [(0, 0, 0, 0), (0, 0, 3, 4), (1, 1, 6, 6)]
    xs = [spoiled((2, 2, 7, 7), value, *corner) for value in SPECIAL]
    xs += [np.full((1, 1, 4, 4), value, dtype) for value in SPECIAL]
    mixed = spoiled((1, 1, 6, 6), -inf, np.s_[0, 0, :3, :3])
    mixed[0, 0, 1, 1] = nan
    mixed[0, 0, 1, 2] = nan
    mixed[0, 0, 0, 4] = inf
    for x in [*xs, mixed]:
        pool = lambda torch, x: torch.nn.functional.max_pool2d(x, 2, return_indices=True, **options)  # noqa: E731
        compare(pool, x.astype(dtype))


@pytest.mark.parametrize("value", SPECIAL, ids=str)
def test_linear_and_matmul(value):
    for i in range(3):
        arrays = [normal(5, 7), normal(4, 7, seed=1), normal(4, seed=2)]
        arrays[i].flat[3] = value
        compare(lambda torch, x, w, b: torch.nn.functional.linear(x, w, b), *arrays, ulps=16)
        compare(lambda torch, x, w, b: x @ w.T + b, *arrays, ulps=16)


@pytest.mark.parametrize("value", SPECIAL, ids=str)
@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "exp", "log", "sqrt", "neg"])
def test_gradients_of_spoiled_gradients(name, value):
    """0 * inf is NaN where PyTorch multiplies, 0 where it selects.

    Not so abs at 0, where PyTorch multiplies and fastconv selects.
    """

    def program(torch, x, factor):
        return getattr(torch, name)(x) * factor.detach()

    x = np.array([-1.0, 0.0, 1.0, 100.0, nan, inf, -inf], np.float32)
    compare(program, x, np.full(7, value, np.float32))


@pytest.mark.parametrize("value", SPECIAL, ids=str)
@pytest.mark.parametrize("loss", ["mse", "cross entropy"])
def test_a_net(loss, value):
    """A whole step: outputs, loss, and every gradient."""

    def program(torch, x, w, v):
        F = torch.nn.functional
        y = F.max_pool2d(F.relu(F.conv2d(x, w, padding=1)), 2)
        y = F.linear(y.flatten(1), v)
        if loss == "mse":
            return y, F.mse_loss(y, torch.zeros(2, 3))
        return y, F.cross_entropy(y, torch.tensor([0, 2]))

    x = spoiled((2, 1, 6, 6), value, (1, 0, 2, 3))
    compare(program, x, normal(4, 1, 3, 3, seed=1), normal(3, 36, seed=2), ulps=64)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_optimizers(optimizer):
    def program(torch, w, factor):
        p = torch.nn.Parameter(w.detach().clone())
        step = getattr(torch.optim, optimizer)([p], lr=0.1)
        for _ in range(2):
            (p * factor.detach()).sum().backward()
            step.step()
        return p

    compare(program, normal(4), np.array([1.0, nan, inf, -inf], np.float32), backward=False)


def test_overflow():
    compare(
        lambda torch, x: (x * x, x + x, (x * x).sum(), torch.exp(x)),
        np.array([3e38, -3e38, 1.0], np.float32),
    )
    x = np.full((1, 2, 3, 3), 3e38, np.float32)
    compare(
        lambda torch, x, w: torch.nn.functional.conv2d(x, w), x, np.ones((1, 2, 2, 2), np.float32)
    )
