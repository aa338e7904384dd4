"""A net and its compiled twin: what both leave behind, compared bit by bit."""

import copy

import numpy as np
import pytest

import fastconv
from fastconv import nn, optim
from fastconv.autograd import Tensor


def bits(value):
    """All numbers in a value, as bytes, with dtypes and shapes."""
    if isinstance(value, Tensor):
        array = value._array
        return (str(array.dtype), array.shape, array.tobytes(), value.requires_grad)
    if isinstance(value, list | tuple):
        return [bits(v) for v in value]
    if isinstance(value, dict):
        return {k: bits(v) for k, v in value.items()}
    return value


def state_of(*owners):
    """All that training leaves behind: parameters, gradients, buffers, what optimizers remember."""
    found = []
    for owner in owners:
        if isinstance(owner, nn.Module):
            found.append(bits(dict(owner.state_dict())))
            found.append([p.grad if p.grad is None else bits(p.grad) for p in owner.parameters()])
        elif isinstance(owner, optim.Optimizer):
            found.append({k: bits(v) for k, v in owner.state_dict()["state"].items()})
        else:
            found.append(bits(owner))
            found.append(None if owner.grad is None else bits(owner.grad))
    return found


def training_step(net, optimizer, criterion, set_to_none=False):
    """step(x, y): the usual five lines."""

    def step(x, y):
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = criterion(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


class Twin:
    """A net, its optimizer, and a step: eager or compiled."""

    def __init__(self, compiled, net, make_optimizer, criterion, set_to_none=False):
        self.net, self.criterion = copy.deepcopy(net), criterion
        self.optimizer = make_optimizer(self.net.parameters())
        step = training_step(self.net, self.optimizer, criterion, set_to_none)
        self.step = fastconv.compile(step) if compiled else step

    def state(self):
        return state_of(self.net, self.optimizer)


def both(make):
    """(step, *owners), as make() gives them, and once more with the step compiled."""
    step, *owners = make()
    other, *its_owners = make()
    return (step, *owners), (fastconv.compile(other), *its_owners)


def twins(*args, **kwargs):
    return Twin(False, *args, **kwargs), Twin(True, *args, **kwargs)


def batch(rng, n=2, classes=False, dtype=np.float32):
    x = Tensor(np.asarray(rng.standard_normal((n, 1, 32, 32)), dtype))
    labels = rng.integers(0, 10, n)
    return x, Tensor(labels if classes else np.asarray(rng.standard_normal((n, 10)), dtype))


def compare(eager, compiled, data):
    """One call of both: the same results, the same state."""
    assert bits(eager.step(*data)) == bits(compiled.step(*data))
    assert eager.state() == compiled.state()


def plans(step):
    return len(step._plans)


def tiny(rng=None):
    fastconv.manual_seed(7)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def vector(rng, *shape):
    return Tensor(np.asarray(rng.standard_normal(shape), np.float32))


def eager(cause, *, times=1):
    """Expect that many warnings, of that cause."""
    return pytest.warns(UserWarning, match=f"runs eagerly, because .*{cause}")


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05),
    "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.1),
    "nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "decay": lambda p: optim.SGD(p, lr=0.05, weight_decay=1e-2),
    "adam": lambda p: optim.Adam(p, lr=1e-3),
    "adam decay": lambda p: optim.Adam(p, lr=1e-3, weight_decay=1e-2),
}
