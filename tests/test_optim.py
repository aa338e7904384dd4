"""Optimizers: the same steps as the oracle, options read anew, state, refusals."""

import copy

import numpy as np
import pytest
import reference as ref

import fastconv
from fastconv import kernels, nn, optim

SGD_DEFAULTS = {"momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False}
SGD_OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
]


def parameter(values, grad=None):
    made = nn.Parameter(np.array(values, np.float64))
    if grad is not None:
        give(made, grad)
    return made


def give(param, grad):
    param.grad = fastconv.Tensor(np.array(grad, np.float64))


def numbers(tensor):
    return tensor.detach().numpy()


@pytest.mark.parametrize("options", SGD_OPTIONS)
def test_sgd_follows_the_oracle(rng, options):
    start = rng.standard_normal((2, 3))
    p, expected, v = parameter(start), start, None
    optimizer = optim.SGD([p], lr=0.1, **options)
    for step in range(4):
        grad = rng.standard_normal((2, 3))
        expected, v = ref.sgd_step(
            expected, grad, v, first=step == 0, lr=0.1, **{**SGD_DEFAULTS, **options}
        )
        give(p, grad)
        optimizer.step()
        np.testing.assert_allclose(numbers(p), expected, rtol=1e-12)


@pytest.mark.parametrize("weight_decay", [0, 0.1])
def test_adam_follows_the_oracle(rng, weight_decay):
    start = rng.standard_normal((2, 3))
    p, expected, m, v = parameter(start), start, np.zeros((2, 3)), np.zeros((2, 3))
    options = {"lr": 0.01, "eps": 1e-6, "weight_decay": weight_decay}
    optimizer = optim.Adam([p], betas=(0.8, 0.95), **options)
    for step in range(1, 5):
        grad = rng.standard_normal((2, 3))
        expected, m, v = ref.adam_step(
            expected, grad, m, v, beta1=0.8, beta2=0.95, step=step, **options
        )
        give(p, grad)
        optimizer.step()
        np.testing.assert_allclose(numbers(p), expected, rtol=1e-12)


def test_groups_have_their_own_options():
    a, b = parameter([1.0], [1.0]), parameter([1.0], [1.0])
    optimizer = optim.SGD([{"params": a}, {"params": [b], "lr": 0.5}], lr=0.1)
    optimizer.step()
    assert numbers(a).tolist() == [0.9] and numbers(b).tolist() == [0.5]
    c = parameter([1.0], [1.0])
    optimizer.add_param_group({"params": [c], "weight_decay": 1})
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1, 1]
    optimizer.step()
    assert numbers(c).tolist() == [0.8]


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam])
def test_the_learning_rate_is_read_at_each_step(make):
    p = parameter([1.0], [1.0])
    optimizer = make([p], lr=0.1)
    optimizer.param_groups[0]["lr"] = 0
    optimizer.step()
    assert numbers(p).tolist() == [1]
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    assert abs(numbers(p)[0] - 0.5) < 0.01


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam])
def test_no_gradient_no_step(make):
    still, moving = parameter([1.0]), parameter([1.0], [1.0])
    optimizer = make([still, moving], lr=0.1)
    optimizer.step()
    assert numbers(still).tolist() == [1] and numbers(moving)[0] < 1
    assert still not in optimizer.state


def test_zero_grad_leaves_zeros():
    p, without = parameter([1.0], [2.0]), parameter([1.0])
    optimizer, grad = optim.SGD((q for q in (p, without)), lr=0.1), p.grad
    penalty = (without * grad).sum()
    optimizer.zero_grad()
    assert p.grad is grad and numbers(grad).tolist() == [0] and without.grad is None
    with pytest.raises(RuntimeError, match="changed in place"):
        penalty.backward()
    optimizer.zero_grad(set_to_none=True)
    assert p.grad is None


