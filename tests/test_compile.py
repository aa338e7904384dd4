"""`compile`: a replay gives the bits of eager execution."""

import copy
import types

import numpy as np
import pytest
from helpers import run_python
from twins import OPTIMIZERS, batch, bits, compare, eager, plans, state_of, tiny, twins, vector

import fastconv
from fastconv import compiler, kernels, nn, optim
from fastconv.autograd import Tensor, no_grad
from fastconv.models import Net
from fastconv.nn import functional as F

# What runs eagerly says so: no test passes because nothing was replayed.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")


# Training gives the same bits ----------------------------------------------------------------------


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


def test_dropout(rng, recordings, monkeypatch):
    net = nn.Sequential(nn.Linear(4, 40), nn.Dropout(0.4), nn.Linear(40, 3), nn.Dropout(0.5, True))
    pair = twins(net, OPTIMIZERS["sgd"], nn.MSELoss())
    data = vector(rng, 5, 4), vector(rng, 5, 3)
    states = []
    for twin in pair:
        fastconv.manual_seed(5)
        states.append([])
        for i in range(12):
            twin.net.train(i % 4 != 3)
            if i == 6:
                fastconv.manual_seed(6)
            if i in (8, 9):
                twin.net[1].p = 0.1 * i
            if i == 10:
                generator = fastconv.random.Generator().manual_seed(7)
                monkeypatch.setattr(fastconv.random, "default_generator", generator)
            states[-1].append((bits(twin.step(*data)), twin.state()))
        monkeypatch.undo()
    assert states[0] == states[1]
    assert len({str(s) for s in states[0]}) == 12
    assert plans(pair[1].step) >= 3


# Plans: how many, and when -------------------------------------------------------------------------


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


def test_an_argument_that_is_another_number_each_time(rng, recordings):
    """As a learning rate as an argument would be: recording costs more than it would ever save."""
    run = fastconv.compile(lambda x, k: x * k)
    x = vector(rng, 3)
    with eager("differs each time") as caught:
        for i in range(40):
            assert bits(run(x, i / 10)) == bits(x * (i / 10))
    assert len(caught) == 1 and len(recordings) < 20


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


# Errors --------------------------------------------------------------------------------------------


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


def test_an_error_that_the_function_catches(rng):
    net = tiny()

    def function(x, y):
        try:
            return F.cross_entropy(net(x), y).detach()
        except IndexError:
            return net(x).detach() * 2

    run = fastconv.compile(function)
    x, good, bad = vector(rng, 2, 4), Tensor(np.array([0, 1])), Tensor(np.array([0, 9]))
    assert bits(run(x, good)) == bits(function(x, good))
    with eager("a kernel failed"):
        for y in (bad, bad, good, bad, good):
            assert bits(run(x, y)) == bits(function(x, y))


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


# FASTCONV_COMPILE ----------------------------------------------------------------------------------


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
    for mode, expected in (("on", "1"), ("", "1"), ("off", "0"), ("check", "1")):
        result = run_python("-c", code, FASTCONV_COMPILE=mode)
        assert result.stdout.strip() == expected, result.stderr
    assert "must be on, off or check" in run_python("-c", code, FASTCONV_COMPILE="no").stderr
