"""`compile`: a replay gives the bits of eager execution, and a plan that would be wrong is never replayed.

Each test of that kind has a step, a compiled twin of it, and something that happens between calls: `twins` runs both,
and compares everything that they leave behind.
"""

import collections
import copy
import dataclasses
import enum
import functools
import gc
import os
import pickle
import threading
import types
import warnings
import weakref

import numpy as np
import pytest
from helpers import AWKWARD, byte_swapped, run_python, unaligned

import fastconv
from fastconv import compiler, kernels, nn, optim
from fastconv.autograd import Tensor, no_grad
from fastconv.models import Net
from fastconv.nn import functional as F


@pytest.fixture(autouse=True)
def _no_warnings():
    """What runs eagerly says so: no test passes because nothing was replayed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ---- bits ----------------------------------------------------------------------------------------------


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


class Twin:
    """A net, its optimizer, and a step: eager or compiled."""

    def __init__(self, compiled, net, make_optimizer, criterion, set_to_none=False):
        self.net, self.criterion = copy.deepcopy(net), criterion
        self.optimizer = make_optimizer(self.net.parameters())
        net, optimizer = self.net, self.optimizer

        def step(x, y):
            optimizer.zero_grad(set_to_none=set_to_none)
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        self.step = fastconv.compile(step) if compiled else step

    def state(self):
        return state_of(self.net, self.optimizer)


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


@pytest.fixture
def recordings(monkeypatch):
    """A list that gets an entry for each call that is recorded."""
    from fastconv.compiler import compiled

    made = []
    original = compiled.trace

    def trace(*args):
        made.append(args)
        return original(*args)

    monkeypatch.setattr(compiled, "trace", trace)
    return made


def tiny(rng=None):
    fastconv.manual_seed(7)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def vector(rng, *shape):
    return Tensor(np.asarray(rng.standard_normal(shape), np.float32))


def eager(cause, *, times=1):
    """Expect that many warnings, of that cause."""
    return pytest.warns(UserWarning, match=f"runs eagerly, because .*{cause}")


# ---- training gives the same bits ----------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05),
    "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.1),
    "nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "decay": lambda p: optim.SGD(p, lr=0.05, weight_decay=1e-2),
    "adam": lambda p: optim.Adam(p, lr=1e-3),
    "adam decay": lambda p: optim.Adam(p, lr=1e-3, weight_decay=1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("criterion", [nn.MSELoss(), nn.CrossEntropyLoss()], ids=["mse", "ce"])
@pytest.mark.parametrize("set_to_none", [False, True])
def test_training_the_tutorials_net(rng, name, criterion, set_to_none):
    pair = twins(Net(), OPTIMIZERS[name], criterion, set_to_none=set_to_none)
    for _ in range(6):
        compare(*pair, batch(rng, classes=isinstance(criterion, nn.CrossEntropyLoss)))
    assert 1 <= plans(pair[1].step) <= 2


@pytest.mark.parametrize("n", [1, 64])
def test_other_batches(rng, n):
    pair = twins(Net(), OPTIMIZERS["momentum"], nn.CrossEntropyLoss())
    for _ in range(4):
        compare(*pair, batch(rng, n, True))


def test_float64(rng):
    pair = twins(Net().double(), OPTIMIZERS["adam"], nn.MSELoss())
    for _ in range(4):
        compare(*pair, batch(rng, 2, dtype=np.float64))


def test_every_instruction_set(rng, isa):
    pair = twins(Net(), OPTIMIZERS["momentum"], nn.MSELoss())
    for _ in range(4):
        compare(*pair, batch(rng))


def test_the_instruction_set_between_calls(rng):
    before = kernels.isa()
    pair = twins(Net(), OPTIMIZERS["momentum"], nn.MSELoss())
    try:
        for isa in kernels.available_isas() * 3:
            kernels.set_isa(isa)
            compare(*pair, batch(rng))
            compare(*pair, batch(rng))
    finally:
        kernels.set_isa(before)


def test_threads_between_calls(rng, threads):
    pair = twins(Net(), OPTIMIZERS["momentum"], nn.MSELoss())
    for count in (1, 2, 5, 1, 3):
        threads(count)
        compare(*pair, batch(rng, 9))
    assert plans(pair[1].step) == 1


def test_subnormal_numbers(rng):
    pair = twins(tiny(), lambda p: optim.SGD(p, lr=1e-3, momentum=0.9), nn.MSELoss(reduction="sum"))
    for _ in range(4):
        x, y = vector(rng, 3, 4), vector(rng, 3, 3)
        for twin in pair:
            with no_grad():
                for p in twin.net.parameters():
                    p.mul_(1e-20)
        compare(*pair, (Tensor(x._array * np.float32(1e-22)), Tensor(y._array * np.float32(1e-38))))


def test_zeros_of_both_signs_and_what_is_not_finite(rng):
    pair = twins(Net(), OPTIMIZERS["momentum"], nn.MSELoss())
    x, y = batch(rng)
    with no_grad():
        for twin in pair:
            twin.net.fc3.weight.mul_(0)
            twin.net.conv2.bias.mul_(-0.0)
    compare(*pair, (x, y))
    x._array[0] = 0.0
    x._array[1] = -0.0
    compare(*pair, (x, y))
    compare(*pair, (x, y))
    x._array[0, 0, 3, 3] = np.inf
    x._array[1, 0, 4, 5] = np.nan
    compare(*pair, (x, y))
    compare(*pair, (x, y))


# ---- plans: how many, and when ------------------------------------------------------------------------


def test_two_batch_sizes_have_two_plans_which_are_kept(rng, recordings):
    pair = twins(Net(), OPTIMIZERS["momentum"], nn.MSELoss())
    for n in (4, 4, 4, 3, 4, 3, 4, 3):
        compare(*pair, batch(rng, n))
    assert plans(pair[1].step) == 2
    assert len(recordings) == 3  # gradients and momentum appear; a plan; a plan for the other size


def test_more_signatures_than_plans(rng):
    pair = twins(tiny(), OPTIMIZERS["sgd"], nn.MSELoss())
    for _ in range(3):
        for n in range(1, 12):
            compare(*pair, (vector(rng, n, 4), vector(rng, n, 3)))
    assert plans(pair[1].step) == 8


def test_evaluation_and_training(rng):
    pair = twins(Net(), OPTIMIZERS["sgd"], nn.MSELoss())
    for mode in (True, True, False, False, True, False):
        for twin in pair:
            twin.net.train(mode)
        compare(*pair, batch(rng))
    assert 2 <= plans(pair[1].step) <= 4


class Doubling(nn.Module):
    """Something whose mode matters."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) * 2 if self.training else self.layer(x)


def test_the_mode_of_a_layer_matters(rng):
    net = Doubling()
    run = fastconv.compile(lambda x: net(x).detach())
    for mode in (True, True, False, False, True, False):
        net.train(mode)
        x = vector(rng, 2, 4)
        assert bits(run(x)) == bits(net(x).detach())


def test_a_schedule_of_learning_rates_records_nothing(rng, recordings):
    pair = twins(Net(), OPTIMIZERS["momentum"], nn.MSELoss())
    for i in range(10):
        for twin in pair:
            twin.optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
        compare(*pair, batch(rng))
    assert plans(pair[1].step) == 1
    assert len(recordings) <= 2


