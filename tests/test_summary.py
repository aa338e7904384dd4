"""summary: shapes, formulas, parameters and multiply-adds; the network is left as it was."""

import threading

import numpy as np
import pytest

import fastconv
import fastconv.nn.functional as F
from fastconv import nn, summary
from fastconv.models import Net

NET = """\
Layer           Output shape     Formula                                   Parameters  Multiply-adds
----------------------------------------------------------------------------------------------------
conv1 (Conv2d)  (1, 6, 30, 30)   (32 + 2*0 - 1*(3 - 1) - 1) // 1 + 1 = 30          60         48,600
relu            (1, 6, 30, 30)                                                      0              0
max_pool2d      (1, 6, 15, 15)   (30 + 2*0 - 1*(2 - 1) - 1) // 2 + 1 = 15           0              0
conv2 (Conv2d)  (1, 16, 13, 13)  (15 + 2*0 - 1*(3 - 1) - 1) // 1 + 1 = 13         880        146,016
relu            (1, 16, 13, 13)                                                     0              0
max_pool2d      (1, 16, 6, 6)    (13 + 2*0 - 1*(2 - 1) - 1) // 2 + 1 = 6            0              0
view            (1, 576)         16*6*6 = 576                                       0              0
fc1 (Linear)    (1, 120)         576 -> 120                                    69,240         69,120
relu            (1, 120)                                                            0              0
fc2 (Linear)    (1, 84)          120 -> 84                                     10,164         10,080
relu            (1, 84)                                                             0              0
fc3 (Linear)    (1, 10)          84 -> 10                                         850            840
----------------------------------------------------------------------------------------------------
Parameters: 81,194 (81,194 trainable)
Multiply-adds: 274,656"""


def row(layer, size, **options):
    found = summary(layer, size, **options).rows
    assert len(found) == 1
    return found[0]


def test_the_tutorials_net():
    """Why conv1 gives 30 x 30."""
    table = summary(Net(), (1, 1, 32, 32))
    assert str(table) == repr(table) == NET


@pytest.mark.parametrize(
    ("options", "size", "formulas"),
    [
        ({"padding": 1}, (9, 9), ["(9 + 2*1 - 1*(3 - 1) - 1) // 1 + 1 = 9"]),
        ({"padding": "valid"}, (9, 9), ["(9 + 2*0 - 1*(3 - 1) - 1) // 1 + 1 = 7"]),
        (
            {"padding": "same", "kernel_size": 4},
            (9, 9),
            ["(9 + 1 + 2 - 1*(4 - 1) - 1) // 1 + 1 = 9"],
        ),
        (
            {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 3)},
            (9, 12),
            [
                "height (9 + 2*0 - 1*(3 - 1) - 1) // 2 + 1 = 4",
                "width (12 + 2*2 - 3*(3 - 1) - 1) // 1 + 1 = 10",
            ],
        ),
        (
            {"padding": ((1, 0), (2, 3))},
            (9, 9),
            [
                "height (9 + 1 + 0 - 1*(3 - 1) - 1) // 1 + 1 = 8",
                "width (9 + 2 + 3 - 1*(3 - 1) - 1) // 1 + 1 = 12",
            ],
        ),
    ],
)
def test_the_formula_is_right(options, size, formulas):
    """Each formula, computed, gives the size that the layer gave."""
    layer = nn.Conv2d(4, 6, **{"kernel_size": 3, "groups": 2, **options})
    found = row(layer, (2, 4, *size))
    assert found.formulas == formulas
    computed = [
        eval(f.split(" = ")[0].removeprefix("height").removeprefix("width")) for f in formulas
    ]
    assert found.output_shape[2:] == tuple(computed * 2)[:2]
    assert found.output_shape == tuple(layer(fastconv.zeros(2, 4, *size)).shape)
    kernel = np.prod(layer.kernel_size)
    assert found.multiply_adds == np.prod(found.output_shape) * kernel * 2
    assert found.parameters == 6 * 2 * kernel + 6


@pytest.mark.parametrize(
    ("pool", "size", "formula"),
    [
        (nn.MaxPool2d(2), 7, "(7 + 2*0 - 1*(2 - 1) - 1) // 2 + 1 = 3"),
        (nn.MaxPool2d(2, ceil_mode=True), 7, "ceil((7 + 2*0 - 1*(2 - 1) - 1) / 2) + 1 = 4"),
        (
            nn.MaxPool2d(2, 3, padding=1, ceil_mode=True),
            6,
            "ceil((6 + 2*1 - 1*(2 - 1) - 1) / 3) + 1 = 3",
        ),
        (
            nn.MaxPool2d(2, 3, padding=1, ceil_mode=True),
            5,
            "ceil((5 + 2*1 - 1*(2 - 1) - 1) / 3) + 1 - 1 (no window may start in the padding) = 2",
        ),
    ],
)
def test_pooling(pool, size, formula):
    found = row(pool, (1, 1, size, size))
    assert found.formulas == [formula]
    assert found.output_shape == (1, 1, *[int(formula[-1])] * 2)


