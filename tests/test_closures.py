"""The closure of every op, beside slopes: d(dy.y) along a direction of all arguments, by central difference."""

import numpy as np
import pytest
from helpers import normal, numeric_slope

import fastconv
import fastconv.nn.functional as F
from fastconv import Tensor

A, B = (3, 4), (4,)  # B is broadcast
IMAGES, FILTERS = (2, 4, 6, 6), (6, 2, 3, 3)
LABELS = fastconv.tensor([2, 0, 3])
WEIGHTS = fastconv.tensor([0.5, 1, 2, 3], dtype=fastconv.float64)
INDICES = fastconv.tensor([2, 0, 2])


def classes(rng):
    """Probabilities, for three images of four classes."""
    p = rng.random(A) + 0.1
    return Tensor(p / p.sum(1, keepdims=True))


def dropped(f, *rest):
    """With the same mask in each call."""

    def run(*x):
        fastconv.manual_seed(0)
        return f(*x, *rest)

    return run


def written(change):
    """y = x + 0, changed in place by the other arguments."""

    def run(x, *rest):
        y = x + 0
        result = change(y, *rest)
        return y if result is None else result

    return run


def put(y, value):
    y[1:, ::2] = value


POSITIVE = ("log", "sqrt", "pow", "rpow", "pow of two")
# name: a function of Tensors, and their shapes. A name of F or of Tensor; what follows a blank tells cases apart.
CASES = {
    "add": (lambda a, b: a + b, A, B),
    "add alpha": (lambda a, b: a.add(b, alpha=3), A, B),
    "sub": (lambda a, b: a - b, B, A),
    "rsub": (lambda a: 2 - a, A),
    "mul": (lambda a, b: a * b, A, B),
    "div": (lambda a, b: a / (b * b + 1), A, B),
    "rdiv": (lambda a: 2 / (a * a + 1), A),
    "pow": (lambda a: a**3, A),
    "pow of two": (lambda a, b: a**b, A, B),
    "rpow": (lambda a: 3**a, A),
    "neg": (lambda a: -a, A),
    "abs": (lambda a: a.abs(), A),
    "exp": (lambda a: a.exp(), A),
    "log": (lambda a: a.log(), A),
    "sqrt": (lambda a: a.sqrt(), A),
    "tanh": (lambda a: a.tanh(), A),
    "tanh F": (F.tanh, A),
    "sigmoid": (lambda a: a.sigmoid(), A),
    "sigmoid F": (F.sigmoid, A),
    "relu": (lambda a: a.relu(), A),
    "relu F": (F.relu, A),
    "relu_": (written(F.relu_), A),
    "clamp": (lambda a: a.clamp(-0.4, 0.9), A),
    "matmul": (lambda a, b: a @ b, (2, 3, 4), (4, 5)),
    "matmul vectors": (lambda a, b: a @ b, (4,), (2, 4, 3)),
    "mm": (lambda a, b: a.mm(b), A, (4, 2)),
    "bmm": (lambda a, b: a.bmm(b), (2, 3, 4), (2, 4, 2)),
    "to": (lambda a: a.to(fastconv.float64), A),
    "cpu": (lambda a: a.cpu(), A),
    "double": (lambda a: a.double(), A),
    "view": (lambda a: a.view(2, 6), A),
    "view_as": (lambda a: a.view_as(Tensor(np.ones((6, 2)))), A),
    "reshape": (lambda a: a.t().reshape(-1), A),
    "flatten": (lambda a: a.flatten(), A),
    "flatten F": (F.flatten, A),
    "unflatten": (lambda a: a.unflatten(1, (2, 2)), A),
    "squeeze": (lambda a: a.squeeze(1), (3, 1, 4)),
    "unsqueeze": (lambda a: a.unsqueeze(1), A),
    "permute": (lambda a: a.permute(2, 0, 1), (2, 3, 4)),
    "transpose": (lambda a: a.transpose(0, 2), (2, 3, 4)),
    "t": (lambda a: a.t(), A),
    "expand": (lambda a: a.expand(3, 4), B),
    "expand_as": (lambda a, b: a.expand_as(b) * b, B, A),
    "clone": (lambda a: a.clone(), A),
    "contiguous": (lambda a: a.t().contiguous(), A),
    "getitem": (lambda a: a[1:, ::2], A),
    "getitem indices": (lambda a: a[INDICES], A),
    "iterate": (lambda a: sum(row * (i + 1) for i, row in enumerate(a)), A),
    "unbind": (lambda a: a.unbind(1)[2], A),
    "split": (lambda a: a.split(3, dim=1)[1], A),
    "chunk": (lambda a: a.chunk(2, dim=1)[0], A),
    "cat": (lambda a, b: fastconv.cat([a, b, a]), A, (1, 4)),
    "stack": (lambda a, b: fastconv.stack([a, b, a], 1), A, A),
    "add_": (written(lambda y, b: y.add_(b)), A, B),
    "sub_": (written(lambda y, b: y.sub_(b)), A, B),
    "mul_": (written(lambda y, b: y.mul_(b)), A, B),
    "div_": (written(lambda y, b: y.div_(b * b + 1)), A, B),
    "fill_": (written(lambda y: y.fill_(2)), A),
    "zero_": (written(lambda y: y.zero_()), A),
    "copy_": (written(lambda y, b: y.copy_(b)), A, B),
    "setitem": (written(put), A, (2, 2)),
    "uniform_": (dropped(written(lambda y: y.uniform_())), A),
    "normal_": (dropped(written(lambda y: y.normal_())), A),
    "sum": (lambda a: a.sum(1), A),
    "mean": (lambda a: a.mean(0, keepdim=True), A),
    "var": (lambda a: a.var(1), A),
    "std": (lambda a: a.std(0), A),
    "max": (lambda a: a.max(1)[0], A),
    "max all": (lambda a: a.max(), A),
    "min": (lambda a: a.min(0)[0], A),
    "softmax": (lambda a: a.softmax(0), A),
    "softmax F": (lambda a: F.softmax(a, 1), A),
    "log_softmax": (lambda a: a.log_softmax(1), A),
    "log_softmax F": (lambda a: F.log_softmax(a, 0), A),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, 2, 1, groups=2), IMAGES, FILTERS, (6,)),
    "linear": (F.linear, (2, 3, 4), (5, 4), (5,)),
    "batch_norm": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        IMAGES,
        (4,),
        (4,),
    ),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), IMAGES),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1), IMAGES),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (4, 5)), IMAGES),
    "dropout": (dropped(F.dropout, 0.4), A),
    "dropout2d": (dropped(F.dropout2d, 0.4), IMAGES),
    "unfold": (lambda x: F.unfold(x, 3, padding=1, stride=2), IMAGES),
    "fold": (lambda x: F.fold(x, (5, 5), 2), (2, 8, 16)),
    "mse_loss": (F.mse_loss, A, A),
    "nll_loss": (lambda a: F.nll_loss(a, LABELS, reduction="sum"), A),
    "cross_entropy": (lambda a: F.cross_entropy(a, LABELS, label_smoothing=0.1), A),
    "cross_entropy weights": (lambda a: F.cross_entropy(a, LABELS, WEIGHTS), A),
    "cross_entropy of probabilities": (
        lambda a: F.cross_entropy(a, classes(np.random.default_rng(0))),
        A,
    ),
}
NO_GRADIENT = [
    "floor_divide",
    "remainder",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "combine",
    "logical_not",
    "argmax",
    "argmin",
    "all",
    "any",
    "type_",
    "cuda",
    "float_",
    "long",
    "int_",
    "bool_",
    "represent",
    "format_",
]


