"""Modules: names, state, traversal, hooks, modes, errors."""

import numpy as np
import pytest
import torch as pytorch
from libraries import LIBRARIES, compare, normal, to_numpy


def tutorial_net(torch):
    """The tutorial's network."""
    nn, F = torch.nn, torch.nn.functional

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 6, 3)
            self.conv2 = nn.Conv2d(6, 16, 3)
            self.fc1 = nn.Linear(16 * 6 * 6, 120)
            self.fc2 = nn.Linear(120, 84)
            self.fc3 = nn.Linear(84, 10)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
            x = F.max_pool2d(F.relu(self.conv2(x)), 2)
            x = x.view(-1, 576)
            x = F.relu(self.fc1(x))
            x = F.relu(self.fc2(x))
            return self.fc3(x)

    return Net()


def nested(torch):
    """Shared layers, buffers, a parameter of its own, and a child that is None."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.register_buffer("count", torch.zeros(2))
            self.register_buffer("scratch", torch.zeros(1), persistent=False)
            self.register_parameter("nothing", None)
            self.layer = nn.Linear(3, 3)
            self.again = self.layer
            self.layers = nn.ModuleList(
                [nn.Linear(3, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2))]
            )
            self.empty = None

        def forward(self, x):
            x = self.again(self.layer(x)) * self.scale
            for layer in self.layers:
                x = layer(x)
            return x

    return Block()


NETS = {"tutorial": tutorial_net, "nested": nested}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_tree(make):
    def program(torch):
        net = make(torch)
        return [
            [name for name, _ in net.named_parameters()],
            [name for name, _ in net.named_modules()],
            [name for name, _ in net.named_children()],
            [name for name, _ in net.named_buffers()],
            [name for name, _ in net.named_parameters(prefix="net")],
            [name for name, _ in net.named_parameters(recurse=False)],
            [(name, tuple(t.shape)) for name, t in net.state_dict().items()],
            [list(p.shape) for p in net.parameters()],
            [type(m).__name__ for m in net.modules()],
            [type(m).__name__ for m in net.children()],
            sum(p.numel() for p in net.parameters() if p.requires_grad),
        ]

    compare(program)


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_state_goes_both_ways(make):
    """What one library's state_dict holds the other loads; the outputs are then equal."""
    nets = [make(lib) for lib in LIBRARIES]
    arrays = {name: t.numpy() for name, t in nets[1].state_dict().items()}
    assert str(nets[0].load_state_dict(arrays)) == "<All keys matched successfully>"
    back = {name: pytorch.tensor(t.numpy()) for name, t in nets[0].state_dict().items()}
    assert str(nets[1].load_state_dict(back)) == "<All keys matched successfully>"
    x = normal(2, 1, 32, 32) if make is tutorial_net else normal(2, 3)
    ours, theirs = (to_numpy(net(lib.tensor(x))) for net, lib in zip(nets, LIBRARIES, strict=True))
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6 * np.abs(theirs).max())


