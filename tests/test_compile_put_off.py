"""While it records, `compile` puts off the kernels, and lets the plan run them: nobody can tell, but by the memory."""

import copy
import gc
import pickle
import threading
import time
import warnings

import numpy as np
import pytest
from test_batch_norm import arrays
from twins import OPTIMIZERS, bits, both, compare, state_of, tiny, twins, vector

import fastconv
from fastconv import kernels, nn, optim
from fastconv.autograd import Tensor
from fastconv.compiler import compiled
from fastconv.models import resnet18
from fastconv.nn import functional as F


@pytest.fixture
def put_off(monkeypatch):
    """For each recording, whether all of its calls were put off to the end."""
    found, original = [], compiled.trace

    def trace(*args):
        recorded = original(*args)
        found.append(recorded.recording.putting_off)
        return recorded

    monkeypatch.setattr(compiled, "trace", trace)
    return found


@pytest.fixture(autouse=True)
def quiet():
    """Of what runs eagerly after all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("none", [False, True])
def test_a_training_step(rng, put_off, optimizer, none):
    eager, step = twins(tiny(), OPTIMIZERS[optimizer], nn.CrossEntropyLoss(), none)
    for _ in range(4):
        compare(eager, step, (vector(rng, 6, 4), Tensor(rng.integers(0, 3, 6))))
    assert put_off == [optimizer != "adam", True]  # NumPy makes Adam's counts


def test_a_residual_net(rng, put_off):
    fastconv.manual_seed(1)
    net = resnet18(10, "cifar", 4)
    eager, step = twins(net, OPTIMIZERS["momentum"], nn.CrossEntropyLoss())
    for _ in range(4):
        compare(eager, step, (vector(rng, 2, 3, 8, 8), Tensor(rng.integers(0, 10, 2))))
    assert put_off == [True, True]


# ---- who looks at numbers --------------------------------------------------------------------------------


def by_array(y):
    return np.array(y._array)


def by_reshaping(y):
    return y._array.T.reshape(-1)


def by_kernel(y):
    return kernels.relu(y._array)


def by_kernel_into(y):
    kernels.relu(y._array, out=y._array)
    return y._array.tolist()


def elsewhere(function):
    """What the function returns in another thread."""
    found = []
    other = threading.Thread(target=lambda: found.append(function()))
    other.start()
    other.join()
    return found[0]


def by_pickle(y):
    return pickle.loads(pickle.dumps(y.detach()))._array


def by_deepcopy(y):
    return copy.deepcopy(y.detach())._array


def by_saving(y, path="seen.safetensors"):
    fastconv.save({"y": y.detach()}, path)
    return fastconv.load(path)["y"]._array


def by_many_axes(y):
    """NumPy brings these into a form that kernels take."""
    many = y._array.reshape(2, 1, 3).transpose(2, 0, 1)[:, None, :, None, :, None, None, None, None]
    return kernels.add(many, np.ones((1, 2, 2, 1, 1, 1, 2, 1, 2), np.float32)).tolist()


def by_number(y):
    return y.sum().item(), y.tolist(), str(y), bool((y * 2).max() > 1)


def by_indices(y):
    return y[[0, 1]].detach().tolist(), y.T.reshape(6).detach().tolist()


LOOKS = [
    by_indices,
    by_array,
    by_reshaping,
    by_kernel,
    by_kernel_into,
    by_pickle,
    by_deepcopy,
    by_saving,
    by_many_axes,
    by_number,
]


@pytest.mark.parametrize("thread", ["the same", "another"])
@pytest.mark.parametrize("look", LOOKS, ids=lambda f: f.__name__)
def test_whoever_looks_finds_the_numbers(rng, look, thread, tmp_path, monkeypatch):
    """By what is private, in the same thread only."""
    if thread == "another" and look in (by_array, by_reshaping):
        return
    monkeypatch.chdir(tmp_path)
    seen = []

    def function(x):
        y = x * 2 + 1
        y = (y * y).relu() - x
        found = look(y) if thread == "the same" else elsewhere(lambda: look(y))
        seen.append(np.asarray(found, object).tolist())
        return y * 3

    x = vector(rng, 2, 3)
    expected = function(x)
    found = fastconv.compile(function)(x)
    assert seen[0] == seen[1] and bits(found) == bits(expected)


def test_a_buffer_that_is_filled_again(rng):
    """Micro-batches by NumPy, which no recording sees."""
    buffer, batches = np.zeros((2, 3), np.float32), rng.standard_normal((4, 2, 3), np.float32)

    def function(x):
        total = x * 0
        for batch in batches:
            buffer[...] = batch
            total = total + fastconv.from_numpy(buffer) * x
        return total

    x = vector(rng, 2, 3)
    assert bits(fastconv.compile(function)(x)) == bits(function(x))


def test_what_runs_between_the_recording_and_its_kernels(rng, monkeypatch):
    """A finalizer that the garbage collector calls, and a hook that shows the warning of a refusal."""
    kept, seen, shown = [], [], []

    class Meter:
        def __init__(self, total):
            self.total, self.me = total, self

        def __del__(self):
            seen.append((self.total * 2).tolist())

    def function(x):
        y = x * 2 + 1
        kept.append(y)
        Meter(y * 1)
        return {1, 2}  # is refused

    def show(*args, **kwargs):
        shown.append((kept[-1] * 2).tolist())

    original = compiled.Plan

    def plan(recorded):
        gc.collect()
        return original(recorded)

    gc.collect()
    monkeypatch.setattr(compiled, "Plan", plan)
    monkeypatch.setattr(warnings, "showwarning", show)
    warnings.simplefilter("always")
    x = vector(rng, 3)
    run = fastconv.compile(function)
    for _ in range(3):
        run(x)
    expected = ((x * 2 + 1) * 2).tolist()
    assert seen == [expected] * 3 and shown == [expected]


def test_another_thread_changes_what_is_known(rng):
    """A parameter, which it finds as it is by then, and which is as it was for what came before."""
    w = Tensor(np.ones(3, np.float32))

    def function(x):
        y = x * w
        w.mul_(2)
        seen = elsewhere(lambda: (w * 1).add_(w).tolist())
        elsewhere(lambda: w.add_(1))
        return y, w * x, seen[0] * 1.0

    x = vector(rng, 3)
    expected = function(x)
    w._array[...] = 1
    assert bits(fastconv.compile(function)(x)) == bits(expected)
    assert w.tolist() == [3, 3, 3]


def test_a_thread_waits_for_what_was_published(rng, monkeypatch):
    """While the plan is made, and while it runs."""
    published, seen, ready = [], [], threading.Event()
    original = compiled.Plan

    def slow(recorded):
        ready.set()
        time.sleep(0.05)
        return original(recorded)

    def consume():
        ready.wait(5)
        seen.append(published[0].tolist())

    def function(x):
        y = (x @ x).relu()
        published.append(y)
        return y + 1

    x = vector(rng, 300, 300)
    expected = (x @ x).relu().tolist()
    monkeypatch.setattr(compiled, "Plan", slow)
    other = threading.Thread(target=consume)
    other.start()
    fastconv.compile(function)(x)
    other.join()
    assert seen == [expected]


@pytest.mark.parametrize("where", ["before", "forward", "backward", "after"])
def test_numpy_makes_an_array(rng, where, put_off):
    """It may be a copy of what is not computed yet: all that came before runs, and once only."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny()

        def forward(self, x):
            return numpy("forward", self.inner(x))

    def numpy(here, x):
        if here == where:
            np.fromiter(range(1000), np.float32)  # grows, too
        return x

    def make():
        net = Net()
        optimizer, criterion = OPTIMIZERS["momentum"](net.parameters()), nn.CrossEntropyLoss()

        def step(x, y):
            numpy("before", x)
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            numpy("backward", x)
            optimizer.step()
            return numpy("after", loss)

        return step, net, optimizer

    eager, step = both(make)
    for _ in range(4):
        data = vector(rng, 6, 4), Tensor(rng.integers(0, 3, 6))
        assert bits(eager[0](*data)) == bits(step[0](*data))
        assert state_of(*eager[1:]) == state_of(*step[1:])
    assert put_off == [False, False]


