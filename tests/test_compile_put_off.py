"""While it records, `compile` puts off the kernels, and lets the plan run them: nobody can tell, but by the memory."""

import copy
import pickle
import threading
import warnings

import numpy as np
import pytest
from test_batch_norm import arrays
from twins import OPTIMIZERS, bits, compare, state_of, tiny, twins, vector

import fastconv
from fastconv import kernels, nn
from fastconv.autograd import Tensor
from fastconv.compiler import compiled
from fastconv.models import resnet18


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


def by_thread(y):
    found = []
    other = threading.Thread(target=lambda: found.append((y * 2).relu().detach()._array.copy()))
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


LOOKS = [
    by_array,
    by_reshaping,
    by_kernel,
    by_kernel_into,
    by_thread,
    by_pickle,
    by_deepcopy,
    by_saving,
    by_many_axes,
    by_number,
]


@pytest.mark.parametrize("look", LOOKS, ids=lambda f: f.__name__)
def test_whoever_looks_finds_the_numbers(rng, look, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def function(x):
        y = x * 2 + 1
        y = (y * y).relu() - x
        seen.append(np.asarray(look(y), object).tolist())
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

        return net, optimizer, step

    states = []
    for wrap in (lambda f: f, fastconv.compile):
        net, optimizer, step = make()
        run = wrap(step)
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
    """One that was not finished leaves nothing behind."""
    x = vector(rng, 3)
    with pytest.raises(ZeroDivisionError), kernels.Recording(frozenset()) as recording:
        y = x * 2
        assert recording.putting_off is False  # x is not known
        _ = 1 / 0
    assert bits(y) == bits(x * 2)
    with kernels.Recording(frozenset([id(x._array)])) as recording:
        y = x * 2
    assert recording.putting_off
    recording.finish()
    recording.finish()
    assert bits(y) == bits(x * 2) and not recording.putting_off