@pytest.mark.parametrize("option, values", [
    ("momentum", (0, 0, 0.9, 0.9, 0.5, 0, 0, 0.9, 0.9)),
    ("weight_decay", (0, 0, 0.01, 0.02, 0, 0.01, 0)),
    ("dampening", (0, 0.1, 0.1, 0.2, 0)),
    ("lr", (0.1, 0.1, 0, 0.1, 1, np.float32(0.3), 0)),
    ("nesterov", (False, False, True, True, False)),
])  # fmt: skip
def test_options_of_sgd_come_and_go(rng, option, values):
    def make(p):
        return optim.SGD(p, lr=0.05, momentum=0.5 if option in ("nesterov", "dampening") else 0)

    pair = twins(tiny(), make, nn.MSELoss())
    for value in values:
        for twin in pair:
            twin.optimizer.param_groups[0][option] = value
        compare(*pair, (vector(rng, 2, 4), vector(rng, 2, 3)))


@pytest.mark.parametrize("betas", [(0.5, 0.9), [0.5, 0.9]])
def test_betas_of_adam(rng, betas):
    pair = twins(tiny(), OPTIMIZERS["adam"], nn.MSELoss())
    data = vector(rng, 2, 4), vector(rng, 2, 3)
    compare(*pair, data)
    compare(*pair, data)
    for twin in pair:
        twin.optimizer.param_groups[0]["betas"] = copy.copy(betas)
    compare(*pair, data)
    compare(*pair, data)
    if isinstance(betas, list):
        for twin in pair:
            twin.optimizer.param_groups[0]["betas"][0] = 0.25
        compare(*pair, data)
        compare(*pair, data)


def test_a_loop_over_two_nets(rng):
    """GAN-like: each net has its optimizer, and its step walks through the other net too."""

    def build(compiled):
        fastconv.manual_seed(3)
        maker = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4))
        judge = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
        of_maker, of_judge = optim.Adam(maker.parameters()), optim.SGD(judge.parameters(), lr=0.1)
        loss = nn.MSELoss()

        def step_of_judge(real, noise):
            of_judge.zero_grad()
            good = loss(judge(real), fastconv.ones(real.shape[0], 1))
            bad = loss(judge(maker(noise).detach()), fastconv.zeros(real.shape[0], 1))
            (good + bad).backward()
            of_judge.step()
            return good, bad

        def step_of_maker(noise):
            of_maker.zero_grad()
            made = loss(judge(maker(noise)), fastconv.ones(noise.shape[0], 1))
            made.backward()
            of_maker.step()
            return made

        steps = [step_of_judge, step_of_maker]
        if compiled:
            steps = [fastconv.compile(s) for s in steps]
        return steps, lambda: state_of(maker, judge, of_maker, of_judge)

    (judge, maker), state = build(False)
    (judge_c, maker_c), state_c = build(True)
    for _ in range(7):
        real, noise = vector(rng, 5, 4), vector(rng, 5, 3)
        assert bits(judge(real, noise)) == bits(judge_c(real, noise))
        assert bits(maker(noise)) == bits(maker_c(noise))
        assert state() == state_c()
    assert plans(judge_c) <= 2
    assert plans(maker_c) <= 2


def test_two_steps_share_parameters(rng):
    def build(wrap):
        net = tiny()
        first, second = optim.SGD(net.parameters(), lr=0.1), optim.Adam(net[0].parameters())

        def one(x, y):
            first.zero_grad()
            loss = nn.MSELoss()(net(x), y)
            loss.backward()
            first.step()
            return loss

        def other(x):
            second.zero_grad(set_to_none=True)
            loss = net[0](x).sum()
            loss.backward()
            second.step()
            return loss.detach()

        return wrap(one), wrap(other), lambda: state_of(net, first, second)

    one, other, state = build(lambda f: f)
    one_c, other_c, state_c = build(fastconv.compile)
    for _ in range(6):
        x, y = vector(rng, 2, 4), vector(rng, 2, 3)
        assert bits(one(x, y)) == bits(one_c(x, y))
        assert bits(other(x)) == bits(other_c(x))
        assert state() == state_c()


# ---- what happens between calls ------------------------------------------------------------------------


def replaced(twin):
    fastconv.manual_seed(11)
    twin.net[2] = nn.Linear(5, 3)
    twin.optimizer.add_param_group({"params": list(twin.net[2].parameters())})


def reloaded(twin):
    saved = copy.deepcopy(twin.net.state_dict())
    twin.net.load_state_dict({k: Tensor(v._array * np.float32(0.5)) for k, v in saved.items()})


def optimizer_reloaded(twin):
    saved = copy.deepcopy(twin.optimizer.state_dict())
    for entries in saved["state"].values():
        entries["momentum_buffer"] = Tensor(entries["momentum_buffer"]._array * np.float32(3))
    saved["param_groups"][0]["lr"] = 0.5
    twin.optimizer.load_state_dict(saved)


def new_data(twin):
    twin.net[0].weight.data = Tensor(twin.net[0].weight._array * np.float32(0.75))


def in_place_data(twin):
    twin.net[0].weight.data.mul_(0.75)


def in_place_numpy(twin):
    twin.net[0].weight.detach().numpy()[...] *= 2


def new_place(twin):
    memory = np.zeros(40, np.float32)  # elsewhere in memory, not at the start of what was allocated
    memory[7:27] = twin.net[0].weight._array.reshape(-1)
    twin.net[0].weight.data = Tensor(memory[7:27].reshape(5, 4))


def other_dtype(twin):
    twin.net[0].weight.data = twin.net[0].weight.data  # the same memory
    twin.net[2].bias.data = Tensor(np.full(3, 0.25, np.float32))


def grad_dropped(twin):
    twin.net[0].weight.grad = None


def grads_dropped(twin):
    twin.optimizer.zero_grad(set_to_none=True)


def grads_zeroed(twin):
    twin.net.zero_grad()


def grad_given(twin):
    twin.net[0].bias.grad = Tensor(np.full(5, 2.5, np.float32))


def grad_changed(twin):
    if twin.net[0].bias.grad is not None:
        twin.net[0].bias.grad.fill_(3.0)


def frozen(twin):
    twin.net[0].requires_grad_(False)


def thawed(twin):
    twin.net.requires_grad_(True)


def tied(twin):
    twin.net[2].bias = nn.Parameter(np.ones(3, np.float32))


def momentum_forgotten(twin):
    twin.optimizer.state.clear()


def group_split(twin):
    group = twin.optimizer.param_groups[0]
    last = group["params"].pop()
    twin.optimizer.add_param_group({"params": [last], "lr": 0.4})


def other_params(twin):
    twin.optimizer.param_groups[0]["params"] = list(twin.net[0].parameters())


def other_group(twin):
    twin.optimizer.param_groups[0] = {**twin.optimizer.param_groups[0], "lr": 0.7}


def hooked(twin):
    twin.net[0].register_forward_hook(lambda module, args, result: result * 2)


def other_forward(twin):
    twin.net[0].forward = lambda x: F.linear(x, twin.net[0].weight)


