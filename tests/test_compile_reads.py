"""`compile`: what a function reads besides its arguments changes, and the next call knows."""

import collections
import copy
import dataclasses
import enum
import functools
import os
import sys
import threading
import types

import numpy as np
import pytest
from twins import bits, eager, plans, vector

import fastconv
from fastconv import nn
from fastconv.autograd import Tensor, no_grad
from fastconv.nn import functional as F

# What runs eagerly says so: no test passes because nothing was replayed.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")


SCALE = 2.0
WEIGHT = Tensor(np.array([1.0, 2.0], np.float32))
TABLE = {"scale": 2.0, "more": [1.0, {"deep": 3.0}]}
NAMES = {"a", "b"}


class Slotted:
    __slots__ = ("__hidden", "scale")

    def __init__(self):
        self.scale, self.__hidden = 2.0, 3.0

    def hide(self, value):
        self.__hidden = value

    def both(self):
        return self.scale * self.__hidden


@dataclasses.dataclass(slots=True)
class Settings:
    scale: float = 2.0
    shift: float = 1.0


class Attributes:
    scale = 2.0
    weight = Tensor(np.array([1.0, 2.0], np.float32))
    table = [1.0, 2.0]

    def __init__(self):
        self.shift = 1.0

    def apply(self, x):
        return x * self.scale + self.shift

    @property
    def total(self):
        return self.scale + self.shift

    @classmethod
    def of_class(cls, x):
        return x * cls.scale

    @staticmethod
    def static(x):
        return x * 5.0


class Derived(Attributes):
    pass


class Other(Attributes):
    scale = 17.0


class Key:
    k = 2.0


class Number(float):
    pass


class Config(dict):
    pass


class Scaled(nn.Parameter):
    pass


def to(owner, name, value):
    return lambda: setattr(owner, name, value)


def helper(x):
    return x * SCALE


def with_default(x, factor=2.0, *, shift=1.0, table=[1.0]):  # noqa: B006
    return x * factor + shift + table[0]


