"""Everything that a function can read without being given it: what a recording of it depends on.

From the function on, through closures, globals, bound objects, modules, optimizers and containers, each binding is
put on a `Watch`; a plan holds only as long as none of them changed. What cannot be watched refuses to be compiled.
"""

import builtins
import dis
import functools
import sys
import types
from collections.abc import Iterator

import numpy as np

from fastconv import kernels
from fastconv.autograd import Tensor
from fastconv.nn.module import Module
from fastconv.optim import Optimizer

LARGEST_CONTAINER = 1000
PLAIN = (type(None), bool, int, float, complex, str, bytes, np.dtype, np.generic, slice, range)
LOOK_UPS = ("LOAD_GLOBAL", "LOAD_NAME")
RANDOM = ("random", "numpy.random", "secrets")


def _ours(module_name):
    """Whether code of that module can be taken as it is: fastconv's own, NumPy's, Python's library."""
    root = (module_name or "").split(".")[0]
    # `builtins` is often the user's: exec() gives that name to what has none
    library = root in sys.stdlib_module_names and root not in ("builtins", "__main__")
    return library or root in ("fastconv", "numpy")


def _names(code):
    """(globals, attributes): the names that a code object, and those inside it, look up as one or the other."""
    looked_up = {i.argval for i in dis.get_instructions(code) if i.opname in LOOK_UPS}
    attributes = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            more = _names(constant)
            looked_up |= more[0]
            attributes |= more[1]
    return looked_up, attributes