def ops():
    """Names of the functions of F, and of those that are methods of Tensor."""
    methods = (
        f for f in vars(Tensor).values() if getattr(f, "__module__", "").startswith("fastconv.ops")
    )
    return {*F.__all__, *(f.__name__ for f in methods)}


def test_every_op_has_a_case():
    missing = ops() - {name.split()[0] for name in CASES} - {*NO_GRADIENT}
    assert not missing, f"give {missing} an entry in CASES, or in NO_GRADIENT"


@pytest.mark.parametrize("name", CASES)
def test_slope(rng, name):
    function, *shapes = CASES[name]
    x = [normal(rng, shape, np.float64) for shape in shapes]
    if name in POSITIVE:
        x = [np.abs(array) + 0.1 for array in x]
    inputs = [Tensor(array, requires_grad=True) for array in x]
    y = function(*inputs)
    dy = normal(rng, tuple(y.shape), np.float64)
    if y.requires_grad:
        y.backward(Tensor(dy))
    directions = [normal(rng, shape, np.float64) for shape in shapes]
    gradients = [0 if i.grad is None else i.grad.numpy() for i in inputs]
    wanted = sum(np.sum(d * g) for d, g in zip(directions, gradients, strict=True))

    def along(step):
        moved = (Tensor(a + step * d) for a, d in zip(x, directions, strict=True))
        return np.vdot(function(*moved).numpy(), dy)

    assert numeric_slope(along, 0.0, 1.0) == pytest.approx(wanted, rel=1e-6, abs=1e-6)