def test_what_is_kept_elsewhere(rng, put_off):
    """A result that is not returned, but appended to a list."""
    kept = []

    def function(x):
        y = x * 2
        kept.append((y + 1, y._array[1]))
        return y * 3

    x = vector(rng, 2, 3)
    run = fastconv.compile(function)
    for _ in range(3):
        assert bits(run(x)) == bits(x * 2 * 3)
    assert put_off == [True]  # then the list holds an array, which cannot be watched
    for whole, row in kept:
        assert bits(whole) == bits(x * 2 + 1)
        assert row.tobytes() == (x * 2)._array[1].tobytes()


# ---- what goes wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["forward", "backward", "step"])
def test_an_exception_in_the_step(rng, after):
    """What came before it has happened."""

    def make():
        fastconv.manual_seed(3)
        net = tiny()
        optimizer = OPTIMIZERS["momentum"](net.parameters())

        def step(x):
            optimizer.zero_grad()
            loss = net(x).sum()
            if after != "forward":
                loss.backward()
            if after == "step":
                optimizer.step()
            raise KeyError("mine")

        return step, net, optimizer

    states = []
    for run, net, optimizer in both(make):
        for i in range(3):
            with pytest.raises(KeyError, match="mine"):
                run(vector(np.random.default_rng(i), 5, 4))
        states.append(state_of(net, optimizer))
    assert states[0] == states[1]