def reader_cases():
    """(name, function of x, what changes between calls)."""
    module = types.ModuleType("helper_module")
    module.K, module.inner = 2.0, types.ModuleType("inner")
    module.inner.DEEP = 3.0
    exec("def scaled(x):\n    return x * K", module.__dict__)
    instance, derived, slotted, settings = Attributes(), Derived(), Slotted(), Settings()
    table = {"scale": 2.0, "more": [1.0, {"deep": 3.0}], (1, 2): 4.0}
    items, members = [1.0, 2.0, [3.0]], {1.0, 2.0}
    order = {"a": 2.0, "b": 3.0}
    holder = types.SimpleNamespace(w=Tensor(np.array([1.0, 2.0], np.float32)), k=2.0)
    number, config, scaled = Number(2.0), Config(a=1.0), Scaled(np.ones(2, np.float32), False)
    number.more, config.more, scaled.more = 2.0, 2.0, 2.0
    defaults = collections.defaultdict(lambda: 1.0, a=2.0)
    cell = 2.0

    def set_cell(value):
        nonlocal cell
        cell = value

    def on_itself(x):
        return x * on_itself.scale

    on_itself.scale = 2.0

    class Level(enum.Enum):
        LOW, HIGH = 1.0, 2.0

    holder.level, key = Level.LOW, Key()
    keyed = {key: 1.0}
    partial = functools.partial(lambda x, k, t: x * k * t[0], k=2.0, t=[1.0])
    method = instance.apply
    w2 = Tensor(np.array([3.0, 4.0], np.float32))

    def set_partial():
        partial.keywords["k"] = 3.0

    def reorder():
        order["a"] = order.pop("a")

    def swap_members():
        members.discard(1.0)
        members.add(5.0)

    def set_property():
        Attributes.total = property(lambda self: self.shift * 7)

    def set_classmethod():
        Attributes.of_class = classmethod(lambda cls, x: x * 9)

    def with_import(x):
        import helper_module

        return x * helper_module.K

    key_of_k, key_of_scale = "K", "SCALE"
    asked, answers = types.ModuleType("asked"), {"MISSING": 2.0}
    asked.__getattr__ = lambda name: answers[name]
    sys.modules["helper_module"] = module
    return {
        "cell": (lambda x: x * cell, lambda: set_cell(3.0)),
        "cell to int": (lambda x: x * cell, lambda: set_cell(2)),
        "cell to -0": (lambda x: x * cell, lambda: set_cell(-0.0)),
        "Tensor in a cell": (lambda x: x * holder.w, lambda: setattr(holder, "w", w2)),
        "global": (lambda x: x * SCALE, lambda: globals().update(SCALE=4.0)),
        "global of a helper": (lambda x: helper(x), lambda: globals().update(SCALE=6.0)),
        "global by its name": (lambda x: x * globals()["SCALE"], lambda: globals().update(SCALE=8.0)),
        "global Tensor": (lambda x: x * WEIGHT, lambda: globals().update(WEIGHT=w2)),
        "a helper replaced": (lambda x: helper(x), lambda: globals().update(helper=lambda x: x + 1)),
        "a builtin hidden": (lambda x: x * float(2), lambda: globals().update(float=lambda v: 9.0)),
        "global dict": (lambda x: x * TABLE["more"][1]["deep"], lambda: TABLE["more"][1].update(deep=5.0)),
        "default": (with_default, lambda: setattr(with_default, "__defaults__", (3.0,))),
        "keyword default": (with_default, lambda: with_default.__kwdefaults__.update(shift=5.0)),
        "default list": (with_default, lambda: with_default.__kwdefaults__["table"].__setitem__(0, 4.0)),
        "code": (with_default, to(with_default, "__code__", (lambda x, factor, *, shift, table: x).__code__)),
        "attribute of a function": (on_itself, lambda: setattr(on_itself, "scale", 3.0)),
        "module's constant": (lambda x: x * module.K, to(module, "K", 5.0)),
        "module's function's global": (module.scaled, to(module, "K", 6.0)),
        "module in a module": (lambda x: x * module.inner.DEEP, to(module.inner, "DEEP", 4.0)),
        "module by name": (lambda x: x * getattr(module, "K"), to(module, "K", 7.0)),  # noqa: B009
        "module by a computed name": (lambda x: x * getattr(module, key_of_k), to(module, "K", 9.0)),
        "module's dictionary": (lambda x: x * vars(module)[key_of_k], to(module, "K", 9.0)),
        "module that is asked": (lambda x: x * asked.MISSING, lambda: answers.update(MISSING=3.0)),
        "global by a computed name": (lambda x: x * globals()[key_of_scale], lambda: globals().update(SCALE=9.0)),
        "imported inside": (with_import, to(module, "K", 8.0)),
        "dict": (lambda x: x * table["scale"], lambda: table.update(scale=3.0)),
        "dict of a tuple": (lambda x: x * table[1, 2], lambda: table.update({(1, 2): 5.0})),
        "dict in list in dict": (lambda x: x * table["more"][1]["deep"], lambda: table["more"][1].update(deep=4.0)),
        "list": (lambda x: x * items[1], lambda: items.__setitem__(1, 7.0)),
        "list in list": (lambda x: x * items[2][0], lambda: items[2].__setitem__(0, 7.0)),
        "length of a list": (lambda x: x * len(items), lambda: items.append(4.0)),
        "set": (lambda x: x * (2.0 if 1.0 in members else 3.0), swap_members),
        "order of a dict": (lambda x: x * list(order.values())[0], reorder),
        "key of a dict": (lambda x: x * next(k.k for k in keyed), to(key, "k", 3.0)),
        "defaultdict": (lambda x: x * defaults["a"], lambda: defaults.update(a=5.0)),
        "attribute": (lambda x: x * instance.shift, to(instance, "shift", 4.0)),
        "class attribute": (lambda x: instance.apply(x), to(Attributes, "scale", 4.0)),
        "class attribute of a class": (lambda x: x * Attributes.scale, to(Attributes, "scale", 5.0)),
        "class attribute, a Tensor": (lambda x: x * instance.weight, to(Attributes, "weight", w2)),
        "class attribute, a list": (lambda x: x * instance.table[0], to(Attributes, "table", [8.0])),
        "class attribute hidden": (lambda x: x * derived.scale, to(Derived, "scale", 6.0)),
        "class attribute hidden by an instance": (lambda x: x * derived.scale, to(derived, "scale", 7.0)),
        "method": (lambda x: instance.apply(x), to(Attributes, "apply", lambda self, x: x * 11)),
        "bound method": (method, to(instance, "shift", 13.0)),
        "property": (lambda x: x * instance.total, set_property),
        "class method": (lambda x: instance.of_class(x), set_classmethod),
        "static method": (lambda x: instance.static(x), to(Attributes, "static", staticmethod(lambda x: x * 3))),
        "slot": (lambda x: x * slotted.scale, to(slotted, "scale", 4.0)),
        "private slot": (lambda x: x * slotted.both(), lambda: slotted.hide(5.0)),
        "dataclass with slots": (lambda x: x * settings.scale, to(settings, "scale", 5.0)),
        "class of an instance": (lambda x: x * derived.scale, to(derived, "__class__", Other)),
        "dictionary of an instance": (lambda x: x * instance.shift, to(instance, "__dict__", {"shift": 21.0})),
        "enumeration": (lambda x: x * holder.level.value, to(holder, "level", Level.HIGH)),
        "partial": (partial, set_partial),
        "list in a partial": (partial, lambda: partial.keywords["t"].__setitem__(0, 4.0)),
        "attribute of a float": (lambda x: x * number.more, to(number, "more", 3.0)),
        "attribute of a dict": (lambda x: x * config.more, to(config, "more", 3.0)),
        "attribute of a Parameter": (lambda x: x * scaled.more, to(scaled, "more", 3.0)),
        "wrapped, ours by name": (wrapped_like_ours(holder), to(holder, "k", 5.0)),
    }  # fmt: skip


