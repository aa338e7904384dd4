"""`compile`: gradients that a replay leaves to whoever looks at them."""

import copy
import gc
import os
import pickle
import signal
import threading
import time
import weakref

import numpy as np
import pytest
from twins import OPTIMIZERS, bits, both, compare, plans, state_of, tiny, twins, vector

import fastconv
from fastconv import models, nn
from fastconv.autograd import Tensor
from fastconv.compiler import compiled as compiled_module
from fastconv.nn import functional as F

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
MOMENTUM = OPTIMIZERS["momentum"]


def is_left(tensor):
    """Whether its array is still to be computed; asking does not compute it."""
    try:
        Tensor._array.__get__(tensor)
    except AttributeError:
        return True
    return False


def left(net):
    return [name for name, p in net.named_parameters() if is_left(p.grad)]


def pair(optimizer=MOMENTUM):
    """Twins that have trained a little; the gradient of the second layer's weight is left."""
    rng = np.random.default_rng(5)
    eager, replayed = twins(tiny(), optimizer, nn.MSELoss())
    data = [(vector(rng, 1, 4), vector(rng, 1, 3)) for _ in range(20)]
    train(eager, replayed, data[:4])
    return eager, replayed, data[4:]


def train(eager, replayed, data):
    for x, y in data:
        assert bits(eager.step(x, y)) == bits(replayed.step(x, y))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "adam" not in name])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 37])
