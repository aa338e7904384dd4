"""`compile`: what cannot be replayed runs eagerly, and says so once."""

import collections
import threading
import warnings
import weakref

import numpy as np
import pytest
from twins import bits, compare, eager, plans, state_of, tiny, twins, vector

import fastconv
from fastconv import nn, optim
from fastconv.autograd import Tensor, no_grad
from fastconv.nn import functional as F

# What runs eagerly says so: no test passes because nothing was replayed.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")


# What is seen half-way -----------------------------------------------------------------------------


class Attributes:
    scale = 2.0

    def __init__(self):
        self.shift = 1.0


HALF_WAY = {
    "item": (lambda x: x * x.sum().item(), r"\.item\(\)"),
    "float": (lambda x: x * float(x.sum()), r"float\(\)"),
    "int": (lambda x: x * int(x.sum()), r"int\(\)"),
    "bool": (lambda x: x * 2 if x.sum() > 0 else x * 3, "the truth value"),
    "tolist": (lambda x: x * x.tolist()[0], r"\.tolist\(\)"),
    "repr": (lambda x: x * len(repr(x)), "printing"),
    "format": (lambda x: x * len(f"{x}"), "printing|item"),
    "print": (lambda x: print(x) or x * 2, "printing"),
    "numpy": (lambda x: x * x.numpy()[0], r"\.numpy\(\)"),
    "NumPy's function": (lambda x: x * np.max(np.asarray(x)), r"\.numpy\(\)"),
    "asarray": (lambda x: Tensor(np.asarray(x) * 2) + x, r"\.numpy\(\)"),
    "equal": (lambda x: x * 2 if fastconv.equal(x, x * 1) else x, "truth|integers"),
    "allclose": (lambda x: x * 2 if fastconv.allclose(x, x * 1) else x, "allclose"),
    "integers": (lambda x: x * (x > 0).sum(), "integers"),
    "conversion": (lambda x: x.double() * 2, "conversion"),
    "mask": (lambda x: x[x > 0] * 2, "indexing"),
    "indices": (lambda x: x[Tensor(np.array([0, 1]))] * 2, "indexing"),
    "an index": (lambda x: x * x[x.argmax()], "indexing"),
    "list of indices": (lambda x: x[[0, 1]] * 2, "indexing"),
    "assignment by a mask": (lambda x: _assigned(x * 1), "indexing"),
    "rand": (lambda x: x * fastconv.rand(3), "random"),
    "randn": (lambda x: x + fastconv.randn(1), "random|NumPy"),
    "randperm": (lambda x: x[fastconv.randperm(3)] * 2, "random|indexing"),
    "uniform_": (lambda x: (x * 1).uniform_(), "random"),
    "a constant": (lambda x: x * fastconv.tensor([1.0, 2.0, 3.0]), "NumPy"),
    "arange": (lambda x: x * fastconv.arange(3).float(), "conversion|NumPy"),
    "integer in place": (lambda x: x * fastconv.ones(3, dtype=np.int64).add_(1), "integers|conversion"),
    "largest": (lambda x: (x * 2).max(), None),
}  # fmt: skip


def _assigned(y):
    y[y > 0] = 1.0
    return y


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("name", HALF_WAY)
def test_numbers_seen_half_way_run_eagerly(name, made, capsys):
    """Those of an argument, and those that the step itself has made: then they are computed by now."""
    seen, cause = HALF_WAY[name]
    function = (lambda x: seen(x * 2 + 1)) if made else seen
    run = fastconv.compile(function)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(4):
            x = vector(np.random.default_rng(seed), 3)
            fastconv.manual_seed(seed)
            expected = function(x)
            fastconv.manual_seed(seed)
            assert bits(run(x)) == bits(expected)
    if cause is None:
        assert not caught
        return
    assert len(caught) == 1
    text = str(caught[0].message)
    assert pytest.importorskip("re").search(cause, text), text
    assert caught[0].filename == __file__


def test_the_line_is_named(rng):
    def step(x):
        y = x * 2
        if y.sum() > 0:
            return y
        return x

    run = fastconv.compile(step)
    line = step.__code__.co_firstlineno + 2
    with eager(f"the truth value.*line {line} of .*test_compile"):
        run(vector(rng, 3))


def test_an_index_in_a_tensor(rng):
    at = Tensor(np.array(1))
    run = fastconv.compile(lambda x, i: x[i] * x[at])
    with eager("indexing"):
        for i in (0, 1, 2, 0):
            at._array[...] = 2 - i
            x = vector(rng, 3)
            assert bits(run(x, Tensor(np.array(i)))) == bits(x[i] * x[2 - i])


