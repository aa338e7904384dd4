"""backward, grad modes, leaves, in-place changes, conversions of Tensors of one element."""

import copy

import pytest
from libraries import compare, normal, refused

TAPE = {
    "twice": lambda t, x: [(x * x).sum().backward(), (x * 3).sum().backward(), x.grad][2],
    "backward twice": lambda t, x: (lambda y: [y.backward(), y.backward()])((x * x).sum()),
    "retain": lambda t, x: (lambda y: [y.backward(retain_graph=True), y.backward(), x.grad][2])(
        (x * x).sum()
    ),
    "no grad": lambda t, x: x.detach().sum().backward(),
    "vector": lambda t, x: (x * 2).backward(),
    "gradient shape": lambda t, x: (x * 2).backward(t.ones(3)),
    "gradient": lambda t, x: [(x * 2).backward(gradient=t.ones_like(x)), x.grad][1],
    "leaf in place": lambda t, x: x.add_(1),
    "leaf in no_grad": lambda t, x: no_grad_step(t, x),
    "saved and changed": lambda t, x: changed_after_saving(t, x),
    "numpy of a grad": lambda t, x: x.numpy(),
    "numpy": lambda t, x: float(x.detach().numpy().sum()) == float(x.detach().numpy().sum()),
    "requires_grad_ of non-leaf": lambda t, x: (x * 2).requires_grad_(False),
    "is_leaf": lambda t, x: (
        x.is_leaf,
        (x * 2).is_leaf,
        (x * 2).detach().is_leaf,
        (x * 2).requires_grad,
    ),
    "grad mode": lambda t, x: grad_modes(t, x),
    "decorated": lambda t, x: t.no_grad()(lambda y: y * 2)(x).requires_grad,
    "view of a leaf": lambda t, x: x.detach().requires_grad_().view(-1)[0].backward(),
    "unused": lambda t, x: [x.sum().backward(), t.ones(1, requires_grad=True).grad][1],
    "grad set by hand": lambda t, x: grad_by_hand(t, x),
    "deepcopy": lambda t, x: copy.deepcopy(x),
    "deepcopy of a result": lambda t, x: copy.deepcopy(x * 2),
    "contains": lambda t, x: bool(x[0, 0, 0, 0] == x[0, 0, 0, 0]) and len(x) == 2,
    "conversions": lambda t, x: (
        float(x[0, 0, 0, 0]),
        int(x[0, 0, 0, 0] * 10),
        bool(x[0, 0, 0, 0] > -9),
    ),
    "index": lambda t, x: [1, 2, 3][t.tensor(1)],
    "index of a float": lambda t, x: [1, 2, 3][t.tensor(1.0)],
}


def test_gradients_of_another_dtype_are_refused():
    """PyTorch converts them."""
    refused(lambda t, x: (x * 2).backward(t.ones(2, dtype=t.float64)), normal(2))


def no_grad_step(t, x):
    x.sum().backward()
    with t.no_grad():
        x -= 0.1 * x.grad
    return x * 1


def changed_after_saving(t, x):
    y = x * 1
    z = y * y
    y.add_(1)
    z.sum().backward()


def grad_modes(t, x):
    seen = [t.is_grad_enabled()]
    with t.no_grad():
        seen += [t.is_grad_enabled(), (x * 2).requires_grad]
        with t.enable_grad():
            seen += [t.is_grad_enabled(), (x * 2).requires_grad]
    with t.set_grad_enabled(False):
        seen.append(t.is_grad_enabled())
    return [*seen, t.is_grad_enabled()]


def grad_by_hand(t, x):
    x.grad = t.ones_like(x)
    x.sum().backward()
    return x.grad


@pytest.mark.parametrize("name", TAPE)
def test_tape(name):
    compare(lambda torch, x: TAPE[name](torch, x), normal(2, 2, 4, 4), backward=False)