@pytest.mark.parametrize(
    ("pool", "size", "formulas"),
    [
        (nn.AvgPool2d(3, 2, 1), 7, ["(7 + 2*1 - 1*(3 - 1) - 1) // 2 + 1 = 4"]),
        (nn.AdaptiveAvgPool2d(1), 7, ["height 7: 1 windows of 7", "width 7: 1 windows of 7"]),
        (
            nn.AdaptiveAvgPool2d((3, None)),
            7,
            ["height 7: 3 windows of 3", "width 7: 7 windows of 1"],
        ),
        (
            nn.AdaptiveAvgPool2d(5),
            7,
            ["height 7: 5 windows of 2 to 3", "width 7: 5 windows of 2 to 3"],
        ),
    ],
)
def test_averages(pool, size, formulas):
    found = row(pool, (1, 1, size, size))
    assert found.formulas == formulas
    assert found.output_shape == tuple(pool(fastconv.zeros(1, 1, size, size)).shape)


class Shared(nn.Module):
    """A layer called twice, a parameter of its own, and functions between layers."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.drop = nn.Linear(3, 3)
        self.scale = nn.Parameter(np.ones(3, np.float32))
        self.drop.requires_grad_(False)
        self.fail = False

    def forward(self, x, y):
        x = self.fc(F.relu(self.fc(x)) * self.scale)
        if self.fail:
            raise RuntimeError("half-way")
        return (x + y).matmul(self.drop.weight)


def test_a_row_per_call():
    table = summary(Shared(), [(2, 3), (3,)])
    kinds = [(r.name, r.kind, r.parameters, r.multiply_adds) for r in table.rows]
    assert kinds == [
        ("fc", "Linear", 12, 18),
        ("", "relu", 0, 0),
        ("", "mul", 0, 0),
        ("fc", "Linear", 0, 18),
        ("", "add", 0, 0),
        ("", "matmul", 0, 18),
    ]
    assert table.total_parameters == 27 and table.trainable_parameters == 15
    assert table.multiply_adds == 54
    assert "Parameters in no row above: 15" in str(table)


def test_layers_inside_layers():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.Flatten(), nn.Linear(8, 2))
    rows = summary(net, (5, 1, 4, 4)).rows
    assert [(r.name, r.kind) for r in rows] == [
        ("0.0", "Conv2d"),
        ("0.1", "ReLU"),
        ("1", "Flatten"),
        ("2", "Linear"),
    ]
    assert rows[2].formulas == ["2*2*2 = 8"] and rows[2].output_shape == (5, 8)


@pytest.mark.parametrize("fail", [False, True])
def test_the_network_is_left_as_it_was(fail):
    net, x = Shared(), fastconv.ones(1, 3)
    net(x, x).sum().backward()
    net.drop.eval()
    net.fail = fail
    grads = [p.grad for p in net.parameters()]
    values = [None if g is None else g.numpy().copy() for g in grads]
    calls = []
    net.fc.register_forward_hook(lambda *_: calls.append(1))
    fastconv.manual_seed(3)
    expected = fastconv.randn(2).numpy().tolist()
    fastconv.manual_seed(3)
    if fail:
        with pytest.raises(RuntimeError, match="half-way"):
            summary(net, [(2, 3), (2, 3)])
    else:
        summary(net, [(2, 3), (2, 3)])
    assert len(calls) == 2
    assert fastconv.randn(2).numpy().tolist() == expected
    assert [m.training for m in net.modules()] == [True, True, False]
    for p, grad, value in zip(net.parameters(), grads, values, strict=True):
        assert p.grad is grad and (value is None or np.array_equal(grad.numpy(), value))
    net.fail = False
    y = net(x, x)
    assert y.requires_grad and len(calls) == 4
    assert not any(m._forward_pre_hooks for m in net.modules())
    assert summary(net.fc, (4, 3)).rows[0].output_shape == (4, 3)


def test_what_other_threads_do_is_not_counted():
    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 2)
            self.beside = None

        def forward(self, x):
            beside, self.beside = self.beside, None
            if beside:
                thread = threading.Thread(target=beside)
                thread.start()
                thread.join(60)
            return self.outer(self.inner(x))

    net, done = Slow(), []
    expected = str(summary(net, (2, 4)))

    def beside():
        done.append(net(fastconv.ones(3, 4)).shape)
        done.append(Net()(fastconv.ones(1, 1, 32, 32)).shape)

    net.beside = beside
    assert str(summary(net, (2, 4))) == expected and done == [(3, 2), (1, 10)]


def test_dtype_is_the_networks():
    net = nn.Linear(2, 2).double()
    assert row(net, (1, 2)).output_shape == (1, 2)
    with pytest.raises(TypeError, match="Linear"):
        summary(net, (1, 2), dtype=fastconv.float32)


def test_bad_arguments():
    with pytest.raises(TypeError, match="takes a Module"):
        summary(F.relu, (1, 1))
    for size in ("1, 1", 3, (1, 2.5), [(1, 2), 3]):
        with pytest.raises(TypeError, match="input_size"):
            summary(nn.ReLU(), size)
    with pytest.raises(ValueError, match="negative"):
        summary(nn.ReLU(), (1, -1))
    with pytest.raises(ValueError, match="Conv2d"):
        summary(Net(), (1, 2, 32, 32))