@pytest.mark.parametrize("out", [1, 3, 4, 9])
def test_a_step_beside_a_gradient_of_any_size(name, width, out):
    rng = np.random.default_rng(width)
    net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, out))
    eager, replayed = twins(net, OPTIMIZERS[name], nn.MSELoss())
    train(eager, replayed, [(vector(rng, 1, 4), vector(rng, 1, out)) for _ in range(6)])
    assert left(replayed.net) == ["2.weight"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_computed_when_somebody_looks(name):
    eager, replayed, data = pair(OPTIMIZERS[name])
    # that of the first layer is made of the input
    expected = [] if "adam" in name else ["2.weight"]
    for _ in range(3):
        assert left(replayed.net) == expected
        train(eager, replayed, [data.pop()])
        assert left(replayed.net) == expected
        assert eager.state() == replayed.state()
        assert left(replayed.net) == []
        train(eager, replayed, [data.pop()])


def test_the_tutorials_net():
    eager, replayed = twins(models.Net(), OPTIMIZERS["sgd"], nn.MSELoss())
    rng = np.random.default_rng(0)
    train(eager, replayed, [(vector(rng, 1, 1, 32, 32), vector(rng, 1, 10)) for _ in range(4)])
    assert left(replayed.net) == ["fc1.weight", "fc2.weight", "fc3.weight"]
    explained = replayed.step.explain()
    assert [row.kernel for row in explained.rows if row.algorithm == "late"] == ["gemm"] * 3
    assert sum(row.microseconds for row in explained.rows if row.algorithm == "late") == 0
    # the steps of those three write the gradients of the layers' inputs too
    written = [len(row.writes) for row in explained.rows if row.kernel == "sgd_step"]
    assert written == [2] * 3 + [1] * 7
    assert "gemm" not in [row.kernel for row in explained.rows if row.algorithm != "late"]
    assert eager.state() == replayed.state()


def test_larger_batches_write_it():
    eager, replayed = twins(tiny(), MOMENTUM, nn.MSELoss())
    rng = np.random.default_rng(0)
    train(eager, replayed, [(vector(rng, 2, 4), vector(rng, 2, 3)) for _ in range(4)])
    assert left(replayed.net) == []


def zero(twin):
    twin.optimizer.zero_grad()


def accumulate(twin):
    twin.net(Tensor(np.ones((3, 4), np.float32))).sum().backward()


def clip(twin):
    with fastconv.no_grad():
        for p in twin.net.parameters():
            p.grad.mul_(0.25)


def convert(twin):
    twin.net.double()
    twin.net.float()


def give_another(twin):
    for p in twin.net.parameters():
        p.grad.data = Tensor(p.grad._array * np.float32(2))


def give_another_unseen(twin):
    for p in twin.net.parameters():
        p.grad.data = Tensor(np.ones(p.shape, np.float32))


def give_a_view(twin):
    for p in twin.net.parameters():
        p.grad.data = p.grad.data[:]


def forget(twin):
    twin.optimizer.zero_grad(set_to_none=True)


LOOKS = {
    "numpy": lambda t: t.net[2].weight.grad.numpy().tobytes(),
    "repr": lambda t: repr(t.net[2].weight.grad),
    "shape": lambda t: t.net[2].weight.grad.shape,
    "arithmetic": lambda t: t.net[2].weight.grad * 2,
    "item": lambda t: t.net[2].weight.grad[1, 2].item(),
    "clone": lambda t: t.net[2].weight.grad.clone(),
    "deepcopy": lambda t: [p.grad for p in copy.deepcopy(t.net).parameters()],
    "pickle": lambda t: pickle.loads(pickle.dumps(t.net[2].weight.grad)),
    "array": lambda t: np.array(t.net[2].weight.grad).tobytes(),
    "zero_grad": zero,
    "accumulate": accumulate,
    "clip": clip,
    "step": lambda t: t.optimizer.step(),
    "convert": convert,
    "another": give_another,
    "another, unseen": give_another_unseen,
    "a view": give_a_view,
    "forgotten": forget,
}


@pytest.mark.parametrize("name", LOOKS)
def test_ways_to_look(name):
    eager, replayed, data = pair()
    for times in range(3):
        assert bits(LOOKS[name](eager)) == bits(LOOKS[name](replayed))
        if times:
            assert eager.state() == replayed.state()
        train(eager, replayed, [data.pop() for _ in range(3)])
    assert eager.state() == replayed.state()


HOLDS = {
    "array": lambda grad: grad.numpy(),
    "part": lambda grad: grad.numpy()[1:],
    "transposed": lambda grad: grad.numpy().T,
    "memoryview": lambda grad: memoryview(grad.numpy()),
    "data": lambda grad: grad.data,
    "view": lambda grad: grad.view(-1),
    "tensor": lambda grad: grad,
    "detached": lambda grad: grad.detach(),
}


@pytest.mark.parametrize("name", HOLDS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_who_has_it_sees_it_change(name, when):
    """As in eager execution, where a gradient keeps its memory."""
    eager, replayed = twins(tiny(), MOMENTUM, nn.MSELoss())
    rng = np.random.default_rng(5)
    data = [(vector(rng, 1, 4), vector(rng, 1, 3)) for _ in range(12)]
    train(eager, replayed, data[: 1 if when == "before" else 4])
    held = [HOLDS[name](t.net[2].weight.grad) for t in (eager, replayed)]
    for x, y in data[4:]:
        train(eager, replayed, [(x, y)])
        a, b = (h._array if isinstance(h, Tensor) else np.asarray(h) for h in held)
        assert np.array_equal(a, b)
    del held, a, b
    train(eager, replayed, data[:2])
    assert left(replayed.net) == ["2.weight"]
    assert eager.state() == replayed.state()


def test_held_as_the_memory_of_the_gradient_itself():
    """Its array is a view of what was there, and somebody has that view."""
    eager, replayed, data = pair()
    views = []
    for twin in (eager, replayed):
        grad = twin.net[2].weight.grad
        grad.data = grad.data[:]
        views.append(grad._array)
    for x, y in data:
        train(eager, replayed, [(x, y)])
        assert np.array_equal(*views)


class ReadAgain(nn.Module):
    """Something between a layer's two gradients reads its weights, or writes what they are made of."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 5)

    def forward(self, x):
        hidden = self.second(self.first(x).relu())
        return self.first(hidden[:, :4]) + (self.second.weight * hidden.detach()).sum()


def test_weights_that_something_else_reads():
    eager, replayed = twins(ReadAgain(), MOMENTUM, nn.MSELoss())
    rng = np.random.default_rng(0)
    for i in range(8):
        train(eager, replayed, [(vector(rng, 1, 4), vector(rng, 1, 5))])
        if i % 3 == 2:
            assert eager.state() == replayed.state()


def test_memory_that_is_not_its_own():
    """The gradient lies in somebody's buffer, or has no reference that counts."""
    eager, replayed, data = pair()
    buffers = [bytearray(60), bytearray(60)]
    for twin, buffer in zip((eager, replayed), buffers, strict=True):
        grad = Tensor(np.ndarray((3, 5), np.float32, buffer))
        twin.net[2].weight.grad = grad
    for x, y in data[:6]:
        train(eager, replayed, [(x, y)])
        assert buffers[0] == buffers[1]
    eager, replayed, data = pair()
    weak = [weakref.ref(twin.net[2].weight.grad.numpy()) for twin in (eager, replayed)]
    for x, y in data[:4]:
        train(eager, replayed, [(x, y)])
        assert np.array_equal(weak[0](), weak[1]())


def test_another_plan_does_not_stop_it():
    eager, replayed, data = pair()
    for twin in (eager, replayed):
        twin.optimizer.param_groups[0]["weight_decay"] = 0.01
    train(eager, replayed, data[:4])
    assert plans(replayed.step) == 2 and left(replayed.net) == ["2.weight"]
    assert eager.state() == replayed.state()


def test_given_another_array_it_keeps_no_plan():
    _, replayed, _ = pair()
    grad = replayed.net[2].weight.grad
    assert is_left(grad)
    grad.data = Tensor(np.zeros((3, 5), np.float32))
    assert grad._late is None


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_can_look():
    """Though a thread that is not there was replaying."""
    _, replayed, data = pair()
    done = threading.Event()

    def keep_training():
        while not done.is_set():
            replayed.step(*data[0])

    thread = threading.Thread(target=keep_training)
    thread.start()
    try:
        children = []
        for _ in range(10):
            child = os.fork()
            if child == 0:
                replayed.net[2].weight.grad.numpy()
                os._exit(0)
            children.append(child)
        until = time.monotonic() + 20
        while children and time.monotonic() < until:
            children = [c for c in children if os.waitpid(c, os.WNOHANG)[0] == 0]
            time.sleep(0.01)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert children == []
    finally:
        done.set()
        thread.join()


def test_a_signal_handler_that_looks():
    """It comes between any two instructions, and what it has taken stays as it is told."""
    eager, replayed, data = pair()
    kept = []
    before = signal.signal(
        signal.SIGALRM, lambda *_: kept.append(replayed.net[2].weight.grad.numpy())
    )
    signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
    try:
        for _ in range(300):
            train(eager, replayed, data)
            if kept:
                assert np.array_equal(kept[-1], eager.net[2].weight.grad.numpy())
            kept.clear()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert eager.state() == replayed.state()


def test_a_second_plan_of_the_same_parameters(rng):
    def make():
        net = tiny()
        optimizer = MOMENTUM(net.parameters())

        def step(x, y, scale):
            optimizer.zero_grad()
            loss = ((net(x) - y) ** 2).sum() * scale
            loss.backward()
            optimizer.step()
            return loss

        return net, optimizer, step

    (net, optimizer, step), (its_net, its_optimizer, its_step) = make(), make()
    its_step = fastconv.compile(its_step)
    for i in range(24):
        x, y, scale = vector(rng, 1, 4), vector(rng, 1, 3), (1.0, 2.0)[i % 4 == 3]
        assert bits(step(x, y, scale)) == bits(its_step(x, y, scale))
        if i % 5 == 0:
            assert state_of(net, optimizer) == state_of(its_net, its_optimizer)
    assert plans(its_step) == 2
    assert state_of(net, optimizer) == state_of(its_net, its_optimizer)


def test_between_two_compiled_functions():
    """One leaves it, the other reads it: forward passes of the net, and the norm of its gradients."""

    def norm_of(net):
        def norm():
            with fastconv.no_grad():
                return sum((p.grad * p.grad).sum() for p in net.parameters())

        return norm

    eager, replayed, data = pair()
    norm, its_norm = norm_of(eager.net), fastconv.compile(norm_of(replayed.net))
    forward = fastconv.compile(replayed.net)
    for i, (x, y) in enumerate(data):
        train(eager, replayed, [(x, y)])
        with fastconv.no_grad():
            assert bits(eager.net(x)) == bits(forward(x))
        if i > 6:
            assert bits(norm()) == bits(its_norm())
    assert eager.state() == replayed.state()


def test_accumulated_over_a_leaving_step():
    """A second compiled function adds to what the first has left."""
    eager, replayed, data = pair()

    def add_to(twin):
        def more(x, y):
            loss = twin.criterion(twin.net(x), y)
            loss.backward()
            return loss

        return more

    more, its_more = add_to(eager), fastconv.compile(add_to(replayed))
    for x, y in data:
        train(eager, replayed, [(x, y)])
        assert bits(more(x, y)) == bits(its_more(x, y))
        assert eager.state() == replayed.state()
        train(eager, replayed, [(x, y)])


@pytest.mark.parametrize("seed", range(6))
def test_looking_now_and_then(seed):
    rng = np.random.default_rng(seed)
    eager, replayed, _ = pair(OPTIMIZERS[("sgd", "momentum", "nesterov", "decay")[seed % 4]])
    looks = [look for name, look in LOOKS.items() if name != "convert"]
    for _ in range(40):
        n = int(rng.choice([1, 1, 1, 2]))
        train(eager, replayed, [(vector(rng, n, 4), vector(rng, n, 3))])
        if rng.random() < 0.3:
            look = looks[int(rng.integers(len(looks)))]
            assert bits(look(eager)) == bits(look(replayed))
        if rng.random() < 0.2:
            assert eager.state() == replayed.state()
    assert eager.state() == replayed.state()


def test_the_optimizer_changes():
    """Its numbers, and then the calls that there are."""
    eager, replayed, data = pair()
    for i, (x, y) in enumerate(data):
        for twin in (eager, replayed):
            twin.optimizer.param_groups[0]["lr"] = 0.1 / (1 + i)
            twin.optimizer.param_groups[0]["weight_decay"] = 0.01 * (i % 5 == 4)
        train(eager, replayed, [(x, y)])
        if i % 3 == 0:
            assert eager.state() == replayed.state()


def test_the_plan_is_gone():
    eager, replayed, _ = pair()
    grad = replayed.net[2].weight.grad
    assert is_left(grad)
    del replayed
    assert bits(grad) == bits(eager.net[2].weight.grad)


def test_no_cycle_keeps_it():
    """A gradient and the plan that left it are freed without the collector of cycles."""
    _, replayed, _ = pair()
    grad = weakref.ref(replayed.net[2].weight.grad)
    gc.collect()
    gc.disable()
    try:
        replayed.net[2].weight.grad = replayed.step = None
        assert grad() is None
    finally:
        gc.enable()


def test_a_replay_that_fails_leaves_zeros():
    """As zero_grad() would have, had Python run."""

    def make():
        net = tiny()
        optimizer = MOMENTUM(net.parameters())

        def step(x):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), x.argmax(1))  # of 3 classes
            loss.backward()
            optimizer.step()
            return loss

        return step, net, optimizer

    (step, *owners), (its_step, *its_owners) = both(make)
    good, bad = (Tensor(np.eye(4, dtype=np.float32)[i : i + 1]) for i in (1, 3))
    for _ in range(4):
        assert bits(step(good)) == bits(its_step(good))
    assert left(its_owners[0]) == ["2.weight"]
    for run in (step, its_step):
        with pytest.raises(IndexError, match="out of bounds"):
            run(bad)
    assert plans(its_step) == 1
    assert bits(dict(owners[0].state_dict())) == bits(dict(its_owners[0].state_dict()))
    assert not its_owners[0][2].weight.grad.numpy().any()
    assert bits(step(good)) == bits(its_step(good))
    assert state_of(*owners) == state_of(*its_owners)


def test_checked_replays(monkeypatch):
    eager, replayed, data = pair()
    monkeypatch.setattr(compiled_module, "MODE", "check")
    for x, y in data:
        compare(eager, replayed, (x, y))
        train(eager, replayed, [(x, y)])


def test_a_thread_that_looks_all_the_time():
    """It may see any numbers while another trains, but afterwards the right ones."""
    eager, replayed, data = pair()
    done, failed = threading.Event(), []

    def look():
        while not done.is_set():
            try:
                replayed.net[2].weight.grad.sum()
            except Exception as error:
                failed.append(error)
                return

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    train(eager, replayed, data * 20)
    done.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert eager.state() == replayed.state()