def other_class(twin):
    class Half(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 0.5

    twin.net[0].__class__ = Half


def other_dictionary(twin):
    fastconv.manual_seed(5)
    twin.net[0].__dict__ = nn.Linear(4, 5).__dict__


def other_order(twin):
    """The layers under the same names, but the first one last: a Sequential calls them in another order."""
    twin.net._members.pop("1")
    twin.net._members["1"] = "module"
    assert isinstance(list(twin.net)[-1], nn.ReLU)


EVENTS = [
    reloaded, optimizer_reloaded, new_data, in_place_data, in_place_numpy, new_place, other_dtype, grad_dropped,
    grads_dropped, grads_zeroed, grad_given, grad_changed, frozen, thawed, tied, momentum_forgotten, group_split,
    other_params, other_group, replaced, other_forward, other_class, other_dictionary, other_order,
]  # fmt: skip


@pytest.mark.parametrize("set_to_none", [False, True])
@pytest.mark.parametrize("event", EVENTS, ids=lambda f: f.__name__)
def test_between_calls(rng, event, set_to_none):
    pair = twins(tiny(), OPTIMIZERS["momentum"], nn.MSELoss(), set_to_none=set_to_none)
    x, y = vector(rng, 2, 4), vector(rng, 2, 3)
    for _ in range(3):
        compare(*pair, (x, y))
    assert plans(pair[1].step)
    for repeat in range(2):
        if repeat and event in (replaced, group_split, other_params, other_class):
            break
        for twin in pair:
            event(twin)
        for _ in range(3):
            compare(*pair, (x, y))


@pytest.mark.parametrize("set_to_none", [False, True])
def test_gradients_are_accumulated(rng, set_to_none):
    def build(wrap):
        net = tiny()
        optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.5)

        def backward(x, y):
            loss = nn.MSELoss()(net(x), y)
            loss.backward()
            return loss

        def update():
            optimizer.step()
            optimizer.zero_grad(set_to_none=set_to_none)

        # what the update reads lies elsewhere each time where gradients are set to None
        return (
            wrap(backward),
            update if set_to_none else wrap(update),
            lambda: state_of(net, optimizer),
        )

    backward, update, state = build(lambda f: f)
    backward_c, update_c, state_c = build(fastconv.compile)
    for i in range(24):
        x, y = vector(rng, 2, 4), vector(rng, 2, 3)
        assert bits(backward(x, y)) == bits(backward_c(x, y))
        assert state() == state_c()
        if i % 3 == 2:
            update()
            update_c()
            assert state() == state_c()


def test_hooks_run_eagerly_and_replay_when_they_are_gone(rng, recordings):
    pair = twins(tiny(), OPTIMIZERS["momentum"], nn.MSELoss())
    data = vector(rng, 2, 4), vector(rng, 2, 3)
    for _ in range(3):
        compare(*pair, data)
    handles = [
        twin.net[0].register_forward_hook(lambda module, args, result: result * 2) for twin in pair
    ]
    with eager("net.*has forward hooks") as caught:
        for _ in range(3):
            compare(*pair, data)
    assert len(caught) == 1
    for handle in handles:
        handle.remove()
    made = len(recordings)
    for _ in range(3):
        compare(*pair, data)
    assert len(recordings) == made


def test_the_net_may_be_collected(rng):
    net = tiny()
    run = fastconv.compile(lambda x, net=net: net(x).detach())
    x = vector(rng, 2, 4)
    expected = bits(net(x).detach())
    run(x)
    gone = weakref.ref(net[0].weight)
    del net
    gc.collect()
    assert bits(run(x)) == expected  # the function holds it
    del run
    gc.collect()
    assert gone() is None


def test_a_plan_does_not_hold_the_batch_it_was_recorded_with(rng):
    net = tiny()
    run = fastconv.compile(lambda x: net(x).detach())
    x = vector(rng, 2, 4)
    array = weakref.ref(x._array)
    run(x)
    run(vector(rng, 2, 4))
    assert plans(run) == 1
    del x
    gc.collect()
    assert array() is None


def test_the_shape_of_the_array_it_was_recorded_with_may_change(rng):
    run = fastconv.compile(lambda x: x.sum(0))
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    run(Tensor(array))
    array.shape = (3, 2)
    assert run(Tensor(array)).shape == (2,)


def test_the_shape_of_a_parameter_may_change_in_place():
    weight = Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    run = fastconv.compile(lambda: weight.sum(0))
    run(), run()
    weight._array.shape = (3, 2)
    assert run().shape == (2,)


# ---- what a function reads -----------------------------------------------------------------------------

SCALE = 2.0
WEIGHT = Tensor(np.array([1.0, 2.0], np.float32))
TABLE = {"scale": 2.0, "more": [1.0, {"deep": 3.0}]}
NAMES = {"a", "b"}


class Slotted:
    __slots__ = ("__hidden", "scale")

    def __init__(self):
        self.scale, self.__hidden = 2.0, 3.0

    def hide(self, value):
        self.__hidden = value

    def both(self):
        return self.scale * self.__hidden


@dataclasses.dataclass(slots=True)
class Settings:
    scale: float = 2.0
    shift: float = 1.0


class Attributes:
    scale = 2.0
    weight = Tensor(np.array([1.0, 2.0], np.float32))
    table = [1.0, 2.0]

    def __init__(self):
        self.shift = 1.0

    def apply(self, x):
        return x * self.scale + self.shift

    @property
    def total(self):
        return self.scale + self.shift

    @classmethod
    def of_class(cls, x):
        return x * cls.scale

    @staticmethod
    def static(x):
        return x * 5.0


class Derived(Attributes):
    pass


class Key:
    k = 2.0


class Number(float):
    pass


class Config(dict):
    pass


class Scaled(nn.Parameter):
    pass


def change_attribute(owner, name, value):
    return lambda: setattr(owner, name, value)


def helper(x):
    return x * SCALE


def with_default(x, factor=2.0, *, shift=1.0, table=[1.0]):  # noqa: B006
    return x * factor + shift + table[0]


