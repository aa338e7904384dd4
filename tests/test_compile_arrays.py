"""`compile`: the memory of arguments and results."""

import collections
import warnings

import numpy as np
import pytest
from helpers import AWKWARD, byte_swapped, unaligned
from twins import OPTIMIZERS, batch, bits, compare, eager, plans, state_of, tiny, twins, vector

import fastconv
from fastconv import nn, optim
from fastconv.autograd import Tensor, no_grad
from fastconv.compiler import compiled
from fastconv.models import Net
from fastconv.nn import functional as F

# What runs eagerly says so: no test passes because nothing was replayed.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")


# The memory of arguments ---------------------------------------------------------------------------


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


@pytest.mark.parametrize("mode", ["on", "check"])
def test_arguments_and_state_in_one_array(rng, monkeypatch, mode):
    """Parts of it, which do not overlap: each is itself."""
    monkeypatch.setattr(compiled, "MODE", mode)

    def build(wrap):
        memory = np.arange(40, dtype=np.float32)
        state = Tensor(memory[:4])

        def function(x, y):
            state.add_(x)
            x.mul_(2)
            return state * y

        return wrap(function), memory, state

    (f, memory, state), (g, memory_c, state_c) = build(lambda f: f), build(fastconv.compile)
    for i in (4, 8, 12, 20, 16, 24):
        for m in (memory, memory_c):
            m[30:] = i
        expected = f(Tensor(memory[i : i + 4]), Tensor(memory[i + 4 : i + 8]))
        assert bits(g(Tensor(memory_c[i : i + 4]), Tensor(memory_c[i + 4 : i + 8]))) == bits(
            expected
        )
        assert memory.tobytes() == memory_c.tobytes()
    assert plans(g) == 1
    with eager("shares memory"):
        found = g(state_c, Tensor(memory_c[8:12]))
    assert bits(found) == bits(f(state, Tensor(memory[8:12])))


def test_memory_known_as_two(rng):
    def build(wrap):
        memory = bytearray(32)
        a = Tensor(np.frombuffer(memory, np.float32)[:4])
        b = Tensor(np.frombuffer(memory, np.float32)[2:6])

        def function(x):
            a.zero_()
            b.add_(x)
            return a * 2

        return wrap(function)

    f, g = build(lambda f: f), build(fastconv.compile)
    with eager("in two ways"):
        for _ in range(3):
            x = vector(rng, 4)
            assert bits(f(x)) == bits(g(x))


def test_a_filter_as_an_argument(rng):
    """It is no weight to be made ready once, though a Tensor of the same memory is reached."""
    both = vector(rng, 2, 8, 8, 3, 3) * 1
    scale = both[1]
    run = fastconv.compile(lambda x, w: F.conv2d(x, w) * scale[0, 0, 0, 0])
    x = vector(rng, 1, 8, 20, 20)
    for w in (both[0], both[0], vector(rng, 8, 8, 3, 3), both[0]):
        assert bits(run(x, w)) == bits(F.conv2d(x, w) * scale[0, 0, 0, 0])


@pytest.mark.parametrize("change", ["alias", "weight", "numpy"])
def test_a_weight_under_two_names(rng, change):
    net = nn.Conv2d(8, 8, 3)
    net.alias = net.weight.data
    run = fastconv.compile(lambda x: net(x) * net.alias.sum())
    x = vector(rng, 1, 8, 20, 20)
    with no_grad():
        for _ in range(3):
            assert bits(run(x)) == bits(net(x) * net.alias.sum())
            if change == "numpy":
                net.alias.numpy()[...] *= 2
            else:
                getattr(net, change).mul_(2)


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


# Results -------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("given", [False, True])
def test_a_list_that_is_the_callers(rng, given):
    """Who changes the result changes what the function reads."""
    kept = [2.0]

    def function(x, own):
        return own if given else kept

    run = fastconv.compile(function)
    with eager("returns a list that it did not make"):
        for _ in range(3):
            x, own = vector(rng, 2), [1.0]
            assert run(x, own) is (own if given else kept)


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