def test_a_label_that_is_no_class_raises_where_it_is_used(rng):
    net, criterion, caught = tiny(), nn.CrossEntropyLoss(), []

    @fastconv.compile
    def step(x, y):
        try:
            return criterion(net(x), y)
        except IndexError as error:
            caught.append(str(error))
            return net(x).sum()

    with fastconv.no_grad():
        x = vector(rng, 2, 4)
        found = step(x, Tensor(np.array([0, 7])))
        assert bits(found) == bits(net(x).sum())
    assert caught == ["target 7 is out of bounds: there are 3 classes"]


def test_threads_and_instruction_sets_in_the_middle(rng, threads, isa):
    """Calls run by what was chosen when they were made."""
    threads(2)

    def function(x):
        kernels.set_isa(isa)
        y = (x @ x).softmax(1)
        kernels.set_isa("baseline")
        kernels.set_num_threads(1)
        z = (y @ y).softmax(1)
        kernels.set_num_threads(2)
        kernels.set_isa(isa)
        return z, y

    x = vector(rng, 33, 33)
    assert bits(fastconv.compile(function)(x)) == bits(function(x))


@pytest.mark.parametrize("what", ["manual_seed", "set_state"])
def test_seeds_in_the_step(rng, what):
    """A seed is set at each call: such a step runs eagerly."""
    drop = nn.Dropout(0.5)
    generator = fastconv.random.default_generator
    fastconv.manual_seed(5)
    state = generator.get_state()

    @fastconv.compile
    def step(x):
        y = drop(x)
        if what == "manual_seed":
            fastconv.manual_seed(5)
        else:
            generator.set_state(state)
        return y + drop(x)

    x = vector(rng, 40)
    fastconv.manual_seed(5)
    expected = drop(x)
    for _ in range(4):
        fastconv.manual_seed(5)
        assert bits(step(x)) == bits(expected + expected)