def reader_cases():
    """(name, function of x, what changes between calls)."""
    module = types.ModuleType("helper_module")
    module.K, module.inner = 2.0, types.ModuleType("inner")
    module.inner.DEEP = 3.0
    exec("def scaled(x):\n    return x * K", module.__dict__)
    instance, derived, slotted, settings = Attributes(), Derived(), Slotted(), Settings()
    table = {"scale": 2.0, "more": [1.0, {"deep": 3.0}], (1, 2): 4.0}
    items, members = [1.0, 2.0, [3.0]], {1.0, 2.0}
    order = {"a": 2.0, "b": 3.0}
    holder = types.SimpleNamespace(w=Tensor(np.array([1.0, 2.0], np.float32)), k=2.0)
    number, config, scaled = Number(2.0), Config(a=1.0), Scaled(np.ones(2, np.float32), False)
    number.more, config.more, scaled.more = 2.0, 2.0, 2.0
    defaults = collections.defaultdict(lambda: 1.0, a=2.0)
    cell = 2.0

    def set_cell(value):
        nonlocal cell
        cell = value

    def on_itself(x):
        return x * on_itself.scale

    on_itself.scale = 2.0

    class Level(enum.Enum):
        LOW, HIGH = 1.0, 2.0

    holder.level, key = Level.LOW, Key()
    keyed = {key: 1.0}
    partial = functools.partial(lambda x, k, t: x * k * t[0], k=2.0, t=[1.0])
    method = instance.apply
    w2 = Tensor(np.array([3.0, 4.0], np.float32))

    def set_partial():
        partial.keywords["k"] = 3.0

    def reorder():
        order["a"] = order.pop("a")

    def swap_members():
        members.discard(1.0)
        members.add(5.0)

    def set_property():
        Attributes.total = property(lambda self: self.shift * 7)

    def set_classmethod():
        Attributes.of_class = classmethod(lambda cls, x: x * 9)

    def with_import(x):
        import helper_module

        return x * helper_module.K

    import sys

    sys.modules["helper_module"] = module
    return {
        "cell": (lambda x: x * cell, lambda: set_cell(3.0)),
        "cell to int": (lambda x: x * cell, lambda: set_cell(2)),
        "cell to -0": (lambda x: x * cell, lambda: set_cell(-0.0)),
        "Tensor in a cell": (lambda x: x * holder.w, lambda: setattr(holder, "w", w2)),
        "global": (lambda x: x * SCALE, lambda: globals().update(SCALE=4.0)),
        "global of a helper": (lambda x: helper(x), lambda: globals().update(SCALE=6.0)),
        "global by its name": (lambda x: x * globals()["SCALE"], lambda: globals().update(SCALE=8.0)),
        "global Tensor": (lambda x: x * WEIGHT, lambda: globals().update(WEIGHT=w2)),
        "a helper replaced": (lambda x: helper(x), lambda: globals().update(helper=lambda x: x + 1)),
        "a builtin hidden": (lambda x: x * float(2), lambda: globals().update(float=lambda v: 9.0)),
        "global dict": (lambda x: x * TABLE["more"][1]["deep"], lambda: TABLE["more"][1].update(deep=5.0)),
        "default": (with_default, lambda: setattr(with_default, "__defaults__", (3.0,))),
        "keyword default": (with_default, lambda: with_default.__kwdefaults__.update(shift=5.0)),
        "default list": (with_default, lambda: with_default.__kwdefaults__["table"].append(7) or with_default.__kwdefaults__["table"].__setitem__(0, 4.0)),  # noqa: E501
        "code": (with_default, lambda: setattr(with_default, "__code__", (lambda x, factor, *, shift, table: x).__code__)),  # noqa: E501
        "attribute of a function": (on_itself, lambda: setattr(on_itself, "scale", 3.0)),
        "module's constant": (lambda x: x * module.K, change_attribute(module, "K", 5.0)),
        "module's function's global": (module.scaled, change_attribute(module, "K", 6.0)),
        "module in a module": (lambda x: x * module.inner.DEEP, change_attribute(module.inner, "DEEP", 4.0)),
        "module by name": (lambda x: x * getattr(module, "K"), change_attribute(module, "K", 7.0)),  # noqa: B009
        "imported inside": (with_import, change_attribute(module, "K", 8.0)),
        "dict": (lambda x: x * table["scale"], lambda: table.update(scale=3.0)),
        "dict of a tuple": (lambda x: x * table[1, 2], lambda: table.update({(1, 2): 5.0})),
        "dict in list in dict": (lambda x: x * table["more"][1]["deep"], lambda: table["more"][1].update(deep=4.0)),
        "list": (lambda x: x * items[1], lambda: items.__setitem__(1, 7.0)),
        "list in list": (lambda x: x * items[2][0], lambda: items[2].__setitem__(0, 7.0)),
        "length of a list": (lambda x: x * len(items), lambda: items.append(4.0)),
        "set": (lambda x: x * (2.0 if 1.0 in members else 3.0), swap_members),
        "order of a dict": (lambda x: x * list(order.values())[0], reorder),
        "key of a dict": (lambda x: x * next(k.k for k in keyed), change_attribute(key, "k", 3.0)),
        "defaultdict": (lambda x: x * defaults["a"], lambda: defaults.update(a=5.0)),
        "attribute": (lambda x: x * instance.shift, change_attribute(instance, "shift", 4.0)),
        "class attribute": (lambda x: instance.apply(x), change_attribute(Attributes, "scale", 4.0)),
        "class attribute of a class": (lambda x: x * Attributes.scale, change_attribute(Attributes, "scale", 5.0)),
        "class attribute, a Tensor": (lambda x: x * instance.weight, change_attribute(Attributes, "weight", w2)),
        "class attribute, a list": (lambda x: x * instance.table[0], change_attribute(Attributes, "table", [8.0])),
        "class attribute hidden": (lambda x: x * derived.scale, change_attribute(Derived, "scale", 6.0)),
        "class attribute hidden by an instance": (lambda x: x * derived.scale, change_attribute(derived, "scale", 7.0)),
        "method": (lambda x: instance.apply(x), change_attribute(Attributes, "apply", lambda self, x: x * 11)),
        "bound method": (method, change_attribute(instance, "shift", 13.0)),
        "property": (lambda x: x * instance.total, set_property),
        "class method": (lambda x: instance.of_class(x), set_classmethod),
        "static method": (lambda x: instance.static(x), change_attribute(Attributes, "static", staticmethod(lambda x: x * 3))),  # noqa: E501
        "slot": (lambda x: x * slotted.scale, change_attribute(slotted, "scale", 4.0)),
        "private slot": (lambda x: x * slotted.both(), lambda: slotted.hide(5.0)),
        "dataclass with slots": (lambda x: x * settings.scale, change_attribute(settings, "scale", 5.0)),
        "class of an instance": (lambda x: x * derived.scale, change_attribute(derived, "__class__", Attributes)),
        "dictionary of an instance": (lambda x: x * instance.shift, lambda: setattr(instance, "__dict__", {"shift": 21.0})),  # noqa: E501
        "enumeration": (lambda x: x * holder.level.value, change_attribute(holder, "level", Level.HIGH)),
        "partial": (partial, set_partial),
        "list in a partial": (partial, lambda: partial.keywords["t"].__setitem__(0, 4.0)),
        "attribute of a float": (lambda x: x * number.more, change_attribute(number, "more", 3.0)),
        "attribute of a dict": (lambda x: x * config.more, change_attribute(config, "more", 3.0)),
        "attribute of a Parameter": (lambda x: x * scaled.more, change_attribute(scaled, "more", 3.0)),
        "wrapped, ours by name": (wrapped_like_ours(holder), change_attribute(holder, "k", 5.0)),
    }  # fmt: skip


def wrapped_like_ours(holder):
    @functools.wraps(F.relu)
    def relu(x):
        return F.relu(x) * holder.k

    return relu


@pytest.mark.parametrize("name", reader_cases())
def test_what_a_function_reads(rng, name):
    function, change = reader_cases()[name]
    kept = {k: globals()[k] for k in ("SCALE", "WEIGHT", "helper")}
    of_class = {k: v for k, v in vars(Attributes).items() if not k.startswith("__")}
    deep, defaults = copy.deepcopy(TABLE), (with_default.__code__, with_default.__defaults__)
    keywords = copy.deepcopy(with_default.__kwdefaults__)
    run = fastconv.compile(function)
    try:
        x = vector(rng, 2)
        for _ in range(3):
            assert bits(run(x)) == bits(function(x))
        assert plans(run) == 1
        change()
        for _ in range(3):
            assert bits(run(x)) == bits(function(x))
    finally:
        globals().update(kept)
        globals().pop("float", None)
        TABLE.update(deep)
        for k, v in of_class.items():
            setattr(Attributes, k, v)
        Derived.__dict__.get("scale") and delattr(Derived, "scale")
        with_default.__code__, with_default.__defaults__ = defaults
        with_default.__kwdefaults__.update(keywords)


LAYERS = {
    "stride": (nn.Conv2d(1, 2, 3), (2, 2)),
    "padding": (nn.Conv2d(1, 2, 3), (1, 1)),
    "dilation": (nn.Conv2d(1, 2, 3), (2, 2)),
    "kernel_size": (nn.MaxPool2d(2), 3),
    "ceil_mode": (nn.MaxPool2d(2), True),
    "count_include_pad": (nn.AvgPool2d(2, padding=1), False),
    "output_size": (nn.AdaptiveAvgPool2d(3), (2, 1)),
    "weight": (nn.Conv2d(1, 2, 3), nn.Parameter(np.ones((2, 1, 3, 3), np.float32))),
    "bias": (nn.Conv2d(1, 2, 3), None),
}


@pytest.mark.parametrize("attribute", LAYERS)
def test_a_layers_attributes(rng, attribute):
    layer, value = LAYERS[attribute]
    layer = copy.deepcopy(layer)
    run = fastconv.compile(layer)
    with no_grad():
        for _ in range(2):
            x = vector(rng, 2, 1, 9, 9)
            assert bits(run(x)) == bits(layer(x))
            assert bits(run(x)) == bits(layer(x))
            setattr(layer, attribute, value)