def wrapped_like_ours(holder):
    @functools.wraps(F.relu)
    def relu(x):
        return F.relu(x) * holder.k

    return relu


@pytest.mark.parametrize("name", reader_cases())
def test_what_a_function_reads(name):
    function, change = reader_cases()[name]
    kept = {k: globals()[k] for k in ("SCALE", "WEIGHT", "helper")}
    of_class = {k: v for k, v in vars(Attributes).items() if not k.startswith("__")}
    deep, defaults = copy.deepcopy(TABLE), (with_default.__code__, with_default.__defaults__)
    keywords = copy.deepcopy(with_default.__kwdefaults__)
    run = fastconv.compile(function)
    try:
        x = Tensor(np.array([1.5, -2.5], np.float32))
        for _ in range(3):
            assert bits(run(x)) == bits(function(x))
        assert plans(run) == 1
        before = bits(function(x))
        change()
        assert (bits(function(x)) == before) is (name == "cell to int")
        for _ in range(3):
            assert bits(run(x)) == bits(function(x))
    finally:
        globals().update(kept)
        globals().pop("float", None)
        TABLE.update(deep)
        for k, v in of_class.items():
            setattr(Attributes, k, v)
        Derived.__dict__.get("scale") and delattr(Derived, "scale")
        with_default.__code__, with_default.__defaults__ = defaults
        with_default.__kwdefaults__.update(keywords)


LAYERS = {
    "stride": (nn.Conv2d(1, 2, 3), (2, 2)),
    "padding": (nn.Conv2d(1, 2, 3), (1, 1)),
    "dilation": (nn.Conv2d(1, 2, 3), (2, 2)),
    "kernel_size": (nn.MaxPool2d(2), 3),
    "ceil_mode": (nn.MaxPool2d(2), True),
    "count_include_pad": (nn.AvgPool2d(2, padding=1), False),
    "output_size": (nn.AdaptiveAvgPool2d(3), (2, 1)),
    "weight": (nn.Conv2d(1, 2, 3), nn.Parameter(np.ones((2, 1, 3, 3), np.float32))),
    "bias": (nn.Conv2d(1, 2, 3), None),
}


