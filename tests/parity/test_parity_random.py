"""A seed gives PyTorch's numbers, orders, and initial weights."""

import numpy as np
import pytest
from libraries import LIBRARIES, check_array, compare, refused, to_numpy

DRAWS = {
    "rand": lambda torch: torch.rand(7),
    "rand 2-D": lambda torch: torch.rand(3, 5),
    "rand of a tuple": lambda torch: torch.rand((3, 5)),
    "rand float64": lambda torch: torch.rand(9, dtype=torch.float64),
    "rand long": lambda torch: torch.rand(1000),
    "rand none": lambda torch: torch.rand(0),
    "randn one": lambda torch: torch.randn(1),
    "randn few": lambda torch: torch.randn(5),
    "randn 15": lambda torch: torch.randn(15),
    "randn 16": lambda torch: torch.randn(16),
    "randn 17": lambda torch: torch.randn(17),
    "randn 24": lambda torch: torch.randn(2, 3, 4),
    "randn long": lambda torch: torch.randn(1, 1, 32, 32),
    "randn float64 few": lambda torch: torch.randn(5, dtype=torch.float64),
    "randn float64": lambda torch: torch.randn(37, dtype=torch.float64),
    "randint": lambda torch: torch.randint(10, (20,)),
    "randint from": lambda torch: torch.randint(-5, 10, (3, 4)),
    "randint below 2**28": lambda torch: torch.randint(2**28 - 1, (9,)),
    "randint 2**28": lambda torch: torch.randint(2**28, (9,)),
    "randint wide": lambda torch: torch.randint(2**31, (9,)),
    "randint wider": lambda torch: torch.randint(2**33, (9,)),
    "randperm": lambda torch: torch.randperm(20),
    "randperm 0": lambda torch: torch.randperm(0),
    "randperm 1": lambda torch: torch.randperm(1),
    "randperm long": lambda torch: torch.randperm(5000),
    "rand_like": lambda torch: torch.rand_like(torch.zeros(3, 4)),
    "randn_like": lambda torch: torch.randn_like(torch.zeros(3, 4, dtype=torch.float64)),
    "uniform_": lambda torch: torch.empty(3, 9).uniform_(-2, 3),
    "normal_": lambda torch: torch.empty(3, 9).normal_(5, 0.5),
    "normal_ few": lambda torch: torch.empty(3).normal_(5, 0.5),
    "generator": lambda torch: torch.randn(20, generator=torch.Generator().manual_seed(5)),
    "randperm of a generator": lambda torch: torch.randperm(
        9, generator=torch.Generator().manual_seed(5)
    ),
    "randint of a generator": lambda torch: torch.randint(
        9, (9,), generator=torch.Generator().manual_seed(5)
    ),
    "initial_seed": lambda torch: torch.initial_seed(),
}


def test_a_seed_that_is_not_whole_is_refused():
    refused(lambda torch: torch.manual_seed(1.5))


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31 + 7, 2**32 + 1, 2**63 - 1, -1])
def test_seeds(seed):
    def program(torch):
        torch.manual_seed(seed)
        return torch.rand(5), torch.randn(20), torch.randperm(5)

    compare(program)


@pytest.mark.parametrize("name", DRAWS)
def test_draws(name):
    """The numbers, and that as much of the stream is used up: what comes next is equal too."""

    def program(torch):
        torch.manual_seed(11)
        return DRAWS[name](torch), torch.rand(3), torch.randn(3), DRAWS[name](torch)

    compare(program)


def test_a_long_mixed_stream():
    def program(torch):
        torch.manual_seed(3)
        return [draw(torch) for _ in range(3) for draw in DRAWS.values()]

    compare(program)


def test_generator_state():
    def program(torch):
        generator = torch.Generator()
        generator.manual_seed(4)
        torch.randn(3, generator=generator)
        state = generator.get_state()
        first = torch.randn(5, generator=generator)
        generator.set_state(state)
        return first, torch.randn(5, generator=generator), generator.initial_seed()

    compare(program)