def test_arrays_that_are_reached(rng):
    numbers = np.array([1.0, 2.0])
    run = fastconv.compile(lambda x: x * numbers[0])
    with eager("numbers is a NumPy array"):
        for i in range(3):
            numbers[0] = i
            x = vector(rng, 2)
            assert bits(run(x)) == bits(x * np.float64(i))


def test_integers_made_inside(rng):
    net = tiny()

    def function(x):
        return F.cross_entropy(net(x), fastconv.ones(x.shape[0], dtype=np.int64)).detach()

    run = fastconv.compile(function)
    with eager("NumPy wrote"):
        for _ in range(3):
            x = vector(rng, 2, 4)
            assert bits(run(x)) == bits(function(x))


def _opaque():
    import array
    import contextvars
    import datetime as datetime_module
    import importlib
    import itertools
    import os
    import random
    import time
    from datetime import datetime
    from random import Random
    from secrets import randbelow
    from uuid import uuid4

    from numpy.random import RandomState, default_rng

    generator = np.random.default_rng(0)
    variable = contextvars.ContextVar("v", default=2.0)
    local = threading.local()
    local.k = 2.0
    queue, numbers = collections.deque([2.0]), array.array("d", [2.0])
    counter = itertools.count(2)
    dice, draw, clock = random.Random(0), random.random, time.perf_counter
    letters, view, several = bytearray(b"a"), memoryview(b"a"), iter([1.0, 2.0, 3.0, 4.0])
    target = Attributes()
    weak = weakref.ref(target)
    ordered = collections.OrderedDict(a=2.0)
    return {
        "deque": lambda x: x * queue[0],
        "array": lambda x: x * numbers[0],
        "iterator": lambda x: x * next(counter),
        "context variable": lambda x: x * variable.get(),
        "thread local": lambda x: x * local.k,
        "weak reference": lambda x, kept=target: x * weak().shift,
        "ordered dict": lambda x: x * ordered["a"],
        "NumPy's generator": lambda x: x * generator.random(),
        "random.Random": lambda x: x * dice.random(),
        "random.random": lambda x: x * draw(),
        "a clock": lambda x: x * clock(),
        "the module time": lambda x: x * time.time(),
        "the module random": lambda x: x * random.random(),
        "a new generator of NumPy": lambda x: x * default_rng().random(),
        "RandomState": lambda x: x * RandomState().rand(),
        "a new random.Random": lambda x: x * Random().random(),
        "secrets": lambda x: x * randbelow(9),
        "uuid": lambda x: x * (uuid4().int % 9),
        "urandom": lambda x: x * os.urandom(1)[0],
        "the date": lambda x: x * datetime.now().microsecond,
        "a day": lambda x: x * datetime_module.date.today().day,
        "eval": lambda x: x * eval("COUNTER + 1"),  # noqa: S307
        "import by name": lambda x: x * importlib.import_module("math").pi,
        "bytes that change": lambda x: x * letters[0],
        "memory": lambda x: x * view[0],
        "generator": lambda x: x * next(several),
    }


@pytest.mark.parametrize("name", _opaque())
def test_what_cannot_be_watched_runs_eagerly(rng, name):
    run = fastconv.compile(_opaque()[name])
    with eager("") as caught:
        for _ in range(3):
            run(vector(rng, 2))
    assert len(caught) == 1
    assert plans(run) == 0


# What a function changes ---------------------------------------------------------------------------


COUNTER = 0
LAST = None


def _changing():
    history, table, owner = [], {}, Attributes()
    count = 0

    def closure(x):
        nonlocal count
        count += 1
        return x * count

    def global_number(x):
        global COUNTER
        COUNTER += 1
        return x * COUNTER

    def global_tensor(x):
        global LAST
        LAST = x * 2
        return x + 1

    def global_made(x):
        global MADE
        MADE = x * 2
        return x + 1

    def attribute(x):
        owner.shift += 1
        return x * owner.shift

    def of_class(x):
        type(owner).scale += 1
        return x * owner.scale

    def of_itself(x):
        of_itself.last = x * 2
        return x

    def of_list(x):
        history.append(x * 2)
        return x * len(history)

    def of_dict(x):
        table["last"] = x * 2
        return x + 1

    def of_lr(x):
        optimizer.param_groups[0]["lr"] *= 0.5
        return x * optimizer.param_groups[0]["lr"]

    optimizer = optim.SGD([nn.Parameter(np.ones(2, np.float32))], lr=1.0)
    functions = (
        closure, global_number, global_tensor, global_made, attribute, of_class, of_itself, of_list, of_dict, of_lr,
    )  # fmt: skip
    return {f.__name__: f for f in functions}


