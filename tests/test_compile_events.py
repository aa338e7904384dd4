"""`compile`: something happens between two calls, and no plan that is wrong by then is replayed."""

import copy
import gc
import warnings
import weakref

import numpy as np
import pytest
from twins import OPTIMIZERS, bits, both, compare, eager, plans, state_of, tiny, twins, vector

import fastconv
from fastconv import nn, optim
from fastconv.autograd import Tensor
from fastconv.compiler import weights
from fastconv.nn import functional as F

# What runs eagerly says so: no test passes because nothing was replayed.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")


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


@pytest.mark.filterwarnings("ignore:Setting the shape")  # deprecated from NumPy 2.5 on
def test_the_shape_of_the_array_it_was_recorded_with_may_change(rng):
    run = fastconv.compile(lambda x: x.sum(0))
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    run(Tensor(array))
    array.shape = (3, 2)
    assert run(Tensor(array)).shape == (2,)


@pytest.mark.filterwarnings("ignore:Setting the shape")  # deprecated from NumPy 2.5 on
def test_the_shape_of_a_parameter_may_change_in_place():
    weight = Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    run = fastconv.compile(lambda: weight.sum(0))
    run(), run()
    weight._array.shape = (3, 2)
    assert run().shape == (2,)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_normalisation_after_the_update(rng, optimizer):
    """Its momentum and eps are its own, whatever the optimizer's are, and change to."""

    def make():
        fastconv.manual_seed(3)
        net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
        made = OPTIMIZERS[optimizer](net.parameters())

        def step(x):
            made.zero_grad()
            net(x).sum().backward()
            made.step()
            with fastconv.no_grad():
                return net(x)

        return step, net, made

    runs = both(make)
    for i in range(5):
        x = vector(rng, 6, 4)
        assert bits(runs[0][0](x)) == bits(runs[1][0](x))
        assert state_of(*runs[0][1:]) == state_of(*runs[1][1:])
        for _, _, made in runs:
            made.param_groups[0]["lr"] = 0.01 * (i + 1)


def test_an_option_set_between_two_updates(rng):
    """Each update has its own; a replay could not know it."""

    def make():
        net = tiny()
        made = OPTIMIZERS["sgd"](net.parameters())

        def step(x):
            for lr in (0.1, 0.2):
                made.param_groups[0]["lr"] = lr
                made.zero_grad()
                net(x).sum().backward()
                made.step()

        return step, net, made

    runs = both(make)
    for _ in range(4):
        x = vector(rng, 6, 4)
        runs[0][0](x)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            runs[1][0](x)
        assert state_of(*runs[0][1:]) == state_of(*runs[1][1:])
        assert [str(w.message) for w in caught if "sets an option" in str(w.message)] == [
            str(w.message) for w in caught
        ]


class Around(optim.Optimizer):
    """An optimizer whose update is that of another one."""

    def __init__(self, params, inner):
        super().__init__(params, {})
        self.inner = inner

    def _check(self, group):
        pass

    def _update(self, params, group):
        self.inner.step()


def test_an_optimizer_within_another(rng):
    """Its learning rate is read at each replay."""

    def make():
        net = tiny()
        inner = OPTIMIZERS["momentum"](net.parameters())
        outer = Around(net.parameters(), inner)

        def step(x):
            outer.zero_grad()
            net(x).sum().backward()
            outer.step()

        return step, net, inner

    runs = both(make)
    for i in range(5):
        x = vector(rng, 6, 4)
        for run, _, inner in runs:
            inner.param_groups[0]["lr"] = 0.1 / (i + 1)
            run(x)
        assert state_of(*runs[0][1:]) == state_of(*runs[1][1:])
    assert plans(runs[1][0])


def prepared_net(rng):
    """A net, with a gradient that does not fit its bias, and its compiled twin, which reads prepared weights."""
    net = nn.Conv2d(64, 64, 3, padding=1).eval()
    net.weight.grad, net.bias.grad = fastconv.ones(*net.weight.shape), fastconv.zeros(7)
    run, x = fastconv.compile(net), vector(rng, 1, 64, 16, 16)
    with fastconv.no_grad():
        run(x), run(x)
    assert run._compiled._plans[0].weights
    return net, run, x