def test_a_module_that_is_imported_by_the_first_call(rng, tmp_path, monkeypatch):
    (tmp_path / "imported_late.py").write_text("K = 2.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    @fastconv.compile
    def run(x):
        import imported_late

        return x * imported_late.K

    x = vector(rng, 2)
    run(x), run(x), run(x)
    import imported_late

    imported_late.K = 3.0
    assert bits(run(x)) == bits(x * 3.0)


def test_a_global_that_appears(rng):
    @fastconv.compile
    def run(x):
        return x * LATER if "LATER" in globals() else x  # noqa: F821

    x = vector(rng, 2)
    run(x), run(x)
    globals()["LATER"] = 2.0
    try:
        assert bits(run(x)) == bits(x * 2.0)
    finally:
        del globals()["LATER"]


def test_numbers_among_the_arguments(rng):
    def function(x, k, *more, shift=0.0, **options):
        for m in more:
            x = x * (m if not isinstance(m, list | tuple | dict) else len(m))
        return x * k + shift + options.get("last", 0)

    run = fastconv.compile(function)
    x = vector(rng, 3)
    calls = [
        ((x, 2.0), {}), ((x, 2), {}), ((x, True), {}), ((x, 1), {}), ((x, 1.0), {}), ((x, 0.0), {}), ((x, -0.0), {}),
        ((x, 2.0), {"shift": 1.0}), ((x,), {"k": 2.0}), ((x, 2.0, 3.0), {}), ((x, 2.0, [1, 2]), {}),
        ((x, 2.0, (1, 2)), {}), ((x, 2.0, {"a": 1}), {}), ((x, 2.0, [1, 2, 3]), {}), ((x, 2.0), {"last": 4}),
        ((x, np.float32(2)), {}), ((x, float("nan")), {}), ((x, 10**40), {}),
    ]  # fmt: skip
    for _ in range(2):
        for args, kwargs in calls:
            assert bits(run(*args, **kwargs)) == bits(function(*args, **kwargs))


def test_none_and_a_tensor_change_places(rng):
    def function(a, b):
        return a * 2 if b is None else b * 3 if a is None else a

    run = fastconv.compile(function)
    x = vector(rng, 3)
    for _ in range(2):
        assert bits(run(x, None)) == bits(x * 2)
        assert bits(run(None, x)) == bits(x * 3)
        assert bits(run(a=None, b=x)) == bits(x * 3)
        assert bits(run(b=None, a=x)) == bits(x * 2)


def test_containers_of_tensors(rng):
    def function(pair, named, *, last):
        a, (b, *c) = pair
        return {"sum": a + b, "rest": [c[0] * named["w"], (last[0] - named["x"]["y"], 3)]}, None, a

    run = fastconv.compile(function)
    for _ in range(4):
        t = [vector(rng, 2) for _ in range(6)]
        args = ((t[0], [t[1], t[2]]), {"w": t[3], "x": {"y": t[4]}})
        expected, found = function(*args, last=(t[5],)), run(*args, last=(t[5],))
        assert bits(expected) == bits(found)
        assert found[2] is t[0]
    assert plans(run) == 1


def test_a_list_that_is_changed_by_the_function(rng):
    def function(x, out):
        out.append(x * 2)
        return x + 1

    run = fastconv.compile(function)
    with eager("changes a list or a dict among its arguments"):
        for _ in range(3):
            x, out = vector(rng, 2), []
            run(x, out)
            assert bits(out) == bits([x * 2])


def test_objects_as_arguments(rng):
    run = fastconv.compile(lambda x, o: x * o.shift)
    a, b = Attributes(), Attributes()
    b.shift = 3.0
    x = vector(rng, 2)
    for _ in range(3):
        assert bits(run(x, a)) == bits(x * a.shift)
        assert bits(run(x, b)) == bits(x * b.shift)
        b.shift += 1


# ---- the memory of arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", [f for f in AWKWARD if f not in (byte_swapped, unaligned)])
def test_awkward_arrays(rng, form):
    pair = twins(Net(), OPTIMIZERS["sgd"], nn.MSELoss())
    for f in (form, form, np.array, form, form):
        x, y = batch(rng)
        compare(*pair, (Tensor(f(x._array)), Tensor(f(y._array))))


@pytest.mark.parametrize("form", [byte_swapped, unaligned])
def test_arrays_that_are_converted_are_not_recorded(rng, form):
    run = fastconv.compile(lambda x: x * 2)
    x = vector(rng, 4)
    with eager("NumPy made"):
        for _ in range(3):
            assert bits(run(Tensor(form(x._array)))) == bits(x * 2)
    for _ in range(3):
        assert bits(run(x)) == bits(x * 2)


def test_the_same_array_twice(rng):
    run = fastconv.compile(lambda a, b: a.add_(b))
    with eager("two arguments share memory") as caught:
        for _ in range(3):
            x = vector(rng, 4)
            expected = bits(x + x)
            assert bits(run(x, x)) == expected
    assert len(caught) == 1
    for _ in range(3):
        x, y = vector(rng, 4), vector(rng, 4)
        expected = bits(x + y)
        assert bits(run(x, y)) == expected
    assert plans(run) == 1
    x = vector(rng, 4)
    expected = bits(x + x)
    assert bits(run(x, x)) == expected


def test_arguments_that_overlap(rng):
    def function(a, b):
        a.mul_(2)
        return a + b

    run = fastconv.compile(function)
    for _ in range(2):
        run(vector(rng, 4), vector(rng, 4))
    memory = np.arange(6, dtype=np.float32)
    with eager("share memory"):
        found = run(Tensor(memory[:4]), Tensor(memory[2:]))
    memory = np.arange(6, dtype=np.float32)
    assert bits(found) == bits(function(Tensor(memory[:4]), Tensor(memory[2:])))


def test_an_argument_that_is_also_a_global(rng):
    other = vector(rng, 4)
    run = fastconv.compile(lambda x: x + other)
    with eager("shares memory with what the function reaches otherwise"):
        assert bits(run(other)) == bits(other + other)
    x = vector(rng, 4)
    for _ in range(3):
        assert bits(run(x)) == bits(x + other)
    assert bits(run(other)) == bits(other + other)


@pytest.mark.parametrize("first", [True, False])
def test_an_argument_that_shares_memory_with_a_parameter(rng, first):
    def build(wrap):
        net = nn.Linear(4, 4, bias=False)
        with no_grad():
            net.weight.copy_(fastconv.eye(4) * 0.5)
        optimizer = optim.SGD(net.parameters(), lr=0.5)

        def step(x):
            optimizer.zero_grad()
            loss = net(x).sum()
            loss.backward()
            optimizer.step()
            return loss, net(x).detach()

        return net, wrap(step)

    (net, step), (net_c, step_c) = build(lambda f: f), build(fastconv.compile)
    for i in range(6):
        if (i == 0) is first or i == 4:
            x, x_c = net.weight.detach(), net_c.weight.detach()
        elif i == 5:
            x, x_c = net.weight.grad, net_c.weight.grad
        else:
            x = x_c = vector(rng, 4, 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert bits(step(x)) == bits(step_c(x_c))
        assert state_of(net) == state_of(net_c)


def test_an_input_that_is_changed_in_place(rng):
    def function(x, y):
        x.add_(1)
        return x * y, x

    run = fastconv.compile(function)
    for _ in range(4):
        x, y = vector(rng, 3), vector(rng, 3)
        twin = Tensor(x._array.copy())
        result = run(x, y)
        assert result[1] is x
        assert bits(result) == bits(function(twin, y))
        assert bits(x) == bits(twin)
    x = Tensor(np.zeros(3, np.float32))
    x._array.flags.writeable = False
    for f in (function, run, run):
        with pytest.raises(ValueError, match=r"read-only|writeable"):
            f(x, y)


def test_a_changed_input_counts_as_changed(rng):
    run = fastconv.compile(lambda x: x.add_(1))
    run(vector(rng, 3)), run(vector(rng, 3))
    x, w = vector(rng, 3), nn.Parameter(np.ones(3, np.float32))
    loss = (x * w).sum()
    run(x)
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_a_changed_parameter_counts_as_changed(rng):
    pair = twins(tiny(), OPTIMIZERS["momentum"], nn.MSELoss())
    data = vector(rng, 2, 4), vector(rng, 2, 3)
    for _ in range(3):
        compare(*pair, data)
    for twin in pair:
        loss = twin.net(data[0]).sum()
        twin.step(*data)
        with pytest.raises(RuntimeError, match="changed in place"):
            loss.backward()


def test_arguments_that_require_grad_run_eagerly(rng):
    net = nn.Linear(3, 2)
    run = fastconv.compile(lambda x: net(x).sum().backward() if x.requires_grad else None)
    x = vector(rng, 2, 3)
    run(x), run(x)
    with eager("requires grad"):
        for _ in range(3):
            x = vector(rng, 2, 3).requires_grad_()
            run(x)
            assert x.grad is not None


def test_attributes_of_an_argument_are_changed(rng):
    """What adversarial examples are made with."""
    net = tiny()

    def function(x):
        x.requires_grad_()
        net(x).sum().backward()
        return x.grad

    run = fastconv.compile(function)
    with eager("changes an argument"):
        for _ in range(3):
            x = vector(rng, 2, 4)
            y = Tensor(x._array)
            assert bits(run(x)) == bits(function(y))
            assert x.requires_grad and bits(x.grad) == bits(y.grad)


# ---- results ------------------------------------------------------------------------------------------


def test_results_are_new(rng):
    net = tiny()
    run = fastconv.compile(lambda x: (net(x).detach(), x * 2))
    kept = []
    for _ in range(5):
        x = vector(rng, 2, 4)
        kept.append((run(x), bits((net(x).detach(), x * 2))))
    assert all(bits(found) == expected for found, expected in kept)


def test_results_that_are_not_new(rng):
    net = tiny()
    state = vector(rng, 4)

    def function(x):
        state.add_(x)
        return x, net[0].weight, state, [state]

    run = fastconv.compile(function)
    for _ in range(3):
        x = vector(rng, 4)
        found = run(x)
        assert found[0] is x and found[1] is net[0].weight
        assert found[2] is state and found[3][0] is state


def test_one_tensor_returned_twice_and_views_of_it(rng):
    run = fastconv.compile(lambda x: (y := x * 2, y, y.view(2, 2), y[1:]))
    for _ in range(3):
        a, b, c, d = run(vector(rng, 4))
        assert a is b
        a.add_(1)
        assert bits(c) == bits(a.view(2, 2))
        assert bits(d) == bits(a[1:])
        w = nn.Parameter(np.ones((2, 2), np.float32))
        loss = (c * w).sum()
        a.add_(1)
        with pytest.raises(RuntimeError, match="changed in place"):
            loss.backward()


def test_a_gradient_is_the_result(rng):
    w = nn.Parameter(np.ones(3, np.float32))

    def function(x):
        w.grad = None
        (w * x).sum().backward()
        return w.grad

    run = fastconv.compile(function)
    for _ in range(4):
        x = vector(rng, 3)
        found = run(x)
        assert found is w.grad
        assert bits(found) == bits(x * 1)


def test_the_graph_of_a_result_is_spent(rng):
    pair = twins(tiny(), OPTIMIZERS["sgd"], nn.MSELoss())
    for _ in range(4):
        data = vector(rng, 2, 4), vector(rng, 2, 3)
        losses = [twin.step(*data) for twin in pair]
        assert len({loss.grad_fn.name() for loss in losses}) == 1
        assert all(loss.requires_grad and not loss.is_leaf for loss in losses)
        for loss in losses:
            with pytest.raises(RuntimeError, match="a second time"):
                loss.backward()
            with pytest.raises(RuntimeError, match="a second time"):
                (loss * 2).backward()


def test_a_graph_from_outside(rng):
    w = nn.Parameter(np.ones(3, np.float32))
    y = w * 2

    def function():
        y.sum().backward()
        return w.grad.detach()

    run = fastconv.compile(function)
    with eager("computed outside"):
        run()
    with pytest.raises(RuntimeError, match="a second time"):
        run()


def test_results_with_a_graph_run_eagerly(rng):
    net = tiny()
    run = fastconv.compile(net)
    with eager("whose graph is not walked"):
        for _ in range(3):
            y = run(vector(rng, 2, 4))
            y.sum().backward()
    with no_grad():
        x = vector(rng, 2, 4)
        run(x)
        assert bits(run(x)) == bits(net(x))
    assert plans(run._compiled) == 1


@pytest.mark.parametrize("make", [
    lambda x: x.detach().view(-1), lambda x: fastconv.ones(3, requires_grad=True), lambda x: fastconv.tensor([1.0]),
    lambda x: fastconv.zeros(3, dtype=np.int64), lambda x: nn.Parameter(np.ones(2, np.float32)),
    lambda x: fastconv.arange(3), lambda x: {1, 2}, lambda x: object(), lambda x: fastconv.empty(0),
    lambda x: collections.OrderedDict(a=x * 2), lambda x: x.max(0), lambda x: np.float32(1),
])  # fmt: skip
def test_results_that_cannot_be_made_again(rng, make):
    run = fastconv.compile(make)
    with eager("returns|NumPy|drawn|draws|integers"):
        for _ in range(3):
            x = vector(rng, 3)
            found, expected = run(x), make(x)
            assert type(found) is type(expected)
            if isinstance(found, Tensor):
                assert bits(found) == bits(expected)


# ---- what is seen half-way -----------------------------------------------------------------------------

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
    "list of indices": (lambda x: x[[0, 1]] * 2, "NumPy"),
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


@pytest.mark.parametrize("name", HALF_WAY)
def test_numbers_seen_half_way_run_eagerly(name, capsys):
    function, cause = HALF_WAY[name]
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
    import itertools
    import random
    import time

    generator = np.random.default_rng(0)
    variable = contextvars.ContextVar("v", default=2.0)
    local = threading.local()
    local.k = 2.0
    queue, numbers = collections.deque([2.0]), array.array("d", [2.0])
    counter = itertools.count(2)
    dice, draw, clock = random.Random(0), random.random, time.perf_counter
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
        "bytes that change": lambda x, b=bytearray(b"a"): x * b[0],  # noqa: B008
        "memory": lambda x, b=memoryview(b"a"): x * b[0],  # noqa: B008
        "generator": lambda x, g=iter([1.0, 2.0, 3.0, 4.0, 5.0]): x * next(g),  # noqa: B008
    }


@pytest.mark.parametrize("name", _opaque())
def test_what_cannot_be_watched_runs_eagerly(rng, name):
    run = fastconv.compile(_opaque()[name])
    with eager("") as caught:
        for _ in range(3):
            run(vector(rng, 2))
    assert len(caught) == 1
    assert plans(run) == 0


# ---- what a function changes ---------------------------------------------------------------------------

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

    def of_lr(x, p=nn.Parameter(np.ones(2, np.float32))):  # noqa: B008
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


# ---- errors -------------------------------------------------------------------------------------------


def test_an_exception_while_recording(rng):
    def build(wrap):
        net = tiny()
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        broken = types.SimpleNamespace(now=True)

        def step(x, y):
            optimizer.zero_grad(set_to_none=True)
            loss = nn.MSELoss()(net(x), y)
            loss.backward()
            if broken.now:
                raise KeyError("half-way")
            optimizer.step()
            return loss

        return wrap(step), broken, lambda: state_of(net, optimizer)

    step, broken, state = build(lambda f: f)
    step_c, broken_c, state_c = build(fastconv.compile)
    for now in (True, False, False, False, True, True, False):
        broken.now = broken_c.now = now
        data = vector(rng, 2, 4), vector(rng, 2, 3)
        for f in (step, step_c):
            if now:
                with pytest.raises(KeyError, match="half-way"):
                    f(*data)
            else:
                f(*data)
        assert state() == state_c()
    assert not kernels.is_recording()
    assert plans(step_c) >= 1


@pytest.mark.parametrize("set_to_none", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_a_label_out_of_range(rng, set_to_none, late):
    """In a replay too: the same exception, and what eager execution leaves behind."""

    def build(wrap):
        net = Net()
        optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
        criterion = nn.CrossEntropyLoss(ignore_index=-3)

        def step(x, y):
            if late:
                scores = net(x)
                optimizer.zero_grad(set_to_none=set_to_none)
            else:
                optimizer.zero_grad(set_to_none=set_to_none)
                scores = net(x)
            loss = criterion(scores, y)
            loss.backward()
            optimizer.step()
            return loss

        return wrap(step), net, lambda: state_of(net, optimizer)

    fastconv.manual_seed(0)
    step, _, state = build(lambda f: f)
    fastconv.manual_seed(0)
    step_c, _, state_c = build(fastconv.compile)
    for wrong in (None, None, None, 10, None, -1, -3, 10**12):
        x, y = batch(rng, 3, True)
        if wrong is not None:
            y._array[1] = wrong
        if wrong in (None, -3):
            assert bits(step(x, y)) == bits(step_c(x, y))
        else:
            messages = []
            for f in (step, step_c):
                with pytest.raises(IndexError) as caught:
                    f(x, y)
                messages.append(str(caught.value))
            assert messages[0] == messages[1]
        assert state() == state_c()


def test_labels_of_a_loss_that_is_not_used(rng):
    net = tiny()
    labels = Tensor(np.array([0, 1]))

    def function(x, y):
        F.cross_entropy(net(x), y)
        F.cross_entropy(net(x), labels)
        return net(x).detach()

    run = fastconv.compile(function)
    x, y = vector(rng, 2, 4), Tensor(np.array([0, 2]))
    run(x, y), run(x, y)
    y._array[0] = 3
    with pytest.raises(IndexError):
        run(x, y)
    y._array[0] = 0
    run(x, y)
    labels._array[0] = 3
    with pytest.raises(IndexError):
        run(x, y)


def test_shapes_that_do_not_fit(rng):
    run = fastconv.compile(tiny())
    with no_grad():
        run(vector(rng, 2, 4)), run(vector(rng, 2, 4))
        for _ in range(2):
            with pytest.raises(ValueError):
                run(vector(rng, 2, 5))
        run(vector(rng, 2, 4))


# ---- threads, forks ------------------------------------------------------------------------------------


def in_threads(*functions):
    errors = []

    def guarded(f):
        try:
            f()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    running = [threading.Thread(target=guarded, args=(f,)) for f in functions]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not errors, errors


def test_two_threads_call_two_plans(rng):
    pairs = [twins(Net(), OPTIMIZERS["momentum"], nn.MSELoss()) for _ in range(2)]
    data = [[batch(rng, 2 + i) for _ in range(12)] for i in range(2)]

    def train(i):
        def run():
            for x, y in data[i]:
                pairs[i][1].step(x, y)

        return run

    in_threads(train(0), train(1))
    for i in range(2):
        for x, y in data[i]:
            pairs[i][0].step(x, y)
        assert pairs[i][0].state() == pairs[i][1].state()


def test_two_threads_call_one_plan(rng):
    net = Net()
    run = fastconv.compile(net)
    inputs = [vector(rng, 2, 1, 32, 32) for _ in range(24)]
    with no_grad():
        expected = [bits(net(x)) for x in inputs]
    found = [None] * len(inputs)

    def part(first):
        def work():
            with no_grad():
                for i in range(first, len(inputs), 3):
                    found[i] = bits(run(inputs[i]))

        return work

    in_threads(part(0), part(1), part(2))
    assert found == expected
    assert 1 <= plans(run._compiled) <= 3


def test_another_thread_computes_while_one_records(rng):
    """Its calls are not taken for the step's."""
    net, other = tiny(), tiny()
    optimizer = optim.SGD(other.parameters(), lr=0.1)
    started, done = threading.Event(), threading.Event()

    def function(x):
        y = net[0](x).detach()
        started.set()
        with no_grad():
            done.wait(10)
        return y * 2

    def elsewhere():
        started.wait(10)
        other(vector(rng, 2, 4)).sum().backward()
        optimizer.step()
        done.set()

    run = fastconv.compile(lambda x, f=types.SimpleNamespace(go=function): f.go(x))  # noqa: B008
    assert callable(run)
    x = vector(rng, 2, 4)
    recording = kernels.Recording()
    thread = threading.Thread(target=elsewhere)
    thread.start()
    with recording:
        function(x)
    thread.join()
    assert [call[0] for call in recording.calls] == ["linear", "mul"]


def test_a_forked_child_replays(rng):
    pair = twins(Net(), OPTIMIZERS["momentum"], nn.MSELoss())
    for _ in range(3):
        compare(*pair, batch(rng, 8))
    data = batch(rng, 8)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            same = bits(pair[0].step(*data)) == bits(pair[1].step(*data))
            same = same and pair[0].state() == pair[1].state() and plans(pair[1].step) == 1
            os.write(write, b"1" if same else b"0")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"
    os.close(read)
    os.close(write)
    compare(*pair, data)


# ---- functions in functions, classes, modules ----------------------------------------------------------


def test_compiled_within_compiled(rng, recordings):
    scale = types.SimpleNamespace(k=2.0)
    inner = fastconv.compile(lambda x: x * scale.k)
    outer = fastconv.compile(lambda x: inner(x) + 1)
    x = vector(rng, 2)
    for _ in range(3):
        assert bits(outer(x)) == bits(x * 2.0 + 1)
    assert plans(outer) == 1 and plans(inner) == 0
    for _ in range(3):
        inner(x)
    made = len(recordings)
    outer(x)
    assert (
        len(recordings) == made
    )  # what the inner one remembers is no part of what the outer one reads
    scale.k = 3.0
    assert bits(outer(x)) == bits(x * 3.0 + 1)
    assert bits(inner(x)) == bits(x * 3.0)


def test_recursion(rng):
    @fastconv.compile
    def power(x, n):
        return x if n == 1 else x * power(x, n - 1)

    x = vector(rng, 3)
    for _ in range(3):
        for n in (2, 3, 4):
            expected = x
            for _ in range(n - 1):
                expected = x * expected
            assert bits(power(x, n)) == bits(expected)
    assert plans(power) == 3


def test_methods_are_bound_per_instance(rng):
    class Model:
        def __init__(self, k):
            self.k = k
            self.w = Tensor(np.full(3, k, np.float32))

        @fastconv.compile
        def run(self, x, *, shift=0.0):
            """Scaled."""
            return x * self.k + self.w + shift

    a, b = Model(2.0), Model(3.0)
    for _ in range(3):
        x = vector(rng, 3)
        assert bits(a.run(x)) == bits(x * 2.0 + a.w + 0.0)
        assert bits(b.run(x, shift=1.0)) == bits(x * 3.0 + b.w + 1.0)
        assert bits(Model.run(a, x)) == bits(x * 2.0 + a.w + 0.0)
    assert plans(Model.run) == 2
    b.k = 5.0
    assert bits(b.run(x)) == bits(x * 5.0 + b.w + 0.0)
    assert Model.run.__doc__ == "Scaled." and Model.run.__name__ == "run"


def test_a_callable_object_and_a_bound_method(rng):
    class Scaler:
        k = 2.0

        def __call__(self, x):
            return x * self.k

    scaler = Scaler()
    for run in (fastconv.compile(scaler), fastconv.compile(scaler.__call__)):
        scaler.k = 2.0
        x = vector(rng, 3)
        run(x), run(x)
        scaler.k = 4.0
        assert bits(run(x)) == bits(x * 4.0)


def test_a_compiled_module_is_the_module(rng):
    net = Net()
    run = fastconv.compile(net)
    assert isinstance(run, Net) and isinstance(run, nn.Module)
    assert type(run).__name__ == "Net" and repr(run) == repr(net)
    assert fastconv.compile(run) is run
    assert list(run.state_dict()) == list(net.state_dict())
    assert all(a is b for a, b in zip(run.parameters(), net.parameters(), strict=True))
    with no_grad():
        for change in (
            lambda: run.eval(),
            lambda: net.train(),
            lambda: run.load_state_dict(
                {k: Tensor(v._array * 2) for k, v in net.state_dict().items()}
            ),
            lambda: setattr(run, "fc3", nn.Linear(84, 10)),
            lambda: setattr(net, "fc3", nn.Linear(84, 10)),
            lambda: setattr(run.conv1, "padding", (1, 1)) or setattr(net.conv2, "stride", 1),
            lambda: run.fc1.weight.mul_(0.5),
            lambda: net.conv1.weight.mul_(0.5),
            lambda: setattr(net.conv2.weight, "data", run.conv2.weight.data * 2),
            lambda: net.conv2.weight.data.mul_(2),
            lambda: run.conv2.weight.detach().numpy().__imul__(2),
            lambda: copy.copy(net.conv2.weight).mul_(3),
            lambda: run.double() and run.float(),
        ):
            change()
            assert run.training is net.training
            for size in (32, 32):
                x = vector(rng, 2, 1, size, size)
                if net.conv1.padding == (1, 1):
                    x = vector(rng, 2, 1, size - 2, size - 2)
                assert bits(run(x)) == bits(net(x))
    assert plans(run._compiled) >= 1


def test_tied_weights_by_data(rng):
    """Two parameters of one memory: what one counts, the other does not."""
    one, other = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
    one.weight.data = other.weight.data
    run = fastconv.compile(one)
    x = vector(rng, 1, 3, 20, 20)
    with no_grad():
        for _ in range(3):
            assert bits(run(x)) == bits(one(x))
            other.weight.mul_(0.5)


def test_copies_of_a_compiled_module(rng):
    net = tiny()
    run = fastconv.compile(net)
    x = vector(rng, 2, 4)
    with no_grad():
        run(x), run(x)
        deep, pickled, shallow = (
            copy.deepcopy(run), pickle.loads(pickle.dumps(run)), copy.copy(run)
        )  # fmt: skip
        for twin in (deep, pickled, shallow):
            assert isinstance(twin, nn.Sequential) and type(twin)._compiled is not run._compiled
            assert bits(twin(x)) == bits(net(x))
            assert bits(twin(x)) == bits(net(x))
        before = bits(net(x))
        net[0].weight.mul_(2)
        assert bits(deep(x)) == before and bits(pickled(x)) == before
        assert bits(run(x)) == bits(shallow(x)) == bits(net(x)) != before
        both = copy.deepcopy([net, run])
        assert both[0][0] is both[1][0]


def test_a_compiled_module_within_a_step(rng):
    def build(wrap):
        net = wrap(tiny())
        optimizer = optim.SGD(net.parameters(), lr=0.1)

        def step(x, y):
            optimizer.zero_grad()
            loss = nn.MSELoss()(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return wrap(step), net, lambda: state_of(net, optimizer)

    step, net, state = build(lambda f: f)
    step_c, net_c, state_c = build(fastconv.compile)
    for _ in range(4):
        data = vector(rng, 2, 4), vector(rng, 2, 3)
        assert bits(step(*data)) == bits(step_c(*data))
        with no_grad():
            assert bits(net(data[0])) == bits(net_c(data[0]))
        assert state() == state_c()
    assert plans(step_c) >= 1 and plans(net_c._compiled) == 1


def test_summary_of_a_compiled_module(rng):
    net = Net()
    run = fastconv.compile(net)
    x = vector(rng, 1, 1, 32, 32)
    with no_grad():
        run(x), run(x)
    assert str(fastconv.summary(run, (1, 1, 32, 32))) == str(fastconv.summary(net, (1, 1, 32, 32)))
    with no_grad():
        assert bits(run(x)) == bits(net(x))


def test_gradients_on_and_off(rng):
    net = tiny()

    def function(x):
        return net(x).sum().requires_grad

    run = fastconv.compile(function)
    x = vector(rng, 2, 4)
    for _ in range(3):
        assert run(x) is True
        with no_grad():
            assert run(x) is False


def test_nothing_to_run():
    run = fastconv.compile(lambda: None)
    assert [run() for _ in range(3)] == [None] * 3
    run = fastconv.compile(lambda x: x)
    x = Tensor(np.zeros(0, np.float32))
    assert all(run(x) is x for _ in range(3))
    run = fastconv.compile(lambda x: x * 2)
    assert [bits(run(x)) for _ in range(3)] == [bits(x * 2)] * 3


def test_what_cannot_be_compiled():
    with pytest.raises(TypeError, match="function or a Module"):
        fastconv.compile(3)


# ---- FASTCONV_COMPILE ----------------------------------------------------------------------------------


def test_off(rng, monkeypatch, recordings):
    monkeypatch.setattr(compiler.compiled, "MODE", "off")
    pair = twins(tiny(), OPTIMIZERS["momentum"], nn.MSELoss())
    for _ in range(4):
        compare(*pair, (vector(rng, 2, 4), vector(rng, 2, 3)))
    assert not recordings and not plans(pair[1].step)


@pytest.mark.parametrize("set_to_none", [False, True])
def test_check(rng, monkeypatch, set_to_none):
    monkeypatch.setattr(compiler.compiled, "MODE", "check")
    for name in OPTIMIZERS:
        pair = twins(Net(), OPTIMIZERS[name], nn.MSELoss(), set_to_none=set_to_none)
        for _ in range(4):
            compare(*pair, batch(rng))
    run = fastconv.compile(lambda x: x.add_(1))
    for _ in range(3):
        x = vector(rng, 3)
        expected = bits(x + 1)
        assert bits(run(x)) == expected
    net = fastconv.compile(tiny())
    with no_grad():
        for _ in range(3):
            net(vector(rng, 2, 4))


def test_check_finds_a_difference(rng, monkeypatch):
    monkeypatch.setattr(compiler.compiled, "MODE", "check")
    run = fastconv.compile(lambda x: x * 2.0)
    x = vector(rng, 3)
    run(x), run(x)
    constants = run._plans[0].calls[0].operands["b"].array
    constants[...] = 3.0
    with pytest.raises(RuntimeError, match="differs"):
        run(x)


def test_the_environment_variable():
    code = """
import fastconv, numpy as np
run = fastconv.compile(lambda x: x * 2)
for _ in range(3):
    assert (run(fastconv.ones(3)).numpy() == 2).all()
print(len(run._plans))
"""
    for mode, expected in (("on", "1"), ("off", "0"), ("check", "1")):
        result = run_python("-c", code, FASTCONV_COMPILE=mode)
        assert result.stdout.strip() == expected, result.stderr
    assert "must be on, off or check" in run_python("-c", code, FASTCONV_COMPILE="no").stderr
