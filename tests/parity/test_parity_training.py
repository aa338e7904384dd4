"""The same weights give the same outputs, gradients and 100-step trajectory."""

import numpy as np
import pytest
from libraries import LIBRARIES, dtype_of, normal, to_numpy
from test_parity_modules import tutorial_net

STEPS = 100
OPTIMIZERS = {
    "SGD": ("SGD", {"lr": 0.05}),
    "SGD momentum": ("SGD", {"lr": 0.02, "momentum": 0.9}),
    "SGD nesterov": ("SGD", {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}),
    "SGD dampening": ("SGD", {"lr": 0.05, "momentum": 0.8, "dampening": 0.5, "weight_decay": 1e-3}),
    "Adam": ("Adam", {"lr": 1e-3}),
    "Adam with decay": (
        "Adam",
        {"lr": 1e-3, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 1e-2},
    ),
}


def batch(step, loss, dtype):
    """Four images, and numbers or classes to reach."""
    rng = np.random.default_rng(step % 8)
    x = rng.standard_normal((4, 1, 32, 32)).astype(dtype)
    t = rng.standard_normal((4, 10)).astype(dtype) if loss == "MSELoss" else rng.integers(0, 10, 4)
    return x, t


def train(torch, optimizer, loss, dtype, state, steps=STEPS):
    """The losses of all steps, the first gradients, and the parameters at the end."""
    net = tutorial_net(torch).to(dtype_of(torch, dtype))
    net.load_state_dict({name: torch.tensor(a) for name, a in state.items()})
    name, options = OPTIMIZERS[optimizer]
    optimizer = getattr(torch.optim, name)(net.parameters(), **options)
    criterion = getattr(torch.nn, loss)()
    losses, first = [], None
    for step in range(steps):
        x, t = (torch.tensor(a) for a in batch(step, loss, dtype))
        optimizer.zero_grad()
        value = criterion(net(x), t)
        value.backward()
        if first is None:
            first = [to_numpy(p.grad) for p in net.parameters()]
        optimizer.step()
        losses.append(value.item())
    return np.array(losses), first, [to_numpy(p) for p in net.parameters()]


def relative_error(ours, theirs):
    """The largest |difference|, as a part of the largest |value|."""
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def initial_state(dtype):
    rng = np.random.default_rng(0)
    net = tutorial_net(LIBRARIES[0])
    return {
        name: rng.uniform(-1, 1, tuple(p.shape)).astype(dtype)
        / np.asarray(max(p.shape[1:], default=9) ** 0.5, dtype)
        for name, p in net.named_parameters()
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["MSELoss", "CrossEntropyLoss"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_trajectory(optimizer, loss, dtype):
    """Gradients to 64 eps of their largest; losses and weights to 64 eps a step, 100 steps.

    Adam divides by the root of a second moment that may be as small as the gradient's rounding:
    8 times that.
    """
    eps = np.finfo(dtype).eps
    state = initial_state(dtype)
    ours, theirs = (train(lib, optimizer, loss, dtype, state) for lib in LIBRARIES)
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert relative_error(a, b) <= 64 * eps
    allowed = 64 * eps * STEPS * (8 if optimizer.startswith("Adam") else 1)
    assert relative_error(ours[0], theirs[0]) <= allowed
    for a, b in zip(ours[2], theirs[2], strict=True):
        assert relative_error(a, b) <= allowed
    assert ours[0][-8:].mean() < ours[0][:8].mean(), (
        "nothing was learnt: the comparison says little"
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [0, 1, 3, 64])
def test_outputs_and_gradients(count, dtype):
    eps = np.finfo(dtype).eps
    state, x = initial_state(dtype), normal(count, 1, 32, 32, dtype=dtype)
    found = []
    for lib in LIBRARIES:
        net = tutorial_net(lib).to(dtype_of(lib, dtype))
        net.load_state_dict({name: lib.tensor(a) for name, a in state.items()})
        images = lib.tensor(x, requires_grad=True)
        y = net(images)
        y.backward(lib.tensor(normal(count, 10, dtype=dtype, seed=1)))
        found.append([to_numpy(t) for t in (y, images.grad, *(p.grad for p in net.parameters()))])
    for ours, theirs in zip(*found, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max(initial=0) <= 64 * eps * np.abs(theirs).max(initial=0)