def test_weights_that_change_while_they_are_made_ready(rng, monkeypatch):
    net, run, x = prepared_net(rng)
    optimizer = optim.SGD([net.weight], lr=0.1)
    prepare = weights.kernels.prepare_recorded

    def and_then_train(*args):
        found = prepare(*args)
        monkeypatch.undo()
        optimizer.step()
        return found

    optimizer.step()
    with fastconv.no_grad():
        monkeypatch.setattr(weights.kernels, "prepare_recorded", and_then_train)
        run(x)
        assert bits(run(x)) == bits(net(x))


def test_weights_after_a_step_that_failed(rng):
    net, run, x = prepared_net(rng)
    with fastconv.no_grad():
        with pytest.raises(ValueError):
            optim.SGD(net.parameters(), lr=0.1).step()
        assert bits(run(x)) == bits(net(x))


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam])
def test_a_learning_rate_that_changes_in_place(rng, make):
    x, y = vector(rng, 2, 4), vector(rng, 2, 3)
    a, b = twins(tiny(), lambda p: make(p, lr=0.1), nn.MSELoss())
    for twin in (a, b):
        twin.optimizer.param_groups[0]["lr"] = np.array(0.1)
    for _ in range(5):
        assert bits(a.step(x, y)) == bits(b.step(x, y))
        for twin in (a, b):
            twin.optimizer.param_groups[0]["lr"] *= 0.5
    assert a.state() == b.state() and plans(b.step) >= 1


def test_a_learning_rate_that_changes_while_it_is_read(rng):
    x, y = vector(rng, 2, 4), vector(rng, 2, 3)
    a, b = twins(tiny(), lambda p: optim.SGD(p, lr=0.1), nn.MSELoss())
    numbers, change = b.optimizer._numbers, []

    def and_then_change(group):
        found = numbers(group)
        if change:
            group["lr"] = change.pop()
        return found

    for _ in range(3):
        a.step(x, y), b.step(x, y)
    for twin in (a, b):
        twin.optimizer.param_groups[0]["lr"] = 0.2
    a.step(x, y)
    change.append(0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(b.optimizer), "_numbers", lambda self, group: and_then_change(group))
        b.step(x, y)
    assert not change and a.state() == b.state()
    a.optimizer.param_groups[0]["lr"] = 0.01
    assert bits(a.step(x, y)) == bits(b.step(x, y)) and a.state() == b.state()


def test_labels_that_are_gone(rng):
    """A plan does not look at memory that it does not hold, not even to see whether it still fits."""
    labels = Tensor(np.zeros(1 << 20, np.int64))

    @fastconv.compile
    def step(x):
        F.nll_loss(x, labels)  # whose result nobody wants
        return x * 2

    x = vector(rng, 1 << 20, 2)
    with fastconv.no_grad():
        for _ in range(3):
            assert bits(step(x)) == bits(x * 2)
        labels.data = Tensor(np.ones(1 << 20, np.int64))
        assert bits(step(x)) == bits(x * 2)
    assert plans(step) == 2


def test_memory_of_a_file(tmp_path, rng):
    """An array of a class derived from NumPy's is watched as any other."""
    file = np.memmap(tmp_path / "numbers", np.float32, "w+", shape=(4,))
    file[...] = 2
    numbers = Tensor(file)
    step = fastconv.compile(lambda x: x * numbers)
    x = vector(rng, 3, 4)
    with fastconv.no_grad():
        for _ in range(3):
            assert bits(step(x)) == bits(x * numbers)
    assert plans(step) == 1


def test_parameters_that_can_no_longer_be_written(rng):
    before, compiled = twins(tiny(), OPTIMIZERS["sgd"], nn.MSELoss())
    x, y = vector(rng, 2, 4), vector(rng, 2, 3)
    for _ in range(3):
        compare(before, compiled, (x, y))
    for twin in (before, compiled):
        weight = twin.net[2].weight
        view = weight._array.view()
        view.setflags(write=False)
        weight.data = Tensor(view)
        with pytest.raises(ValueError, match="changed in place"):
            twin.step(x, y)
