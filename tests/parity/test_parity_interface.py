"""What fastconv has, PyTorch has under the same name, with arguments in the same places."""

import inspect

import numpy as np
import pytest
import torch
from libraries import compare, normal

import fastconv

OURS_ALONE = {
    "fastconv": {
        "available_isas",
        "get_num_threads",
        "isa",
        "kernels",
        "models",
        "ops",
        "set_num_threads",
        "summary",
    },
    "fastconv.nn": set(),
    "fastconv.nn.functional": {"flatten"},
    "fastconv.nn.init": {"LINEAR", "fan_in_and_fan_out"},
    "fastconv.optim": set(),
    "fastconv.utils.data": set(),
}
MODULES = {
    "fastconv.nn.functional": (fastconv.nn.functional, torch.nn.functional),
    "fastconv.nn": (fastconv.nn, torch.nn),
    "fastconv.nn.init": (fastconv.nn.init, torch.nn.init),
    "fastconv.optim": (fastconv.optim, torch.optim),
    "fastconv.utils.data": (fastconv.utils.data, torch.utils.data),
    "fastconv": (fastconv, torch),
}
HOUSE = {"autograd", "creation", "data", "io", "printing", "random", "summary", "cli"}
RENAMED = {
    ("function", "model"),  # of compile, which takes either, as PyTorch's does
    ("samples", "batch"),
    ("function", "orig_func"),
    ("x", "obj"),
    ("path", "f"),
    ("state_dict", "obj"),
    ("input", "tensor"),
    ("split_size", "split_size_or_sections"),
}


def public(module):
    named = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    values = {n: getattr(module, n) for n in named}
    return [
        n
        for n, v in values.items()
        if not inspect.ismodule(v) or v.__name__.startswith("fastconv")
        if n != "no_grad" or module is fastconv
        if getattr(v, "__module__", None) in (None, "builtins")
        or v.__module__.startswith("fastconv")
    ]


@pytest.mark.parametrize("name", MODULES)
def test_names(name):
    ours, theirs = MODULES[name]
    unknown = {
        n for n in public(ours) if not hasattr(theirs, n) and not inspect.ismodule(getattr(ours, n))
    }
    assert unknown - HOUSE <= OURS_ALONE[name]


def test_methods_of_tensor():
    ours = {n for n in dir(fastconv.Tensor) if not n.startswith("_")}
    assert ours <= set(dir(torch.Tensor))


def test_methods_of_module():
    assert {n for n in dir(fastconv.nn.Module) if not n.startswith("_")} <= set(
        dir(torch.nn.Module)
    )


def positional(function):
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds]


def signatures():
    """(label, our function, PyTorch's), where PyTorch's has a signature in Python."""
    for label, (ours, theirs) in MODULES.items():
        for name in public(ours):
            a, b = getattr(ours, name), getattr(theirs, name, None)
            if not callable(a) or not callable(b) or name in ("Tensor", "Size", "device"):
                continue
            try:
                inspect.signature(b)
                inspect.signature(a)
            except (ValueError, TypeError):
                continue
            yield f"{label}.{name}", a, b
    for name in (
        "train",
        "state_dict",
        "load_state_dict",
        "named_parameters",
        "to",
        "register_buffer",
        "named_modules",
    ):
        yield f"Module.{name}", getattr(fastconv.nn.Module, name), getattr(torch.nn.Module, name)
    yield "Tensor.backward", fastconv.Tensor.backward, torch.Tensor.backward


@pytest.mark.parametrize("label, ours, theirs", [pytest.param(*s, id=s[0]) for s in signatures()])
def test_positions(label, ours, theirs):
    """An argument that may be given by position stands where PyTorch has it."""
    theirs = [n for n in positional(theirs)]
    if "args" in str(inspect.signature(ours)) or not theirs:
        return
    mine = positional(ours)
    pairs = zip(mine, theirs, strict=False)
    assert len(mine) <= len(theirs)
    assert [pair for pair in pairs if len(set(pair)) > 1 and pair not in RENAMED] == []