STATES = {
    "missing": lambda torch, state: state.pop("fc1.bias"),
    "unexpected": lambda torch, state: state.update(extra=torch.zeros(1)),
    "shape": lambda torch, state: state.update({"fc1.bias": torch.zeros(3)}),
    "dtype": lambda torch, state: state.update({"fc1.bias": torch.zeros(120, dtype=torch.float64)}),
    "number": lambda torch, state: state.update({"fc1.bias": 3}),
    "empty": lambda torch, state: state.clear(),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", STATES)
def test_wrong_states(name, strict):
    def program(torch):
        torch.manual_seed(0)
        net = tutorial_net(torch)
        state = net.state_dict()
        STATES[name](torch, state)
        keys = net.load_state_dict(state, strict=strict)
        return list(keys.missing_keys), list(keys.unexpected_keys), net.fc1.bias

    compare(program, backward=False)


def test_state_shares_memory():
    def program(torch):
        layer = torch.nn.Linear(2, 2)
        state = layer.state_dict()
        with torch.no_grad():
            layer.weight.fill_(3)
        state["bias"].zero_()
        return state["weight"], layer.bias, state["bias"].requires_grad

    compare(program, backward=False)


def test_modes():
    def program(torch):
        net = nested(torch)
        seen = [net.training, net.eval() is net, net.training, net.layers[1][0].training]
        net.layer.train()
        return [*seen, net.layer.training, net.train().training, net.layer.training]

    compare(program)
    compare(lambda torch: torch.nn.ReLU().train("yes"))


def test_freezing():
    def program(torch, x):
        net = nested(torch)
        for p in net.layers.parameters():
            p.requires_grad = False
        net.layer.requires_grad_(False)
        net(x).sum().backward()
        return [p.grad is None for p in net.parameters()], x.grad is None

    compare(program, normal(2, 3))


def test_apply_and_hooks():
    def program(torch, x):
        net = nested(torch)
        order, shapes = [], []
        net.apply(lambda m: order.append(type(m).__name__))
        handle = net.layer.register_forward_hook(lambda m, args, y: shapes.append(tuple(y.shape)))
        net.layers[0].register_forward_pre_hook(lambda m, args: (args[0] * 0,))
        net(x)
        handle.remove()
        y = net(x)
        return order, shapes, (y == net(x + 1)).all().item()

    compare(program, normal(2, 3))


def test_conversion():
    def program(torch, x):
        net = tutorial_net(torch).double()
        kinds = [str(p.dtype).removeprefix("torch.") for p in net.parameters()]
        net.to(torch.float32).to("cpu")
        y = net(x)
        return kinds, tuple(y.shape), str(net.float().fc1.weight.dtype).removeprefix("torch.")

    compare(program, normal(1, 1, 32, 32))


MISUSE = {
    "parameter first": lambda nn, torch: type(
        "M", (nn.Module,), {"__init__": lambda s: setattr(s, "p", nn.Parameter(torch.ones(1)))}
    )(),
    "module first": lambda nn, torch: type(
        "M", (nn.Module,), {"__init__": lambda s: setattr(s, "m", nn.ReLU())}
    )(),
    "no forward": lambda nn, torch: nn.Module()(torch.ones(1)),
    "tensor for a parameter": lambda nn, torch: setattr(
        nn.Linear(1, 1), "weight", torch.ones(1, 1)
    ),
    "none for a parameter": lambda nn, torch: setattr(nn.Linear(1, 1), "weight", None),
    "number for a module": lambda nn, torch: setattr(nn.Sequential(nn.ReLU()), "0", 3),
    "unknown attribute": lambda nn, torch: nn.ReLU().weight,
    "dot in a name": lambda nn, torch: nn.Module().register_buffer("a.b", torch.ones(1)),
    "empty name": lambda nn, torch: nn.Module().add_module("", nn.ReLU()),
    "taken name": lambda nn, torch: nn.Module().register_buffer("forward", torch.ones(1)),
    "function in a sequence": lambda nn, torch: nn.Sequential(torch.relu),
    "index out of range": lambda nn, torch: nn.Sequential(nn.ReLU())[1],
    "zero features": lambda nn, torch: nn.Linear(-1, 2),
    "groups": lambda nn, torch: nn.Conv2d(3, 4, 3, groups=2),
    "zero groups": lambda nn, torch: nn.Conv2d(3, 4, 3, groups=0),
    "padding": lambda nn, torch: nn.Conv2d(3, 4, 3, padding="full"),
    "same and stride": lambda nn, torch: nn.Conv2d(3, 4, 3, padding="same", stride=2),
    "padding mode": lambda nn, torch: nn.Conv2d(3, 4, 3, padding_mode="mirror"),
    "wrong channels": lambda nn, torch: nn.Conv2d(3, 4, 3)(torch.ones(1, 2, 8, 8)),
    "wrong features": lambda nn, torch: nn.Linear(3, 4)(torch.ones(1, 2)),
    "empty optimizer": lambda nn, torch: torch.optim.SGD([], lr=0.1),
    "optimizer of a tensor": lambda nn, torch: torch.optim.SGD(torch.ones(1), lr=0.1),
    "optimizer of a non-leaf": lambda nn, torch: torch.optim.SGD(
        [torch.ones(1).requires_grad_() * 2], lr=0.1
    ),
    "negative lr": lambda nn, torch: torch.optim.SGD([torch.ones(1)], lr=-1),
    "negative momentum": lambda nn, torch: torch.optim.SGD([torch.ones(1)], lr=1, momentum=-1),
    "nesterov": lambda nn, torch: torch.optim.SGD([torch.ones(1)], lr=1, nesterov=True),
    "betas": lambda nn, torch: torch.optim.Adam([torch.ones(1)], betas=(1.0, 0.9)),
    "eps": lambda nn, torch: torch.optim.Adam([torch.ones(1)], eps=-1e-8),
    "same parameter in two groups": lambda nn, torch: (
        lambda p: torch.optim.SGD([{"params": [p]}, {"params": [p]}], 0.1)
    )(torch.ones(1)),
    "groups without params": lambda nn, torch: torch.optim.SGD([{"lr": 1}], 0.1),
    "unknown reduction is found late or early": lambda nn, torch: nn.MSELoss(reduction="x")(
        torch.ones(1), torch.ones(1)
    ),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name):
    compare(lambda torch: (MISUSE[name](torch.nn, torch), None)[1])
