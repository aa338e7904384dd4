"""Batch normalisation and dropout: outputs, gradients, statistics, modes, errors."""

import numpy as np
import pytest
from libraries import LIBRARIES, compare, dtype_of, normal, same_print

SHAPES = [(4, 3, 5, 6), (2, 5, 7, 7), (16, 8), (3, 4, 9), (1, 2, 3, 3), (9, 70, 1, 1), (0, 3, 4, 4)]
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
# dx is a difference of three terms of up to xhat's largest, about 3 of its 16: 64 units allow for that.
ULPS = 64


def arrays(shape, dtype):
    x, *rest = (normal(*s, dtype=dtype, seed=i) for i, s in enumerate((shape, *[shape[1:2]] * 4)))
    return x * 2 + 1, *rest


@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(shape, dtype, training):
    x, w, b, mean, var = arrays(shape, dtype)

    def program(torch, x, w, b):
        F, state = torch.nn.functional, [torch.tensor(a) for a in (mean, abs(var))]
        y = F.batch_norm(x, *state, w, b, training, 0.3, 1e-4)
        return y, *state, F.batch_norm(x, *state, None, b, training), F.batch_norm(x, *state, w)

    compare(program, x, w, b, ulps=ULPS)


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_without_anything(shape):
    compare(
        lambda torch, x: torch.nn.functional.batch_norm(x, None, None, training=True),
        normal(*shape, dtype="float64"),
        ulps=ULPS,
    )


LAYERS = {
    "plain": {},
    "momentum": {"momentum": 0.7},
    "average": {"momentum": None},
    "eps": {"eps": 0.1},
    "not affine": {"affine": False},
    "no bias": {"bias": False},
    "untracked": {"track_running_stats": False},
    "bare": {"affine": False, "track_running_stats": False},
}


@DTYPES
@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_layer_in_both_modes(options, dtype):
    """Three batches, then evaluation, then a batch again: results, gradients, and the state after all."""
    x = normal(5, 4, 3, 6, 6, dtype=dtype) * 2 + 3

    def program(torch, x):
        layer = torch.nn.BatchNorm2d(4, **options, dtype=dtype_of(torch, dtype))
        seen = [layer(batch) for batch in x[:3]]
        seen.append(layer.eval()(x[3]))
        seen.append(layer.train()(x[4]))
        return *seen, list(layer.state_dict()), *layer.state_dict().values()

    def axes(torch, x):
        return program(torch, x.transpose(1, 2))

    compare(axes, np.ascontiguousarray(np.moveaxis(x, 1, 2)), ulps=ULPS)


def test_one_axis():
    def program(torch, x):
        layer = torch.nn.BatchNorm1d(3)
        return layer(x), layer(x[:, :, 0]), layer.eval()(x[:1]), *layer.state_dict().values()

    compare(program, normal(4, 3, 5), ulps=ULPS)


def test_frozen():
    """Trained in evaluation mode, as when a backbone is kept."""

    def program(torch, x):
        layer = torch.nn.BatchNorm2d(3)
        layer(x.detach())
        layer.eval().weight.requires_grad_(False)
        (layer(x) * 3).sum().backward()
        return layer.bias.grad, x.grad, layer.weight.grad is None

    compare(program, normal(4, 3, 5, 5), ulps=ULPS)


def test_state_goes_both_ways():
    layers = [lib.nn.BatchNorm2d(3) for lib in LIBRARIES]
    for lib, layer in zip(LIBRARIES, layers, strict=True):
        layer(lib.tensor(normal(2, 3, 4, 4)))
    for lib, layer, other in zip(LIBRARIES, layers, layers[::-1], strict=True):
        state = {name: lib.tensor(t.numpy()) for name, t in other.state_dict().items()}
        assert str(layer.load_state_dict(state)) == "<All keys matched successfully>"
        assert layer.num_batches_tracked.dtype == lib.int64