POSITIONS = {
    "conv2d": lambda t, x: t.nn.functional.conv2d(
        x, x[:1, :1, :2, :2].expand(2, 1, 2, 2), None, 2, 1, 1, 2
    ),
    "max_pool2d": lambda t, x: t.nn.functional.max_pool2d(x, 2, 1, 1, 1, True),
    "avg_pool2d": lambda t, x: t.nn.functional.avg_pool2d(x, 2, 1, 1, True, False, 3),
    "AvgPool2d": lambda t, x: t.nn.AvgPool2d(2, 1, 1, True, False, 3)(x),
    "adaptive_avg_pool2d": lambda t, x: t.nn.functional.adaptive_avg_pool2d(x, (2, 3)),
    "unfold": lambda t, x: t.nn.functional.unfold(x, 2, 1, 1, 2),
    "linear": lambda t, x: t.nn.functional.linear(x, x[0, 0], x[0, 0, 0, :4]),
    "flatten": lambda t, x: t.flatten(x, 1, 2),
    "Conv2d": lambda t, x: t.nn.Conv2d(2, 4, 3, 1, 1, 1, 2, False)(x).size(),
    "MaxPool2d": lambda t, x: t.nn.MaxPool2d(2, 1, 1, 1, True, True)(x),
    "Flatten": lambda t, x: t.nn.Flatten(2, 3)(x),
    "softmax": lambda t, x: t.nn.functional.softmax(x, 1),
    "sum": lambda t, x: t.sum(x, 1, True),
    "max": lambda t, x: t.max(x, 1, True),
    "transpose": lambda t, x: t.transpose(x, 1, 2),
    "keyword names": lambda t, x: (
        t.sum(input=x, dim=1, keepdim=True),
        t.add(input=x, other=x, alpha=2),
    ),
    "names of methods": lambda t, x: (
        x.transpose(dim0=0, dim1=1),
        x.flatten(start_dim=1, end_dim=2),
    ),
    "sizes by name": lambda t, x: (t.zeros(size=(2, 3)), t.ones(size=(2,))),
    "tensor": lambda t, x: (
        t.tensor([1, 2]),
        t.tensor([1.0]),
        t.tensor([True]),
        t.tensor(3),
        t.tensor(2.5),
    ),
    "tensor of lists": lambda t, x: (
        t.tensor([[1, 2.5]]),
        t.tensor([]),
        t.tensor([[]]),
        t.tensor((1, 2)),
    ),
    "tensor of dtype": lambda t, x: (
        t.tensor([1, 2], dtype=t.float64),
        t.tensor(1.5, dtype=t.int64),
    ),
    "full": lambda t, x: (
        t.full((2, 3), 1.5),
        t.full((2,), 3),
        t.full((1,), True),
        t.full((2,), 1, dtype=t.float32),
    ),
    "arange": lambda t, x: (
        t.arange(5),
        t.arange(1, 6, 2),
        t.arange(0, 1, 0.25),
        t.arange(5.0),
        t.arange(5, 0, -2),
    ),
    "arange of dtype": lambda t, x: (t.arange(3, dtype=t.float32), t.arange(1, 2, 0.1)),
    "linspace": lambda t, x: (
        t.linspace(0, 1, 5),
        t.linspace(-1, 1, 3, dtype=t.float64),
        t.linspace(0, 1, 1),
    ),
    "eye": lambda t, x: (t.eye(3), t.eye(2, 4)),
    "likes": lambda t, x: (
        t.zeros_like(x),
        t.ones_like(x),
        t.full_like(x, 2),
        t.zeros_like(x, dtype=t.int64),
    ),
    "zeros": lambda t, x: (
        t.zeros(2, 3),
        t.zeros((2, 3)),
        t.zeros([2]),
        t.zeros(2, dtype=t.int64),
        t.zeros(()),
    ),
    "requires_grad": lambda t, x: (t.zeros(2, requires_grad=True), t.rand(0, requires_grad=True)),
    "from_numpy": lambda t, x: (t.from_numpy(np.arange(3)), t.from_numpy(np.ones((2, 2)))),
    "as_tensor": lambda t, x: (t.as_tensor([1.5]), t.as_tensor(np.arange(2)), t.as_tensor(x) is x),
    "is_tensor": lambda t, x: (t.is_tensor(x), t.is_tensor(3), t.numel(x)),
    "wrong tensors": lambda t, x: t.tensor([[1], [2, 3]]),
    "tensor of text": lambda t, x: t.tensor("abc"),
    "tensor of none": lambda t, x: t.tensor(None),
    "grad of ints": lambda t, x: t.tensor([1], requires_grad=True),
    "negative size": lambda t, x: t.zeros(-1),
    "arange of step 0": lambda t, x: t.arange(0, 3, 0),
    "arange the wrong way": lambda t, x: t.arange(3, 0),
    "linspace of -1": lambda t, x: t.linspace(0, 1, -1),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_calls(name):
    compare(lambda torch, x: POSITIONS[name](torch, x), normal(2, 2, 4, 4), ulps=16)