def test_closure():
    p = parameter([3.0])
    optimizer = optim.SGD([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with fastconv.no_grad():
        assert optimizer.step(closure).item() == 9
    np.testing.assert_allclose(numbers(p), [2.4])
    assert optimizer.step() is None


@pytest.mark.parametrize("wrap", [lambda f: f, fastconv.compile])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: optim.Adam(p, lr=0.1),
    ],
)
def test_a_frozen_parameter_stays(make, wrap):
    """Though momentum and weight decay would move it on: zero_grad() forgets its gradient."""
    fastconv.manual_seed(0)  # some units of the hidden layer are alive
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer, x = make(net.parameters()), fastconv.ones(2, 3)

    @wrap
    def step():
        optimizer.zero_grad()
        loss = (net(x) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(3):
        step()
    net[0].weight.requires_grad = False
    frozen, other = net[0].weight.clone(), net[2].weight.clone()
    for _ in range(3):
        step()
    assert np.array_equal(numbers(net[0].weight), numbers(frozen))
    assert not np.array_equal(numbers(net[2].weight), numbers(other))


@pytest.mark.parametrize("make", [optim.Adam, lambda p: optim.SGD(p, lr=0.1, momentum=0.9)])
@pytest.mark.parametrize("call", ["empty_array", "fill", "new_copy"])
def test_a_first_step_without_memory(make, call, monkeypatch):
    """leaves nothing that the next one trips over."""
    nets = [nn.Linear(3, 2), nn.Linear(3, 2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [make(net.parameters()) for net in nets]

    def fail(*_):
        raise MemoryError

    for net in nets:
        net(fastconv.ones(1, 3)).sum().backward()
    with monkeypatch.context() as patch:
        patch.setattr(kernels, call, fail)
        try:
            optimizers[0].step()
            steps = 1
        except MemoryError:
            steps = 2
    for optimizer, more in zip(optimizers, (steps, 2), strict=True):
        for _ in range(more):
            optimizer.step()
    for mine, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert np.array_equal(numbers(mine), numbers(other))


def test_a_step_between_forward_and_backward_is_noticed():
    """The backward would read the changed weight."""
    layer = nn.Linear(2, 1)
    x = fastconv.ones(1, 2)
    x.requires_grad_()
    loss = layer(x).sum()
    layer.weight.grad = fastconv.ones(1, 2)
    optim.SGD(layer.parameters(), lr=0.1).step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_a_training_loop_learns():
    fastconv.manual_seed(0)
    x = fastconv.randn(64, 3)
    target = x.matmul(fastconv.tensor([[1.0], [-2.0], [0.5]])) + 0.25
    for make in (
        lambda params: optim.SGD(params, lr=0.1, momentum=0.9),
        lambda params: optim.Adam(params, lr=0.1),
    ):
        net = nn.Linear(3, 1)
        optimizer, criterion = make(net.parameters()), nn.MSELoss()
        for _ in range(300):
            optimizer.zero_grad()
            loss = criterion(net(x), target)
            loss.backward()
            optimizer.step()
        assert loss.item() < 1e-5
        np.testing.assert_allclose(numbers(net.weight), [[1, -2, 0.5]], atol=1e-2)


@pytest.mark.parametrize(
    "make",
    [
        lambda params: optim.SGD(params, lr=0.1, momentum=0.9),
        lambda params: optim.Adam(params, lr=0.1),
    ],
)
@pytest.mark.parametrize("as_arrays", [False, True])
def test_state_goes_on_where_it_was(make, as_arrays):
    p, q = parameter([1.0, 2.0], [1.0, -1.0]), parameter([5.0])
    first = make([{"params": [q]}, {"params": [p], "lr": 0.25}])
    first.step()
    first.step()
    saved = first.state_dict()
    assert list(saved["state"]) == [1]
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1]]
    assert saved["param_groups"][1]["lr"] == 0.25
    saved = copy.deepcopy(saved)
    if as_arrays:
        entries = saved["state"][1]
        saved["state"][1] = {
            k: numbers(v) if isinstance(v, fastconv.Tensor) else np.array(v, np.float32)
            for k, v in entries.items()
        }
    other = parameter(numbers(p).copy(), [1.0, -1.0])
    second = make([{"params": [parameter([5.0])]}, {"params": [other]}])
    second.load_state_dict(saved)
    for optimizer in (first, second):
        optimizer.step()
    assert numbers(other).tolist() == numbers(p).tolist()
    name = next(k for k in saved["state"][1] if k != "step")
    mine, given = second.state[other][name], saved["state"][1][name]
    assert not np.shares_memory(numbers(mine), given if as_arrays else numbers(given))


def test_load_refuses_what_does_not_fit_and_changes_nothing():
    p = parameter([1.0, 2.0], [1.0, 1.0])
    optimizer = optim.SGD([p], lr=0.1, momentum=0.9)
    optimizer.step()
    before = optimizer.state[p]["momentum_buffer"]
    good = optimizer.state_dict()
    group = good["param_groups"][0]
    wrong_shape = {0: {"momentum_buffer": np.zeros(3)}}
    for bad, text in (
        ({"state": {}}, "param_groups"),
        ({**good, "param_groups": [group, group]}, "number of parameter groups"),
        ({**good, "param_groups": [{**group, "params": [0, 1]}]}, "size of optimizer's group"),
        ({**good, "param_groups": [{**group, "lr": -1}]}, "learning rate"),
        ({**good, "state": wrong_shape}, "momentum_buffer of shape"),
        ({**good, "state": {5: {}}}, "unknown parameter 5"),
        ([], "param_groups"),
    ):
        with pytest.raises(ValueError, match=text):
            optimizer.load_state_dict(bad)
    assert optimizer.state[p]["momentum_buffer"] is before
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_repr():
    assert repr(optim.SGD([parameter([1.0])], lr=0.01)) == (
        "SGD (\nParameter Group 0\n    dampening: 0\n    lr: 0.01\n    momentum: 0\n"
        "    nesterov: False\n    weight_decay: 0\n)"
    )


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ([], ValueError, "optimizer got an empty parameter list"),
        (iter(()), ValueError, "optimizer got an empty parameter list"),
        (parameter([1.0]), TypeError, "iterable of Tensors"),
        (None, TypeError, "iterable of Tensors or dicts, but got NoneType"),
        ([np.zeros(2)], TypeError, "one of the params is ndarray"),
        ({parameter([1.0])}, TypeError, "ordered"),
        ([{"lr": 0.1}], ValueError, "params"),
        ([{"params": []}, parameter([1.0])], TypeError, "must be a dict"),
        ([parameter([1.0]) * 2], ValueError, "can't optimize a non-leaf Tensor"),
        ([parameter([1.0])] * 2, ValueError, "duplicate parameters"),
    ],
)
def test_bad_parameters(params, error, text):
    with pytest.raises(error, match=text):
        optim.SGD(params, lr=0.1)