MISUSE = {
    "one value": lambda nn, torch: nn.BatchNorm2d(3)(torch.ones(1, 3, 1, 1)),
    "one value, one axis": lambda nn, torch: nn.BatchNorm1d(3)(torch.ones(1, 3)),
    "one value, evaluation": lambda nn, torch: nn.BatchNorm1d(3).eval()(torch.ones(1, 3)),
    "axes": lambda nn, torch: nn.BatchNorm2d(3)(torch.ones(2, 3, 4)),
    "axes of one": lambda nn, torch: nn.BatchNorm1d(3)(torch.ones(2, 3, 4, 4)),
    "channels": lambda nn, torch: nn.BatchNorm2d(3)(torch.ones(2, 4, 2, 2)),
    "dtype": lambda nn, torch: nn.BatchNorm2d(3)(torch.ones(2, 3, 2, 2).double()),
    "no statistics": lambda nn, torch: nn.functional.batch_norm(torch.ones(2, 3), None, None),
    "half the statistics": lambda nn, torch: nn.functional.batch_norm(
        torch.ones(2, 3), torch.ones(3), None, training=True
    ),
    "negative": lambda nn, torch: nn.BatchNorm2d(-1),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name):
    compare(lambda torch: (MISUSE[name](torch.nn, torch), None)[1])


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_print(options):
    same_print(lambda torch: torch.nn.BatchNorm2d(3, **options))
    same_print(lambda torch: torch.nn.BatchNorm1d(3, **options))


def test_in_place_after_it():
    """ReLU and an addition may overwrite its result, which its gradient does not read."""

    def program(torch, x, w):
        F = torch.nn.functional
        y = F.relu(F.batch_norm(x, None, None, w, training=True), inplace=True)
        z = F.batch_norm(y, None, None, w, training=True)
        z += x
        return F.relu(z, inplace=True)

    compare(program, normal(4, 3, 5, 5), normal(3, seed=1), ulps=ULPS)


def test_an_input_changed_in_place():
    def program(torch, x):
        h = x * 1
        y = torch.nn.BatchNorm2d(3)(h)
        h.mul_(2)
        y.sum().backward()

    compare(program, normal(4, 3, 5, 5))


# Dropout -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Dropout", "Dropout2d"])
@pytest.mark.parametrize("inplace", [False, True])
def test_dropout_where_nothing_is_random(name, inplace):
    def program(torch, x):
        layers = [getattr(torch.nn, name)(p, inplace) for p in (0.0, 0.5, 1.0)]
        layers[1].eval()
        return [layer(x * 1) for layer in layers]

    compare(program, normal(4, 3, 5, 6))


@pytest.mark.parametrize("name", ["Dropout", "Dropout2d"])
def test_dropout_is_zero_or_a_multiple(name):
    """And shape, dtype and what is dropped together are PyTorch's; what is dropped is not."""

    def program(torch, x):
        y = getattr(torch.nn, name)(0.2)(x)
        kept = (y != 0) * (x != 0)
        whole = (kept == kept[:, :, :1, :1]).all().item()
        return (y - kept * (x / 0.8)).abs().max().item() < 1e-6, y.shape, y.requires_grad, whole

    compare(program, normal(4, 30, 5, 6), backward=False)


DROPOUTS = {
    "too small": lambda torch: torch.nn.Dropout(-0.1),
    "too large": lambda torch: torch.nn.Dropout2d(1.1),
    "function": lambda torch: torch.nn.functional.dropout(torch.ones(2), 2.0),
    "function, evaluation": lambda torch: torch.nn.functional.dropout(torch.ones(2), 2.0, False),
    "one axis": lambda torch: torch.nn.functional.dropout2d(torch.ones(2), 0.5),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_misuse_of_dropout(name):
    compare(lambda torch: (DROPOUTS[name](torch), None)[1])


def test_print_of_dropout():
    same_print(lambda torch: torch.nn.Dropout())
    same_print(lambda torch: torch.nn.Dropout2d(0.2, inplace=True))