class Reach:
    """The walk. watch: what must not change; tensors, arrays, optimizers: what was met; refusal: why it cannot be
    compiled, or None."""

    def __init__(self):
        self.watch = kernels.Watch()
        self.tensors, self.arrays, self.optimizers = {}, {}, {}
        self.refusal = None
        self._met = {}

    def visit(self, value, name):
        """Walk on from `value`, which the source calls `name`."""
        if hasattr(
            type(value), "compiled_from"
        ):  # a compiled function stands for the function itself
            value = value.compiled_from
        if isinstance(value, PLAIN) or id(value) in self._met:
            return
        self._met[id(value)] = value
        for kind, walk in self._walks:
            if isinstance(value, kind):
                walk(self, value, name)
                return
        self._object(value, name)

    def _refuse(self, cause):
        self.refusal = self.refusal or cause

    def _tensor(self, tensor, name):
        self.tensors[id(tensor)] = tensor
        self.watch.attribute(tensor, "_array", tensor._array, f"the memory of {name}")
        self.watch.attribute(tensor, "requires_grad", tensor.requires_grad, f"{name}.requires_grad")

    def _array(self, array, name):
        self.arrays[id(array)] = array

    def _random(self, generator, name):
        self._refuse(f"{name} draws random numbers that a replay would not draw again")

    def _iterator(self, iterator, name):
        self._refuse(f"{name} is an iterator, which a replay would not advance")

    def _entries(self, container, name, form, skipped=()):
        if len(container) > LARGEST_CONTAINER:
            self._refuse(f"{name} has {len(container)} elements, too many to watch")
            return
        self.watch.size(container, f"the size of {name}")
        watched = [
            (key, value, form.format(name, key if isinstance(key, PLAIN) else type(key)))
            for key, value in container.items()
            if key not in skipped
        ]
        for key, value, entry in watched:
            self.watch.entry(container, key, value, entry)
        for _, value, entry in watched:
            self.visit(value, entry)

    def _dictionary(self, dictionary, name):
        self._entries(dictionary, name, "{}[{!r}]")

    def _sequence(self, sequence, name):
        if len(sequence) > LARGEST_CONTAINER:
            self._refuse(f"{name} has {len(sequence)} elements, too many to watch")
            return
        if not isinstance(sequence, tuple):
            self.watch.size(sequence, f"the size of {name}")
        for i, value in enumerate(sequence):
            if isinstance(sequence, list):
                self.watch.item(sequence, i, value, f"{name}[{i}]")
            self.visit(value, f"{name}[{i}]")

    def _module(self, module, name):
        if module._forward_hooks or module._forward_pre_hooks:
            self._refuse(f"{name} has forward hooks")
        self._object(module, name)

    def _optimizer(self, optimizer, name):
        self.optimizers[id(optimizer)] = optimizer
        self._met[id(optimizer.param_groups)] = optimizer.param_groups
        self.watch.size(optimizer.param_groups, f"the groups of {name}")
        for i, group in enumerate(optimizer.param_groups):
            live = (*optimizer.live_options, "params")
            self._entries(group, f"{name}.param_groups[{i}]", "{}[{!r}]", live)
            self._sequence(group["params"], f"{name}.param_groups[{i}]['params']")
        self._object(optimizer, name)

    def _function(self, function, name):
        for attribute in ("__code__", "__defaults__", "__kwdefaults__"):
            value = getattr(function, attribute)
            self.watch.attribute(function, attribute, value, f"{name}.{attribute}")
            if attribute != "__code__":
                self.visit(value, f"{name}.{attribute}")
        for variable, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            try:
                value = cell.cell_contents
            except ValueError:  # bound later
                self._refuse(f"{variable} has no value yet")
                continue
            self.watch.attribute(cell, "cell_contents", value, variable)
            self.visit(value, variable)
        if not _ours(function.__module__):
            self._globals(function.__globals__, *_names(function.__code__))

    def _globals(self, namespace, names, attributes):
        for name in sorted(names):
            if name not in namespace:
                continue
            value = namespace[name]
            self.watch.entry(namespace, name, value, name)
            if isinstance(value, types.ModuleType):
                self._attributes_of(value, attributes)
            else:
                self.visit(value, name)

    def _attributes_of(self, module, names):
        """Those attributes of an imported module that the code names."""
        if module.__name__ in RANDOM or (module is np and "random" in names):
            self._random(module, f"the module {module.__name__}")
        if _ours(module.__name__):
            return
        for name in sorted(names & vars(module).keys()):
            value = vars(module)[name]
            self.watch.entry(vars(module), name, value, f"{module.__name__}.{name}")
            if not isinstance(value, types.ModuleType):
                self.visit(value, f"{module.__name__}.{name}")

    def _method(self, method, name):
        self.visit(method.__self__, f"the owner of {name}")
        self.visit(method.__func__, name)

    def _partial(self, partial, name):
        for part in (partial.func, partial.args, partial.keywords):
            self.visit(part, name)

    def _class(self, cls, name):
        for base in cls.__mro__:
            if _ours(base.__module__) or getattr(builtins, base.__name__, None) is base:
                continue
            for attribute, value in vars(base).items():
                if attribute not in ("__dict__", "__weakref__", "__doc__"):
                    value = getattr(value, "__func__", getattr(value, "fget", value))
                    self.visit(value, f"{base.__name__}.{attribute}")
                    if isinstance(vars(base)[attribute], (types.FunctionType, *PLAIN)):
                        self.watch.attribute(base, attribute, value, f"{base.__name__}.{attribute}")

    def _object(self, value, name):
        """An instance: what its dictionary and its slots hold, and what its class can read."""
        self.visit(type(value), type(value).__name__)
        if hasattr(value, "__dict__") and isinstance(value.__dict__, dict):
            self._entries(value.__dict__, name, "{}.{}")
        for cls in type(value).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, slot) and slot not in ("__dict__", "__weakref__"):
                    self.watch.attribute(value, slot, getattr(value, slot), f"{name}.{slot}")
                    self.visit(getattr(value, slot), f"{name}.{slot}")

    def _ignored(self, value, name):
        pass

    _walks = (
        (Tensor, _tensor),
        (np.ndarray, _array),
        (Module, _module),
        (Optimizer, _optimizer),
        (types.FunctionType, _function),
        (types.MethodType, _method),
        (types.BuiltinFunctionType, _ignored),
        (types.ModuleType, _ignored),
        (functools.partial, _partial),
        (np.random.Generator, _random),
        (np.random.RandomState, _random),
        (type, _class),
        (dict, _dictionary),
        (list | tuple | set | frozenset, _sequence),
        (Iterator, _iterator),
    )