def test_a_parameter_belongs_to_one_group():
    p = parameter([1.0])
    optimizer = optim.SGD([p], lr=0.1)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [p]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("make", "options", "text"),
    [
        (optim.SGD, {"lr": -1}, "Invalid learning rate: -1"),
        (optim.SGD, {"lr": float("nan")}, "Invalid learning rate: nan"),
        (optim.SGD, {"momentum": -0.5}, "Invalid momentum value: -0.5"),
        (optim.SGD, {"weight_decay": -0.5}, "Invalid weight_decay value: -0.5"),
        (optim.SGD, {"nesterov": True}, "Nesterov momentum requires a momentum"),
        (optim.SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "zero dampening"),
        (optim.Adam, {"lr": -1}, "Invalid learning rate: -1"),
        (optim.Adam, {"eps": -1}, "Invalid epsilon value: -1"),
        (optim.Adam, {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        (optim.Adam, {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        (optim.Adam, {"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        (optim.Adam, {"betas": 0.9}, "betas must be two numbers"),
    ],
)
def test_bad_options(make, options, text):
    with pytest.raises(ValueError, match=text):
        make([parameter([1.0])], **options)
    good = {"params": [parameter([1.0])], **options}
    with pytest.raises(ValueError, match=text):
        make([parameter([1.0])]).add_param_group(good)


def test_a_learning_rate_is_a_number():
    with pytest.raises(TypeError, match="learning rate must be a number, got 'fast'"):
        optim.SGD([parameter([1.0])], lr="fast")