@pytest.mark.parametrize("name", _changing())
def test_what_a_function_changes(rng, name):
    plain, run = _changing()[name], _changing()[name]
    globals().pop("MADE", None)
    run = fastconv.compile(run)
    with eager("it changes .* each time") as caught:
        for _ in range(6):
            x = vector(rng, 2)
            before = COUNTER, Attributes.scale
            expected = bits(plain(x))
            globals()["COUNTER"], Attributes.scale = before
            assert bits(run(x)) == expected
            if "global" in name and name != "global_number":
                made = LAST if name == "global_tensor" else globals()["MADE"]
                assert bits(made) == bits(x * 2)
    assert len(caught) == 1
    Attributes.scale = 2.0


def test_a_learning_rate_that_decays_inside(rng):
    def build(wrap):
        net = tiny()
        optimizer = optim.SGD(net.parameters(), lr=0.5)

        class Schedule:
            def step(self):
                for group in optimizer.param_groups:
                    group["lr"] *= 0.9

        schedule = Schedule()

        def step(x, y):
            optimizer.zero_grad()
            loss = nn.MSELoss()(net(x), y)
            loss.backward()
            optimizer.step()
            schedule.step()
            return loss

        return wrap(step), lambda: (state_of(net, optimizer), optimizer.param_groups[0]["lr"])

    step, state = build(lambda f: f)
    step_c, state_c = build(fastconv.compile)
    with eager("it changes .*each time"):
        for _ in range(5):
            data = vector(rng, 2, 4), vector(rng, 2, 3)
            assert bits(step(*data)) == bits(step_c(*data))
            assert state() == state_c()


def test_a_learning_rate_that_is_read(rng):
    def build(wrap, by_list):
        w = nn.Parameter(np.ones(3, np.float32))
        optimizer = optim.SGD([w], lr=0.5)
        groups = optimizer.param_groups

        def step(x):
            optimizer.zero_grad()
            loss = (w * x).sum() * (groups if by_list else optimizer.param_groups)[0]["lr"]
            loss.backward()
            optimizer.step()
            return loss

        return wrap(step), optimizer, w

    for by_list in (False, True):
        step, optimizer, w = build(lambda f: f, by_list)
        step_c, optimizer_c, w_c = build(fastconv.compile, by_list)
        for i in range(8):
            optimizer.param_groups[0]["lr"] = optimizer_c.param_groups[0]["lr"] = 1 / (1 + i // 2)
            x = vector(rng, 3)
            assert bits(step(x)) == bits(step_c(x))
            assert bits(w) == bits(w_c)


@pytest.mark.parametrize("reads", [False, True])
def test_a_trainer_whose_other_methods_read_the_learning_rate(rng, recordings, reads):
    class Trainer:
        def __init__(self):
            self.net = tiny()
            self.optimizer = optim.SGD(self.net.parameters(), lr=0.5)

        def set_rate(self, lr):
            for group in self.optimizer.param_groups:
                group["lr"] = lr

        def rate(self):
            return self.optimizer.param_groups[0]["lr"]

        def factor(self):
            return 1

        def step(self, x, y):
            self.optimizer.zero_grad()
            loss = nn.MSELoss()(self.net(x), y) * self.factor()
            loss.backward()
            self.optimizer.step()
            return loss

    if reads:
        Trainer.factor = lambda self: self.rate()

    plain, trainer = Trainer(), Trainer()
    run = fastconv.compile(trainer.step)
    for i in range(6):
        plain.set_rate(1 / (i + 1))
        trainer.set_rate(1 / (i + 1))
        data = vector(rng, 2, 4), vector(rng, 2, 3)
        assert bits(plain.step(*data)) == bits(run(*data))
        assert state_of(plain.net) == state_of(trainer.net)
    assert len(recordings) == (6 if reads else 2)


def test_optimizers_of_ones_own(rng):
    class Half(optim.SGD):
        def _update(self, params, group):
            super()._update(params, {**group, "lr": group["lr"] / 2})

    class Sign(optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def _check(self, group):
            pass

        def _update(self, params, group):
            with no_grad():
                for param in params:
                    param.sub_(param.grad, alpha=group["lr"])

    for make in (lambda p: Half(p, lr=0.5, momentum=0.5), lambda p: Sign(p, lr=0.25)):
        pair = twins(tiny(), make, nn.MSELoss())
        for i in range(8):
            for twin in pair:
                twin.optimizer.param_groups[0]["lr"] = 0.5 / (1 + i // 3)
            compare(*pair, (vector(rng, 2, 4), vector(rng, 2, 3)))


def test_gradients_are_switched_off_inside(rng):
    def function(x):
        fastconv.set_grad_enabled(False)
        return x * 2

    run = fastconv.compile(function)
    with eager("switches gradients"):
        for _ in range(3):
            run(vector(rng, 2))
            assert not fastconv.is_grad_enabled()
            fastconv.set_grad_enabled(True)
