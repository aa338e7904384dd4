"""Modules and layers: attributes, the tree, state, printing, initial values, errors."""

import copy
import math
import pickle
from collections import OrderedDict

import numpy as np
import pytest

import fastconv
import fastconv.nn.functional as F
from fastconv import nn
from fastconv.models import Net


class Block(nn.Module):
    """A parameter, a buffer, a buffer that is not saved and two children, one of them twice."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.scale = nn.Parameter(np.ones(2, np.float32))
        self.register_buffer("mean", fastconv.zeros(2))
        self.register_buffer("cache", fastconv.zeros(2), persistent=False)
        self.inner = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        self.again = self.fc
        self.register_parameter("nothing", None)

    def forward(self, x):
        return self.inner(self.fc(x) * self.scale)


def numbers(tensor):
    return tensor.detach().numpy()


def names(pairs):
    return [name for name, _ in pairs]


# Printing


@pytest.mark.parametrize(
    "text",
    [
        "Conv2d(1, 6, kernel_size=(3, 3), stride=(1, 1))",
        "Conv2d(2, 4, kernel_size=(3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 3), "
        "groups=2, bias=False)",
        "Linear(in_features=3, out_features=2, bias=True)",
        "Linear(in_features=3, out_features=2, bias=False)",
        "MaxPool2d(kernel_size=(3, 2), stride=2, padding=1, dilation=1, ceil_mode=True)",
        "ReLU()",
        "ReLU(inplace=True)",
        "Sigmoid()",
        "Tanh()",
        "Softmax(dim=1)",
        "LogSoftmax(dim=-1)",
        "Flatten(start_dim=1, end_dim=-1)",
        "Identity()",
        "MSELoss()",
        "CrossEntropyLoss()",
        "NLLLoss()",
        "Sequential()",
        "ModuleList()",
    ],
)
def test_a_layer_prints_what_makes_it(text):
    assert repr(eval(f"nn.{text}")) == text


def test_defaults_print_as_in_pytorch():
    assert repr(nn.MaxPool2d(2)) == (
        "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)"
    )
    assert repr(nn.Conv2d(1, 2, 3, padding="same")) == (
        "Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), padding=same)"
    )
    assert repr(nn.Conv2d(1, 2, 3, padding="valid")).endswith("padding=valid)")
    assert repr(nn.Conv2d(1, 2, 3, padding=((0, 1), (2, 3)))).endswith("padding=((0, 1), (2, 3)))")


def test_print_net():
    assert repr(Net()) == (
        "Net(\n"
        "  (conv1): Conv2d(1, 6, kernel_size=(3, 3), stride=(1, 1))\n"
        "  (conv2): Conv2d(6, 16, kernel_size=(3, 3), stride=(1, 1))\n"
        "  (fc1): Linear(in_features=576, out_features=120, bias=True)\n"
        "  (fc2): Linear(in_features=120, out_features=84, bias=True)\n"
        "  (fc3): Linear(in_features=84, out_features=10, bias=True)\n"
        ")"
    )


def test_print_nested():
    modules = [nn.Tanh(), nn.Tanh(), nn.Sequential(OrderedDict(act=nn.ReLU())), nn.Tanh()]
    assert repr(nn.ModuleList(modules)) == (
        "ModuleList(\n  (0-1): 2 x Tanh()\n  (2): Sequential(\n    (act): ReLU()\n  )\n"
        "  (3): Tanh()\n)"
    )


# Attributes and the tree


def test_names_in_order_each_once():
    net = Block()
    assert names(net.named_parameters()) == [
        *("scale", "fc.weight", "fc.bias", "inner.0.weight", "inner.0.bias")
    ]
    assert names(net.named_parameters(recurse=False)) == ["scale"]
    assert names(net.named_buffers()) == ["mean", "cache"]
    assert names(net.named_children()) == ["fc", "inner"]
    assert names(net.named_modules()) == ["", "fc", "inner", "inner.0", "inner.1"]
    assert [p.numel() for p in net.parameters()] == [2, 4, 2, 6, 3]
    assert list(net.children()) == [net.fc, net.inner]
    assert list(net.modules())[0] is net


def test_assignment_follows_the_kind():
    net = Block()
    for name, value in (("scale", fastconv.ones(2)), ("fc", 3), ("mean", 1.5)):
        with pytest.raises(TypeError, match=f"cannot assign .* '{name}'"):
            setattr(net, name, value)
    net.scale = None
    net.mean = fastconv.ones(2)
    assert "scale" not in net.state_dict() and numbers(net.state_dict()["mean"])[0] == 1
    net.fc = nn.Parameter(np.zeros(1, np.float32))  # a child becomes a parameter
    assert names(net.named_children()) == ["inner", "again"]
    assert "fc" in names(net.named_parameters())
    del net.inner
    assert not hasattr(net, "inner") and names(net.named_children()) == ["again"]
    net.plain = 5
    assert net.plain == 5 and "plain" not in net.state_dict()
    with pytest.raises(AttributeError, match="'Block' object has no attribute 'conv9'"):
        net.conv9  # noqa: B018


def test_members_need_init():
    class Hasty(nn.Module):
        def __init__(self, member):
            self.member = member

    with pytest.raises(AttributeError, match="cannot assign module before Module.__init__"):
        Hasty(nn.ReLU())
    with pytest.raises(AttributeError, match="cannot assign parameters before Module.__init__"):
        Hasty(nn.Parameter(np.zeros(1)))


@pytest.mark.parametrize(
    ("name", "error"), [("", KeyError), ("a.b", KeyError), ("forward", KeyError), (3, TypeError)]
)
def test_bad_names(name, error):
    with pytest.raises(error):
        nn.Module().register_parameter(name, None)
    with pytest.raises(error):
        nn.Module().add_module(name, nn.ReLU())
    with pytest.raises(error):
        nn.Module().register_buffer(name, fastconv.zeros(1))


def test_a_parameter_is_a_leaf():
    assert nn.Parameter(fastconv.zeros(2)).requires_grad
    assert not nn.Parameter(fastconv.zeros(2), requires_grad=False).requires_grad
    with pytest.raises(TypeError, match="Parameter takes"):
        nn.Parameter([1.0])
    made = nn.Parameter(fastconv.ones(2)) * 2
    net = nn.Module()
    net.made = made  # a Tensor, but no Parameter: an ordinary attribute
    assert not list(net.parameters())


def test_a_parameter_shares_memory():
    data = fastconv.zeros(2)
    shared = nn.Parameter(data)
    shared.data.add_(1)
    assert numbers(data).tolist() == [1, 1]
    loss = (shared * shared).sum()
    data.mul_(2)  # the backward would read it
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_is_independent(copied):
    net = Block()
    other = copied(net)
    assert other.again is other.fc and repr(other) == repr(net)
    assert isinstance(other.scale, nn.Parameter) and other.scale.requires_grad
    before = numbers(net.fc.weight).copy()
    other.fc.weight.data.add_(1)
    assert np.array_equal(numbers(net.fc.weight), before)
    assert np.array_equal(numbers(other.fc.weight), before + 1)
    assert dict(other.named_parameters())["fc.weight"] is other.fc.weight


# Calling


def test_hooks():
    layer, seen = nn.Linear(2, 2), []
    x = fastconv.ones(1, 2)
    plain = layer(x)
    before = layer.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    after = layer.register_forward_hook(lambda m, args, out: seen.append((m, args, out)))
    doubled = layer(x)
    assert seen[0][0] is layer and seen[0][2] is doubled
    assert numbers(seen[0][1][0]).tolist() == [[2, 2]]
    before.remove()
    with layer.register_forward_hook(lambda m, args, out: out * 0):
        assert not numbers(layer(x)).any()
    after.remove()
    after.remove()
    assert np.array_equal(numbers(layer(x)), numbers(plain)) and len(seen) == 2


def test_an_error_names_its_layer_once():
    net = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(1, 6, 3)))
    with pytest.raises(ValueError) as caught:
        net(fastconv.zeros(1, 2, 8, 8))
    text = str(caught.value)
    assert text.startswith("Conv2d(1, 6, kernel_size=(3, 3), stride=(1, 1)): ")
    assert text.count("Conv2d(1, 6") == 1 and "Sequential" not in text
    with pytest.raises(TypeError, match=r"^Linear\(in_features=2, out_features=2, bias=True\): "):
        nn.Linear(2, 2)(fastconv.zeros(1, 2, dtype=fastconv.float64))
    with pytest.raises(TypeError, match=r"^ReLU\(\): "):
        nn.ReLU()(1, 2, 3)


def test_other_errors_pass_unchanged():
    class Failing(nn.Module):
        def forward(self):
            raise KeyError("key")

    with pytest.raises(KeyError) as caught:
        Failing()()
    assert caught.value.args == ("key",)
    with pytest.raises(NotImplementedError, match=r'\[Module\].*"forward"'):
        nn.Module()()


# Whole-tree operations


def test_train_and_eval():
    net = Block()
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    net.inner.train()
    assert net.inner[0].training and not net.training
    with pytest.raises(ValueError, match="boolean"):
        net.train(1)


def test_zero_grad_leaves_zeros():
    net = nn.Linear(2, 2)
    net(fastconv.ones(1, 2)).sum().backward()
    grad = net.bias.grad
    assert numbers(grad).tolist() == [1, 1]
    net.weight.grad = None
    net.zero_grad()
    assert net.weight.grad is None
    assert net.bias.grad is grad and numbers(grad).tolist() == [0, 0]
    net.zero_grad(set_to_none=True)
    assert net.bias.grad is None


def test_requires_grad_and_apply():
    net, order = Block(), []
    assert net.requires_grad_(False) is net
    assert not any(p.requires_grad for p in net.parameters())
    net.apply(lambda m: order.append(type(m).__name__))
    assert order == ["Linear", "Linear", "ReLU", "Sequential", "Block"]


def test_dtype_conversion():
    net = Block()
    weight = net.fc.weight
    net.register_buffer("count", fastconv.tensor([3]))
    assert net.double() is net
    assert net.fc.weight is weight and weight.requires_grad and weight.is_leaf
    assert weight.dtype == net.mean.dtype == fastconv.float64 and net.count.dtype == np.int64
    assert net(fastconv.ones(1, 2, dtype=fastconv.float64)).dtype == fastconv.float64
    assert net.float().fc.weight.dtype == fastconv.float32
    assert net.to("cpu").to(fastconv.zeros(1, dtype=fastconv.float64)).mean.dtype == np.float64
    with pytest.raises(TypeError, match="float32 or float64"):
        net.to(fastconv.int64)
    with pytest.raises(ValueError, match="cuda"):
        net.to("cuda")


# State


def test_state_dict_shares_memory():
    net = Block()
    state = net.state_dict()
    assert isinstance(state, OrderedDict)
    assert list(state) == [
        *("scale", "mean", "fc.weight", "fc.bias", "inner.0.weight", "inner.0.bias"),
        *("again.weight", "again.bias"),
    ]
    assert not any(t.requires_grad for t in state.values())
    net.scale.data.add_(1)
    assert numbers(state["scale"]).tolist() == [2, 2]
    assert net.state_dict(keep_vars=True)["scale"] is net.scale
    assert list(net.fc.state_dict(prefix="a.")) == ["a.weight", "a.bias"]


@pytest.mark.parametrize("convert", [lambda t: t, lambda t: numbers(t).astype(np.float64)])
def test_load_state_dict_copies(convert):
    source, target = Block(), Block()
    weight = target.fc.weight
    state = {name: convert(tensor) for name, tensor in source.state_dict().items()}
    assert repr(target.load_state_dict(state)) == "<All keys matched successfully>"
    assert target.fc.weight is weight and weight.dtype == fastconv.float32
    for name, tensor in target.state_dict().items():
        assert np.array_equal(numbers(tensor), numbers(source.state_dict()[name]))
    source.fc.weight.data.add_(1)
    assert not np.array_equal(numbers(weight), numbers(source.fc.weight))


def test_load_state_dict_tells_everything_and_changes_nothing():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    before = [numbers(p).copy() for p in net.parameters()]
    state = {
        "0.weight": np.zeros((2, 2)),
        "1.weight": np.zeros((3, 2)),
        "1.bias": "zero",
        "x": np.zeros(1),
    }
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(state)
    lines = str(caught.value).split("\n\t")
    assert lines[0] == "Error(s) in loading state_dict for Sequential:"
    assert lines[1] == 'Missing key(s) in state_dict: "0.bias". '
    assert lines[2] == 'Unexpected key(s) in state_dict: "x". '
    shape, wanted = type(net[0].weight.shape)((3, 2)), net[1].weight.shape
    assert lines[3] == (
        f"size mismatch for 1.weight: copying a param with shape {shape} from checkpoint, "
        f"the shape in current model is {wanted}."
    )
    assert "1.bias" in lines[4] and "str" in lines[4] and len(lines) == 5
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict(state, strict=False)
    for dtype in (complex, object):
        with pytest.raises(RuntimeError, match="dtype"):
            net.load_state_dict({"1.bias": np.zeros(1, dtype)}, strict=False)
    with pytest.raises(TypeError, match="dict-like"):
        net.load_state_dict([1])
    assert all(np.array_equal(numbers(p), b) for p, b in zip(net.parameters(), before, strict=True))


def test_load_state_dict_not_strict():
    net = nn.Linear(2, 2)
    result = net.load_state_dict({"bias": np.full(2, 7.0), "x": np.zeros(1)}, strict=False)
    assert result.missing_keys == ["weight"] and result.unexpected_keys == ["x"]
    assert numbers(net.bias).tolist() == [7, 7]


# Containers


def test_sequential():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    assert net.append(nn.Linear(3, 1)) is net and len(net) == 3
    assert net[-1] is net[2] and list(net)[1] is net[1]
    assert net(fastconv.ones(4, 2)).shape == (4, 1)
    tail = net[1:]
    assert isinstance(tail, nn.Sequential) and tail[1] is net[2]
    assert names(tail.named_children()) == ["1", "2"]
    tail.append(nn.Tanh())
    assert len(tail) == 3 and tail[1] is net[2]
    net[0] = nn.Linear(5, 3)
    assert net(fastconv.ones(1, 5)).shape == (1, 1)
    del net[0]
    assert names(net.named_children()) == ["0", "1"]
    named = nn.Sequential(OrderedDict(first=nn.ReLU(), second=nn.Tanh()))
    assert named.first is named[0] and names(named.named_children()) == ["first", "second"]
    with pytest.raises(IndexError, match="out of range"):
        named[2]
    for wrong in (3, None, "ReLU"):
        with pytest.raises(TypeError):
            nn.Sequential(wrong)


def test_module_list():
    layers = nn.ModuleList(nn.Linear(i + 1, 1) for i in range(3))
    layers.insert(1, nn.ReLU())
    layers.extend([nn.Tanh()])
    assert [type(m).__name__ for m in layers] == ["Linear", "ReLU", "Linear", "Linear", "Tanh"]
    assert layers[2].in_features == 2 and len(layers[1:3]) == 2
    assert names(layers.named_parameters())[2:] == ["2.weight", "2.bias", "3.weight", "3.bias"]
    with pytest.raises(NotImplementedError):
        layers(fastconv.ones(1, 1))


# Layers are one call each


def test_layers_call_their_function():
    x = fastconv.randn(2, 4, 9, 8)
    conv = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=((1, 0), (2, 1)), dilation=2, groups=2)
    options = ((2, 1), ((1, 0), (2, 1)), (2, 2), 2)
    pairs = [
        (conv(x), F.conv2d(x, conv.weight, conv.bias, *options)),
        (nn.MaxPool2d(3, 2, 1, ceil_mode=True)(x), F.max_pool2d(x, 3, 2, 1, 1, True)),
        (nn.AvgPool2d(3, 2, 1, True, False)(x), F.avg_pool2d(x, 3, 2, 1, True, False)),
        (nn.AvgPool2d(2, divisor_override=3)(x), F.avg_pool2d(x, 2, divisor_override=3)),
        (nn.AdaptiveAvgPool2d((3, None))(x), F.adaptive_avg_pool2d(x, (3, 8))),
        (nn.ReLU()(x), F.relu(x)),
        (nn.Sigmoid()(x), F.sigmoid(x)),
        (nn.Tanh()(x), F.tanh(x)),
        (nn.Softmax(1)(x), F.softmax(x, 1)),
        (nn.LogSoftmax(dim=-1)(x), F.log_softmax(x, -1)),
        (nn.Flatten()(x), x.view(2, -1)),
        (nn.Flatten(0, 2)(x), x.view(-1, 8)),
        (nn.Identity(3, name="any")(x), x),
    ]
    for layer, function in pairs:
        assert layer.shape == function.shape
        assert np.array_equal(numbers(layer), numbers(function))
    values, indices = nn.MaxPool2d(2, return_indices=True)(x)
    assert values.shape == indices.shape == (2, 4, 4, 4) and indices.dtype == np.int64
    with pytest.raises(ValueError, match="dim must be given"):
        nn.Softmax()(x)


def test_losses():
    scores, target = fastconv.randn(3, 4), fastconv.tensor([1, 0, 3])
    weight = fastconv.tensor([1.0, 2.0, 3.0, 4.0])
    log_p = F.log_softmax(scores, 1)
    options = {"ignore_index": 0, "reduction": "sum"}
    pairs = [
        (nn.MSELoss()(scores, log_p), F.mse_loss(scores, log_p)),
        (nn.MSELoss(reduction="none")(scores, log_p), F.mse_loss(scores, log_p, reduction="none")),
        (
            nn.CrossEntropyLoss(weight, **options)(scores, target),
            F.cross_entropy(scores, target, weight=weight, **options),
        ),
        (
            nn.CrossEntropyLoss(label_smoothing=0.1)(scores, target),
            F.cross_entropy(scores, target, label_smoothing=0.1),
        ),
        (
            nn.NLLLoss(weight, **options)(log_p, target),
            F.nll_loss(log_p, target, weight=weight, **options),
        ),
    ]
    for layer, function in pairs:
        assert np.array_equal(numbers(layer), numbers(function))
    assert list(nn.CrossEntropyLoss(weight).state_dict()) == ["weight"]
    with pytest.raises(ValueError, match="reduction"):
        nn.MSELoss(reduction="average")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"groups": 0}, ValueError, "groups must be"),
        ({"groups": 3}, ValueError, "divisible by groups"),
        ({"kernel_size": 0}, ValueError, "kernel_size"),
        ({"kernel_size": (3, 3, 3)}, ValueError, "kernel_size"),
        ({"kernel_size": 2.5}, TypeError, "kernel_size"),
        ({"stride": (1, 0)}, ValueError, "stride"),
        ({"dilation": 0}, ValueError, "dilation"),
        ({"padding": -1}, ValueError, "padding"),
        ({"padding": "full"}, ValueError, "padding"),
        ({"padding": ((1, 1), 2)}, ValueError, "padding"),
        ({"padding": "same", "stride": 2}, ValueError, "strided"),
        ({"padding_mode": "reflect"}, ValueError, "pad the input before"),
        ({"dtype": np.int64}, TypeError, "float32 or float64"),
        ({"device": "cuda"}, ValueError, "cpu"),
    ],
)
def test_conv2d_refuses(options, error, text):
    arguments = {"in_channels": 2, "out_channels": 4, "kernel_size": 3, **options}
    with pytest.raises(error, match=text):
        nn.Conv2d(**arguments)


# Initial values


def test_the_seed_gives_pytorchs_weights():
    """From torch 2.13: manual_seed(0), then the layer; to the rounding of low + (high - low) u, both below 1."""
    rounding = {"rtol": 0, "atol": 2**-23}
    fastconv.manual_seed(0)
    conv = nn.Conv2d(1, 2, 2)
    weight = [-0.003743410110473633, 0.26822179555892944, -0.4115225672721863, -0.3679695129394531]
    weight += [
        -0.19257718324661255,
        0.13407868146896362,
        -0.009906589984893799,
        0.39644473791122437,
    ]
    np.testing.assert_allclose(numbers(conv.weight).ravel(), weight, **rounding)
    np.testing.assert_allclose(
        numbers(conv.bias), [-0.04437202215194702, 0.1323062777519226], **rounding
    )
    fastconv.manual_seed(0)
    linear = nn.Linear(3, 2)
    weight = [-0.004322517663240433, 0.3097158372402191, -0.4751853346824646]
    weight += [-0.4248946011066437, -0.2223689705133438, 0.15482072532176971]
    np.testing.assert_allclose(numbers(linear.weight).ravel(), weight, **rounding)
    bias = [-0.011439144611358643, 0.45777493715286255]
    np.testing.assert_allclose(numbers(linear.bias), bias, **rounding)


@pytest.mark.parametrize(
    ("fill", "bound"),
    [
        (nn.init.uniform_, 1),
        (nn.init.kaiming_uniform_, math.sqrt(6 / 300)),
        (lambda t: nn.init.kaiming_uniform_(t, a=2, mode="fan_out"), math.sqrt(6 / 5 / 600)),
        (lambda t: nn.init.xavier_uniform_(t, gain=2), 2 * math.sqrt(6 / 900)),
    ],
)
def test_uniform_bounds(fill, bound):
    weight = fastconv.empty(50, 25, 4, 3)
    assert fill(weight) is weight
    values = np.abs(numbers(weight))
    assert 0.99 * bound < values.max() <= bound


@pytest.mark.parametrize(
    ("fill", "std"),
    [
        (lambda t: nn.init.normal_(t, 3, 0.5), 0.5),
        (nn.init.kaiming_normal_, math.sqrt(2 / 300)),
        (nn.init.xavier_normal_, math.sqrt(2 / 900)),
    ],
)
def test_normal_deviation(fill, std):
    fastconv.manual_seed(1)
    weight = fill(fastconv.empty(50, 25, 4, 3))
    assert abs(numbers(weight).std() / std - 1) < 0.03


def test_gains_constants_and_refusals():
    gains = {"linear": 1, "sigmoid": 1, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}
    assert {name: nn.init.calculate_gain(name) for name in gains} == gains
    assert nn.init.calculate_gain("leaky_relu", 3) == math.sqrt(0.2)
    assert numbers(nn.init.constant_(fastconv.empty(2), 4)).tolist() == [4, 4]
    assert numbers(nn.init.ones_(nn.init.zeros_(fastconv.empty(2)))).tolist() == [1, 1]
    for wrong in (
        lambda: nn.init.calculate_gain("step"),
        lambda: nn.init.calculate_gain("leaky_relu", "0.1"),
        lambda: nn.init.kaiming_uniform_(fastconv.empty(3)),
        lambda: nn.init.kaiming_uniform_(fastconv.empty(3, 3), mode="fan_avg"),
    ):
        with pytest.raises(ValueError):
            wrong()
    with pytest.warns(UserWarning, match="zero-element"):
        assert nn.Linear(0, 2)(fastconv.zeros(3, 0)).shape == (3, 2)