LAYERS = {
    "conv": lambda nn: nn.Conv2d(3, 8, 3),
    "conv without bias": lambda nn: nn.Conv2d(3, 8, (3, 5), bias=False),
    "depthwise": lambda nn: nn.Conv2d(6, 12, 3, groups=6),
    "1x1": lambda nn: nn.Conv2d(1, 1, 1),
    "linear": lambda nn: nn.Linear(10, 4),
    "linear of one": lambda nn: nn.Linear(1, 1),
    "wide linear": lambda nn: nn.Linear(576, 120, bias=False),
    "sequence": lambda nn: nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 10)
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_initial_weights(name):
    def program(torch):
        torch.manual_seed(8)
        return [*LAYERS[name](torch.nn).parameters(), torch.rand(2)]

    compare(program, backward=False)


@pytest.mark.parametrize("shape", [(4, 5), (8, 3, 3, 3), (64, 32)])
@pytest.mark.parametrize(
    "name, options",
    [
        ("kaiming_uniform_", {}),
        ("kaiming_uniform_", {"a": 0.5, "mode": "fan_out"}),
        ("kaiming_uniform_", {"nonlinearity": "relu"}),
        ("kaiming_normal_", {"nonlinearity": "relu"}),
        ("kaiming_normal_", {"mode": "fan_out"}),
        ("xavier_uniform_", {"gain": 2.0}),
        ("xavier_normal_", {}),
        ("uniform_", {"a": -1.0, "b": 2.0}),
        ("normal_", {"mean": 1.0, "std": 0.1}),
        ("constant_", {"val": 0.3}),
        ("zeros_", {}),
        ("ones_", {}),
    ],
    ids=str,
)
def test_initializers(name, options, shape):
    def program(torch):
        torch.manual_seed(2)
        return getattr(torch.nn.init, name)(torch.empty(*shape), **options)

    compare(program)


@pytest.mark.parametrize(
    "name", ["linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu", "nonsense"]
)
def test_gains(name):
    compare(lambda torch: float(torch.nn.init.calculate_gain(name)))


def test_random_split_and_shuffle():
    def program(torch):
        from importlib import import_module

        data = import_module(torch.__name__ + ".utils.data")
        torch.manual_seed(1)
        whole = data.TensorDataset(torch.arange(23), torch.rand(23, 2))
        parts = data.random_split(whole, [15, 8]) + data.random_split(whole, [0.5, 0.3, 0.2])
        batches = [
            x for part in parts for x, _ in data.DataLoader(part, batch_size=4, shuffle=True)
        ]
        batches += [y for _ in range(2) for _, y in data.DataLoader(whole, 5, True, drop_last=True)]
        own = torch.Generator().manual_seed(3)
        batches += [
            x for _ in range(2) for x, _ in data.DataLoader(whole, 6, shuffle=True, generator=own)
        ]
        return [*batches, torch.rand(2), torch.rand(2, generator=own)]

    compare(program)


def test_float32_normals_are_pytorchs_to_rounding():
    drawn = []
    for lib in LIBRARIES:
        lib.manual_seed(0)
        drawn.append(to_numpy(lib.randn(100_000)))
    check_array(drawn[0], drawn[1], 8, "randn", relative=True)
    assert np.mean(drawn[0] == drawn[1]) > 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        lambda torch: torch.manual_seed("one"),
        lambda torch: torch.randperm(-1),
        lambda torch: torch.randint(5, 5, (2,)),
        lambda torch: torch.randint(0, (2,)),
        lambda torch: torch.rand(-1),
        lambda torch: torch.rand(2.5),
        lambda torch: torch.empty(2).uniform_(1, 0),
        lambda torch: torch.empty(2).normal_(0, -1),
        lambda torch: torch.rand(3, dtype=torch.int64),
        lambda torch: torch.randn(3, dtype=torch.int64),
        lambda torch: torch.arange(3).uniform_(),
        lambda torch: torch.nn.init.kaiming_uniform_(torch.empty(3)),
    ],
)
def test_errors(wrong):
    compare(wrong)
