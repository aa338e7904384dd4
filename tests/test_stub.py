"""kernels.pyi against the compiled door: the same functions, parameters and defaults."""

import ast
import inspect
from inspect import Parameter
from pathlib import Path

import pytest

import fastconv
from fastconv import kernels

PACKAGE = Path(fastconv.__file__).parent
STUB = ast.parse((PACKAGE / "kernels.pyi").read_text())
REQUIRED = Parameter.empty


def stubbed_parameters(function):
    """[(name, kind, default)] of a function of the stub."""
    given, kinds = function.args, []
    assert not given.posonlyargs
    missing = len(given.args) - len(given.defaults)
    defaults = [None] * missing + given.defaults
    kinds += [
        (a, Parameter.POSITIONAL_OR_KEYWORD, d) for a, d in zip(given.args, defaults, strict=True)
    ]
    if given.vararg:
        kinds.append((given.vararg, Parameter.VAR_POSITIONAL, None))
    kinds += [
        (a, Parameter.KEYWORD_ONLY, d)
        for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    if given.kwarg:
        kinds.append((given.kwarg, Parameter.VAR_KEYWORD, None))
    return [(a.arg, kind, REQUIRED if d is None else ast.literal_eval(d)) for a, kind, d in kinds]


def compiled_parameters(name):
    signature = inspect.signature(getattr(kernels, name))
    return [(p.name, p.kind, p.default) for p in signature.parameters.values()]


FUNCTIONS = [node for node in STUB.body if isinstance(node, ast.FunctionDef)]


def test_the_stub_names_what_the_door_has():
    public = {
        name
        for name, value in vars(kernels).items()
        if callable(value) and not name.startswith("_") and not isinstance(value, type)
    }
    assert {function.name for function in FUNCTIONS} == public


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_parameters(function):
    """Each overload of a function has all of its parameters."""
    assert stubbed_parameters(function) == compiled_parameters(function.name)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_everything_has_a_type(function):
    given = function.args
    parameters = [*given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    assert all(p.annotation is not None for p in parameters if p is not None)
    assert function.returns is not None


def test_the_list_of_kernels_is_in_the_stub():
    names = {node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign)}
    assert "KERNELS" in names