def test_an_error_of_a_kernel_that_was_put_off(rng):
    """Indices that point outside, which only running finds out: raised, and nothing replayed."""
    x, dy, _, _ = arrays(rng, (1, 1, 4, 4), np.float32)
    indices = np.full((1, 1, 2, 2), 99, np.int32)

    def function(y):
        return Tensor(kernels.max_pool2d_backward((y * 1)._array, indices, (4, 4), 2))

    run = fastconv.compile(function)
    for _ in range(2):
        with pytest.raises(IndexError):
            run(Tensor(dy[:, :, :2, :2].copy()))


def test_recordings_follow_each_other(rng):
    """One that has ended leaves nothing behind."""
    x = vector(rng, 3)
    recording = kernels.Recording()
    recording.put_off(frozenset())
    with pytest.raises(ZeroDivisionError), recording:
        y = x * 2
        assert not recording.putting_off  # x is not known
        _ = 1 / 0
    assert bits(y) == bits(x * 2)
    recording.finish()
    recording = kernels.Recording()
    recording.put_off(frozenset([id(x._array)]))
    with recording:
        y = x * 2
    assert recording.putting_off
    recording.finish()
    recording.finish()
    assert bits(y) == bits(x * 2) and not recording.putting_off


def test_no_memory_for_the_arena(rng, monkeypatch):
    """What it needs at one time, or one after the other: the step runs all the same."""

    def no_memory(size):
        raise MemoryError

    monkeypatch.setattr("fastconv.compiler.memory.aligned_bytes", no_memory)
    eager, step = twins(resnet18(10, "cifar", 4), OPTIMIZERS["momentum"], nn.CrossEntropyLoss())
    for _ in range(3):
        compare(eager, step, (vector(rng, 2, 3, 8, 8), Tensor(rng.integers(0, 10, 2))))


def test_a_result_that_no_memory_holds(rng):
    def function(x):
        try:
            return x.expand(2**45) * 1
        except MemoryError:
            return x * 2

    x = vector(rng, 1)
    assert bits(fastconv.compile(function)(x)) == bits(x * 2)


def test_an_option_that_is_gone(rng):
    """After the update; the next one misses it, as in an eager step."""
    net = tiny()
    optimizer = OPTIMIZERS["sgd"](net.parameters())

    def step(x):
        net(x).sum().backward()
        optimizer.step()
        optimizer.param_groups[0].pop("dampening")

    other = copy.deepcopy(net)
    x = vector(rng, 5, 4)
    fastconv.compile(step)(x)
    other(x).sum().backward()
    OPTIMIZERS["sgd"](other.parameters()).step()
    assert state_of(net) == state_of(other)


def test_code_without_a_module(rng):
    names = {"kernels": kernels, "Tensor": Tensor, "__name__": None}
    exec("def function(x): return Tensor(kernels.relu((x * 2)._array)) * 1", names)
    x = vector(rng, 3)
    assert bits(fastconv.compile(names["function"])(x)) == bits((x * 2).relu())


def test_labels_of_the_step_s_own_making(rng):
    """Which are no classes: known where they are used, whoever else looks meanwhile."""
    x, z = vector(rng, 10000, 10), vector(rng, 10000, 5)

    def function(x, z):
        labels = x.argmax(1)
        try:
            return F.nll_loss(z, labels)
        except IndexError:
            return z.sum() + elsewhere((z * 1).sum().item)

    run = fastconv.compile(function)
    for _ in range(3):
        assert bits(run(x, z)) == bits(function(x, z))


class Warm(optim.SGD):
    """Its numbers change each time that they are asked for."""

    times = 0

    def _numbers(self, group):
        self.times += 1
        return {**super()._numbers(group), "lr": group["lr"] * self.times}


def test_an_optimizer_that_counts(rng):
    """It is asked as often as in an eager step."""

    def make():
        net = tiny()
        made = Warm(net.parameters(), lr=0.01)

        def step(x):
            made.zero_grad()
            net(x).sum().backward()
            made.step()

        return step, net

    states = []
    for run, net in both(make):
        for i in range(4):
            run(vector(np.random.default_rng(i), 6, 4))
        states.append(state_of(net))
    assert states[0] == states[1]