@pytest.mark.parametrize("attribute", LAYERS)
def test_a_layers_attributes(rng, attribute):
    layer, value = LAYERS[attribute]
    layer = copy.deepcopy(layer)
    run = fastconv.compile(layer)
    with no_grad():
        for _ in range(2):
            x = vector(rng, 2, 1, 9, 9)
            assert bits(run(x)) == bits(layer(x))
            assert bits(run(x)) == bits(layer(x))
            setattr(layer, attribute, value)


def test_a_module_that_is_imported_by_the_first_call(rng, tmp_path, monkeypatch):
    (tmp_path / "imported_late.py").write_text("K = 2.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    @fastconv.compile
    def run(x):
        import imported_late

        return x * imported_late.K

    x = vector(rng, 2)
    run(x), run(x), run(x)
    import imported_late

    imported_late.K = 3.0
    assert bits(run(x)) == bits(x * 3.0)


def test_a_module_named_like_one_of_pythons(rng, tmp_path, monkeypatch):
    (tmp_path / "sched.py").write_text("K = 2.0\ndef scaled(x):\n    return x * K\n")
    monkeypatch.syspath_prepend(tmp_path)
    kept = sys.modules.pop("sched", None)
    try:
        import sched

        run = fastconv.compile(sched.scaled)
        x = vector(rng, 2)
        run(x), run(x)
        sched.K = 3.0
        assert bits(run(x)) == bits(x * 3.0)
    finally:
        del sys.modules["sched"]
        if kept is not None:
            sys.modules["sched"] = kept


def test_the_environment_of_the_process(rng, monkeypatch):
    monkeypatch.setenv("SCALE_OF_TEST", "2")
    run = fastconv.compile(lambda x: x * float(os.environ["SCALE_OF_TEST"]))
    x = vector(rng, 2)
    run(x), run(x)
    monkeypatch.setenv("SCALE_OF_TEST", "3")
    assert bits(run(x)) == bits(x * 3.0)


def test_a_logger_and_a_lock_are_no_reason(rng):
    import logging

    log, lock = logging.getLogger(__name__), threading.Lock()

    def function(x):
        with lock:
            log.debug("once")
        return x * 2

    run = fastconv.compile(function)
    for _ in range(3):
        x = vector(rng, 2)
        assert bits(run(x)) == bits(x * 2)
    assert plans(run) == 1


def test_an_attribute_of_the_compiled_function(rng):
    @fastconv.compile
    def run(x):
        return x * run.scale

    run.scale = 2.0
    x = vector(rng, 2)
    run(x), run(x)
    assert plans(run) == 1
    run.scale = 3.0
    assert bits(run(x)) == bits(x * 3.0)


def test_the_class_of_a_class(rng):
    class Meta(type):
        scale = 2.0

    class Made(metaclass=Meta):
        pass

    run = fastconv.compile(lambda x: x * Made.scale)
    x = vector(rng, 2)
    run(x), run(x)
    Meta.scale = 3.0
    assert bits(run(x)) == bits(x * 3.0)


def test_a_global_that_appears(rng):
    @fastconv.compile
    def run(x):
        return x * LATER if "LATER" in globals() else x  # noqa: F821

    x = vector(rng, 2)
    run(x), run(x)
    globals()["LATER"] = 2.0
    try:
        assert bits(run(x)) == bits(x * 2.0)
    finally:
        del globals()["LATER"]


class Task:
    def __init__(self):
        self.weight = 2.0


def test_a_key_of_an_argument(rng):
    run = fastconv.compile(lambda batch: sum(task.weight * x for task, x in batch.items()))
    task, x = Task(), vector(rng, 3)
    for weight in (2.0, 2.0, 3.0, 3.0):
        task.weight = weight
        assert bits(run({task: x})) == bits(x * weight + 0)


def test_an_argument_that_the_function_knows(rng):
    anchor, x = vector(rng, 3), vector(rng, 3)
    run = fastconv.compile(lambda x: x * 2 if x is anchor else x * 3)
    run(x), run(x)
    with eager("shares memory with what the function reaches"):
        assert bits(run(anchor)) == bits(anchor * 2)
    assert bits(run(x)) == bits(x * 3)


def test_numbers_among_the_arguments(rng):
    def function(x, k, *more, shift=0.0, **options):
        for m in more:
            x = x * (m if not isinstance(m, list | tuple | dict) else len(m))
        return x * k + shift + options.get("last", 0)

    run = fastconv.compile(function)
    x = vector(rng, 3)
    calls = [
        ((x, 2.0), {}), ((x, 2), {}), ((x, True), {}), ((x, 1), {}), ((x, 1.0), {}), ((x, 0.0), {}), ((x, -0.0), {}),
        ((x, 2.0), {"shift": 1.0}), ((x,), {"k": 2.0}), ((x, 2.0, 3.0), {}), ((x, 2.0, [1, 2]), {}),
        ((x, 2.0, (1, 2)), {}), ((x, 2.0, {"a": 1}), {}), ((x, 2.0, [1, 2, 3]), {}), ((x, 2.0), {"last": 4}),
        ((x, np.float32(2)), {}), ((x, float("nan")), {}), ((x, 10**40), {}),
    ]  # fmt: skip
    for _ in range(2):
        for args, kwargs in calls:
            expected = bits(function(*args, **kwargs))
            assert bits(run(*args, **kwargs)) == bits(run(*args, **kwargs)) == expected
    assert plans(run) == 8


def test_none_and_a_tensor_change_places(rng):
    def function(a, b):
        return a * 2 if b is None else b * 3 if a is None else a

    run = fastconv.compile(function)
    x = vector(rng, 3)
    for _ in range(2):
        assert bits(run(x, None)) == bits(x * 2)
        assert bits(run(None, x)) == bits(x * 3)
        assert bits(run(a=None, b=x)) == bits(x * 3)
        assert bits(run(b=None, a=x)) == bits(x * 2)


def test_containers_of_tensors(rng):
    def function(pair, named, *, last):
        a, (b, *c) = pair
        return {"sum": a + b, "rest": [c[0] * named["w"], (last[0] - named["x"]["y"], 3)]}, None, a

    run = fastconv.compile(function)
    for _ in range(4):
        t = [vector(rng, 2) for _ in range(6)]
        args = ((t[0], [t[1], t[2]]), {"w": t[3], "x": {"y": t[4]}})
        expected, found = function(*args, last=(t[5],)), run(*args, last=(t[5],))
        assert bits(expected) == bits(found)
        assert found[2] is t[0]
    assert plans(run) == 1


def test_a_list_that_is_changed_by_the_function(rng):
    def function(x, out):
        out.append(x * 2)
        return x + 1

    run = fastconv.compile(function)
    with eager("changes a list or a dict among its arguments"):
        for _ in range(3):
            x, out = vector(rng, 2), []
            run(x, out)
            assert bits(out) == bits([x * 2])


def test_objects_as_arguments(rng):
    run = fastconv.compile(lambda x, o: x * o.shift)
    a, b = Attributes(), Attributes()
    b.shift = 3.0
    x = vector(rng, 2)
    for _ in range(3):
        assert bits(run(x, a)) == bits(x * a.shift)
        assert bits(run(x, b)) == bits(x * b.shift)
        b.shift += 1


def test_what_is_changed_by_code_that_python_has_specialised(rng):
    """After some turns, storing an attribute, an entry and a global goes other ways inside of Python."""
    global SCALE
    owner, table, x = Attributes(), {"scale": 2.0}, vector(rng, 3)
    owner.scale = 2.0

    @fastconv.compile
    def f(x):
        return x * owner.scale + table["scale"] - SCALE

    try:
        for i in range(90):
            value = 2.0 + i // 3 % 2
            if i % 3 == 0:
                owner.scale = value
            elif i % 3 == 1:
                table["scale"] = value
            else:
                SCALE = value
            assert bits(f(x)) == bits(x * owner.scale + table["scale"] - SCALE), i
        assert plans(f) == 6
    finally:
        SCALE = 2.0
