"""Stale plans, hunted: a random small net, and its compiled twin, go through the same random events; after each one,
every number that they hold is compared, bit by bit."""

import copy
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import bits, state_of, training_step

import fastconv
from fastconv import nn, optim
from fastconv.autograd import Tensor, no_grad
from fastconv.compiler import remake

often = settings(deadline=None, derandomize=True, max_examples=60, database=None)


@pytest.fixture(autouse=True, scope="module")
def small_results_are_made_again():
    """As large ones are, where it saves memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remake, "LEAST_BYTES", 0)
        yield


# ---- nets ----------------------------------------------------------------------------------------------

SIZES, CHANNELS, CLASSES = (7, 8, 10), 2, 3

few = st.integers(1, 4)
layers = st.one_of(
    st.tuples(st.just("conv"), few, st.integers(1, 3), st.integers(1, 2), st.integers(0, 2)),
    st.tuples(st.just("depthwise"), st.integers(1, 3)),
    st.tuples(st.just("max"), st.integers(1, 3), st.integers(1, 2)),
    st.tuples(st.just("avg"), st.integers(1, 3), st.integers(1, 2)),
    st.sampled_from(
        [
            ("relu",),
            ("relu",),
            ("relu in place",),
            ("norm",),
            ("dropout",),
            ("residual",),
            ("twice",),
            ("block",),
            ("block in place",),
        ]
    ),
)
heads = st.sampled_from(["average", "flatten", "two"])


class Residual(nn.Module):
    """x + f(x), or, of one layer used twice, f(f(x))."""

    def __init__(self, channels, twice):
        super().__init__()
        self.inner, self.twice = nn.Conv2d(channels, channels, 3, padding=1), twice

    def forward(self, x):
        y = self.inner(x)
        return self.inner(y.relu()) if self.twice else y + x


class Block(nn.Module):
    """relu(norm(conv(relu(norm(x)))) + x)."""

    def __init__(self, channels, inplace):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first, self.second = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.relu, self.inplace = nn.ReLU(inplace), inplace

    def forward(self, x):
        y = self.second(self.conv(self.relu(self.first(x))))
        if self.inplace:
            y += x
            return self.relu(y)
        return self.relu(x + y)


def build(specification, head, seed):
    """A net of images (N, CHANNELS, size, size)."""
    fastconv.manual_seed(seed)
    net, channels, size = nn.Sequential(), CHANNELS, SIZES[0]
    for kind, *numbers in specification:
        kernel = numbers[-2] if kind in ("max", "avg") else numbers[1] if kind == "conv" else 1
        if kind in ("conv", "max", "avg"):
            stride, padding = (numbers[2], numbers[3]) if kind == "conv" else (numbers[1], 0)
            after = (size + 2 * padding - kernel) // stride + 1
            if after < 1:
                continue
            size = after
        if kind == "conv":
            net.append(nn.Conv2d(channels, numbers[0], kernel, stride, padding))
            channels = numbers[0]
        elif kind == "depthwise":
            net.append(nn.Conv2d(channels, channels, numbers[0], 1, numbers[0] // 2, 1, channels))
            size += numbers[0] // 2 * 2 - numbers[0] + 1
        elif kind == "max":
            net.append(nn.MaxPool2d(kernel, stride))
        elif kind == "avg":
            net.append(nn.AvgPool2d(kernel, stride))
        elif kind == "dropout":
            net.append(nn.Dropout(0.3))
        elif kind == "norm":
            net.append(nn.BatchNorm2d(channels))
        elif kind in ("residual", "twice"):
            net.append(Residual(channels, kind == "twice"))
        elif kind in ("block", "block in place"):
            net.append(Block(channels, kind == "block in place"))
        else:
            net.append(nn.ReLU(inplace=kind == "relu in place"))
    if head != "flatten":
        net.append(nn.AdaptiveAvgPool2d(2))
    net.append(nn.Flatten())
    inner = channels * (size * size if head == "flatten" else 4)
    if head == "two":
        net.append(nn.Linear(inner, 5))
        net.append(nn.ReLU())
        inner = 5
    net.append(nn.Linear(inner, CLASSES))
    return net


# ---- what happens --------------------------------------------------------------------------------------


class World:
    """A net with an optimizer, a training step and a prediction; events are methods."""

    def __init__(self, compiled, specification, head, optimizer, criterion, none):
        wrap = fastconv.compile if compiled else lambda f: f
        self.net = net = build(specification, head, 1)
        self.criterion, self.none = criterion, none
        self.optimizer = made = {
            "sgd": lambda p: optim.SGD(p, lr=0.05),
            "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.5, nesterov=True),
            "adam": lambda p: optim.Adam(p, lr=0.01),
        }[optimizer](self.net.parameters())
        self.size, self.seed, self.scale = SIZES[0], 0, 1.0
        loss_of = nn.CrossEntropyLoss() if criterion == "ce" else nn.MSELoss()

        step = training_step(net, made, loss_of, none)

        def gradients(x, y):
            loss = loss_of(net(x), y)
            loss.backward()
            return loss

        self._step, self._gradients, self._predict = wrap(step), wrap(gradients), wrap(net)

    def _batch(self, n):
        self.seed += 1
        rng = np.random.default_rng(self.seed)
        dtype = next(self.net.parameters()).dtype
        x = rng.standard_normal((n, CHANNELS, self.size, self.size)) * (
            self.scale if np.isfinite(self.scale) else 1.0
        )
        x[rng.random(x.shape) < 0.3] = 0.0 if self.seed % 2 else -0.0
        if not np.isfinite(self.scale):
            x[rng.random(x.shape) < 0.1] = self.scale
        if self.criterion == "ce":
            return Tensor(x.astype(dtype)), Tensor(rng.integers(0, CLASSES, n))
        return Tensor(x.astype(dtype)), Tensor(rng.standard_normal((n, CLASSES)).astype(dtype))

    def train(self, n):
        return self._step(*self._batch(n))

    def accumulate(self, n):
        return self._gradients(*self._batch(n))

    def predict(self, n):
        with no_grad():
            return self._predict(self._batch(n)[0])

    def mode(self, training):
        self.net.train(training)

    def option(self, name, value):
        for group in self.optimizer.param_groups:
            if name in group:
                group[name] = value

    def freeze(self, i, still):
        list(self.net)[i % len(self.net)].requires_grad_(not still)

    def data(self, i):
        p = self._parameter(i)
        p.data = Tensor(p._array * p.dtype.type(0.5))

    def in_place(self, i):
        with no_grad():
            self._parameter(i).mul_(-0.5)

    def through_numpy(self, i):
        self._parameter(i).detach().numpy()[...] *= -1

    def through_data(self, i):
        self._parameter(i).data.mul_(0.5)

    def load(self, factor):
        state = {k: v._array.copy() for k, v in self.net.state_dict().items()}
        self.net.load_state_dict({k: (v * factor).astype(v.dtype) for k, v in state.items()})

    def load_optimizer(self):
        self.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))

    def forget_optimizer(self):
        self.optimizer.state.clear()

    def replace(self, i, keep):
        """A layer by a new one of its kind; the optimizer may go on with the old parameters."""
        i %= len(self.net)
        new = copy.deepcopy(self.net[i])
        for p in new.parameters():
            p.data = Tensor(p._array * p.dtype.type(-1))
        self.net[i] = new
        if not keep and list(new.parameters()):
            self.optimizer.add_param_group({"params": list(new.parameters())})

    def attribute(self, i, stride):
        layer = self.net[i % len(self.net)]
        if hasattr(layer, "stride") and not isinstance(layer, nn.Linear):
            layer.stride = stride if isinstance(layer, nn.MaxPool2d) else (stride, stride)

    def zero_grad(self, none):
        self.optimizer.zero_grad(set_to_none=none)

    def drop_grad(self, i):
        self._parameter(i).grad = None

    def give_grad(self, i):
        p = self._parameter(i)
        p.grad = Tensor(np.full(p.shape, 0.25, p.dtype))

    def dtype(self, name):
        getattr(self.net, name)()

    def image(self, size):
        self.size = size

    def amount(self, scale):
        self.scale = scale

    def other_class(self, i):
        layer = self.net[i % len(self.net)]
        if type(layer) is nn.ReLU:
            layer.__class__ = Leaky

    def _parameter(self, i):
        parameters = list(self.net.parameters())
        return parameters[i % len(parameters)]

    def do(self, name, *numbers):
        """What an event gives, or the kind of its error; and all numbers afterwards."""
        fastconv.manual_seed(self.seed)
        try:
            result = bits(getattr(self, name)(*numbers))
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            result = type(error).__name__
        return result, state_of(self.net, self.optimizer)


class Leaky(nn.ReLU):
    def forward(self, x):
        return super().forward(x) - x * 0.125


any_number = st.integers(0, 9)
runs = st.tuples(st.sampled_from(["train", "train", "predict", "accumulate"]), st.integers(1, 2))
changes = st.one_of(
    st.tuples(st.just("mode"), st.booleans()),
    st.tuples(st.just("option"), st.just("lr"), st.sampled_from([0.0, 0.01, 0.1])),
    st.tuples(st.just("option"), st.just("momentum"), st.sampled_from([0, 0.5, 0.9])),
    st.tuples(st.just("option"), st.just("weight_decay"), st.sampled_from([0, 0.01, 0.1])),
    st.tuples(st.just("option"), st.just("nesterov"), st.booleans()),
    st.tuples(st.just("freeze"), any_number, st.booleans()),
    st.tuples(st.just("replace"), any_number, st.booleans()),
    st.tuples(st.just("attribute"), any_number, st.integers(1, 2)),
    st.tuples(st.just("load"), st.sampled_from([0.5, 2.0])),
    st.tuples(st.sampled_from(["load_optimizer", "forget_optimizer"])),
    st.tuples(st.just("zero_grad"), st.booleans()),
    st.tuples(
        st.sampled_from(
            [
                "data",
                "in_place",
                "through_numpy",
                "through_data",
                "drop_grad",
                "give_grad",
                "other_class",
            ]
        ),
        any_number,
    ),
    st.tuples(st.just("dtype"), st.sampled_from(["float", "double"])),
    st.tuples(st.just("image"), st.sampled_from(SIZES)),
    st.tuples(st.just("amount"), st.sampled_from([1.0, 0.0, 1e-40, 1e30, np.inf, np.nan])),
)
stories = st.lists(
    st.tuples(st.lists(changes, max_size=2), st.lists(runs, min_size=1, max_size=4)),
    min_size=1,
    max_size=6,
)


@often
@given(
    st.lists(layers, min_size=1, max_size=5),
    heads,
    st.sampled_from(["sgd", "momentum", "adam"]),
    st.sampled_from(["mse", "ce"]),
    st.booleans(),
    stories,
)
def test_a_compiled_net_goes_through_the_same(
    specification, head, optimizer, criterion, none, story
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy's conversions
        warnings.simplefilter("error", UserWarning)
        start = specification, head, optimizer, criterion, none
        eager, compiled = World(False, *start), World(True, *start)
        for changed, ran in [([], [("train", 2)] * 3), *story]:
            for event in (*changed, *ran, *ran):  # to be recorded, to be replayed
                assert eager.do(*event) == compiled.do(*event), event
