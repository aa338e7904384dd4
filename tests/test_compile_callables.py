"""`compile`: threads and forks; functions in functions, methods, modules."""

import collections
import copy
import inspect
import os
import pickle
import sys
import threading
import types
import typing
import warnings

import numpy as np
import pytest
from twins import OPTIMIZERS, batch, bits, compare, plans, state_of, tiny, twins, vector

import fastconv
from fastconv import kernels, nn, optim
from fastconv.autograd import Tensor, no_grad
from fastconv.models import Net

# What runs eagerly says so: no test passes because nothing was replayed.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")


# Threads, forks ------------------------------------------------------------------------------------


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

    x = vector(rng, 2, 4)
    recording = kernels.Recording()
    thread = threading.Thread(target=elsewhere)
    thread.start()
    with recording:
        function(x)
    thread.join()
    assert [call[0] for call in recording.calls] == ["linear", "mul"]


def test_a_step_that_waits_for_a_thread(rng):
    """Which calls what is compiled: nobody waits for ever, and what the thread did is not forgotten by a replay."""
    w = Tensor(np.ones(3, np.float32))
    add = fastconv.compile(lambda x: w.add_(x))

    def function(x):
        in_threads(lambda: add(x))
        return x * 2

    run = fastconv.compile(function)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(4):
            x = Tensor(np.full(3, 0.5, np.float32))
            run(x)
            assert bits(w) == bits(Tensor(np.full(3, 1.5 + 0.5 * i, np.float32)))


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


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_a_process_that_records(rng):
    """The thread that records is not in the child, whose next thread may go by its number."""
    w, x = vector(rng, 3), vector(rng, 3)
    (wait_inside, inside), (wait_forked, forked) = os.pipe(), os.pipe()

    @fastconv.compile
    def slow(x):
        y = x * w
        os.write(inside, b"1")
        os.read(wait_forked, 1)
        return y + 1

    def in_child(found):
        y = fastconv.ones(300, 300) * 2
        y = y + 1
        found.append(y.numpy().min() == y.numpy().max() == 3)
        f = fastconv.compile(lambda x: x * w)
        found.append(all(bits(f(x)) == bits(x * w) for _ in range(3)) and plans(f) == 1)

    recorder = threading.Thread(target=slow, args=(x,))
    recorder.start()
    os.read(wait_inside, 1)
    child = os.fork()
    if child == 0:
        found = []
        try:
            thread = threading.Thread(target=in_child, args=(found,))
            thread.start()
            thread.join(60)
        finally:
            os._exit(0 if found == [True, True] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.write(forked, b"11")
    recorder.join(60)
    assert bits(slow(x)) == bits(x * w + 1) and plans(slow) == 1
    for end in (wait_inside, inside, wait_forked, forked):
        os.close(end)


def test_an_interrupt_at_any_line_of_a_recording(rng):
    """Whatever it leaves undone, the next function is recorded. (Before finish() itself Python looks at no signal.)"""
    x, record = vector(rng, 3), type(fastconv.compile(len))._record
    code, (source, first) = record.__code__, inspect.getsourcelines(record)
    lines = {first + i for i, line in enumerate(source) if line.strip() != "recording.finish()"}
    for line in {line for *_, line in code.co_lines()} & lines:

        def interrupt(frame, event, _, line=line):
            if frame.f_code is code and event == "line" and frame.f_lineno == line:
                sys.settrace(None)
                raise KeyboardInterrupt
            return interrupt

        f = fastconv.compile(lambda x: x * 2)
        sys.settrace(interrupt)
        try:
            f(x)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        other = fastconv.compile(lambda x: x * 3)
        assert bits(other(x)) == bits(x * 3) and plans(other) == 1, line


# Functions in functions, classes, modules ----------------------------------------------------------


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


def test_the_warning_names_the_caller(rng):
    """Also that of a Module, whose call goes through one more of ours."""
    net = nn.Sequential(nn.Linear(3, 2))
    for run in (fastconv.compile(net), fastconv.compile(lambda x: x.numpy())):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(vector(rng, 2, 3))
        assert [w.filename for w in caught] == [__file__]


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


def doubled(x):
    return x * 2


doubled = fastconv.compile(doubled)


class Trainer:
    def __init__(self):
        self.scale = 3.0
        self.step = fastconv.compile(self._step)

    def _step(self, x):
        return x * self.scale


def test_copies_of_a_compiled_function(rng):
    """They have plans of their own, and a bound method is that of its owner's copy."""
    x, trainer = vector(rng, 3), Trainer()
    doubled(x), doubled(x), trainer.step(x), trainer.step(x)
    assert pickle.loads(pickle.dumps(doubled)) is doubled
    for copied in (copy.copy(doubled), copy.deepcopy(doubled)):
        assert bits(copied(x)) == bits(x * 2)
    for other in (copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))):
        other.scale = 5.0
        assert bits(other.step(x)) == bits(x * 5.0)
    assert bits(trainer.step(x)) == bits(x * 3.0)


def test_a_module_whose_class_wants_to_know_its_subclasses(rng):
    class Base(nn.Linear):
        def __init_subclass__(cls, *, tag):
            super().__init_subclass__()
            tags.append(tag)

    tags = []

    class Tagged(Base, tag="a"):
        pass

    net, x = Tagged(3, 2), vector(rng, 1, 3)
    with no_grad():
        assert bits(fastconv.compile(net)(x)) == bits(net(x))
    assert tags == ["a"]


class Batch(typing.NamedTuple):
    x: Tensor
    y: Tensor
    scale: float = 2.0

    def scaled(self):
        return self.x * self.scale * FACTOR


FACTOR = 1.0


def test_named_tuples(rng, monkeypatch):
    """As arguments and as results; their methods may read more."""
    Result = collections.namedtuple("Result", "sum product")

    def function(batch):
        return Result(batch.scaled() + batch.y, [batch.x * batch.y])

    run = fastconv.compile(function)
    for scale, factor, made in (
        (2.0, 1.0, 1),
        (2.0, 1.0, 1),
        (3.0, 1.0, 2),
        (3.0, 5.0, 3),
        (3.0, 5.0, 3),
    ):
        monkeypatch.setitem(globals(), "FACTOR", factor)
        batch = Batch(vector(rng, 3), vector(rng, 3), scale)
        result = run(batch)
        assert type(result) is Result and bits(result) == bits(function(batch))
        assert plans(run) == made
    assert bits(run(batch._replace(x=vector(rng, 2), y=vector(rng, 2))).product[0])[1] == (2,)


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
