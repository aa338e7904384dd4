"""Everything that a function can read without being given it: what a recording of it depends on.

From the function on, through closures, globals, bound objects, modules, optimizers and containers, each binding is
put on a `Watch`; a plan holds only as long as none of them changed. What cannot be watched refuses to be compiled.
"""

import builtins
import collections
import datetime
import dis
import functools
import gc
import importlib
import os
import random
import re
import sys
import threading
import types
from collections.abc import Iterator

import numpy as np

from fastconv import kernels
from fastconv.autograd import Tensor
from fastconv.nn.module import Module
from fastconv.optim import Optimizer

LARGEST_CONTAINER, LARGEST_REACH = 1000, 30_000
ATOMS = (type(None), bool, int, float, complex, str, bytes, slice, range, type(...))
RANDOM = ("random", "numpy.random", "secrets", "uuid")
CLOCKS = ("time",)
CLOCKS_OF_DATES = {"now", "today", "utcnow"}
OPTIONS_ARE_READ = {"param_groups", "state_dict"}  # by code that names one of these

FUNCTIONS = {"function", "builtin_function_or_method", "cython_function_or_method"}

CALLED_BY_FASTCONV = {"forward", "_update", "_numbers"}
DYNAMIC = {"getattr", "vars", "attrgetter", "methodcaller", "__dict__"}

LIBRARY = os.path.dirname(os.__file__)

IMMUTABLE_TYPE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE: the types that are written in C
# Functions that are refused, wherever they come from, by their id.
READ_ANYTHING = (eval, exec, __import__, importlib.import_module)
OPAQUE = {id(f): f"it calls {f.__name__}(), which can read anything" for f in READ_ANYTHING}
DRAWN_BY_THE_SYSTEM = (os.urandom, getattr(os, "getrandom", os.urandom))  # the latter on Linux
OPAQUE |= {id(f): f"{f.__name__}() gives something else each time" for f in DRAWN_BY_THE_SYSTEM}
# C types that a Python class may be derived from: what they hold is walked.
BASES = (object, dict, list, tuple, set, frozenset, int, float, complex, str, bytes)
BASES += (collections.defaultdict, functools.partial, types.SimpleNamespace)
BASES += (type(functools.cache(len)),)
# C types whose objects do not change, or in a way that no number depends on.
HARMLESS = (
    np.dtype,
    np.generic,
    re.Pattern,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    datetime.tzinfo,
    type(threading.Lock()),
    type(threading.RLock()),
    types.CodeType,
    types.GenericAlias,
    types.UnionType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    type(NotImplemented),
    type(collections.namedtuple("Named", "field").field),
)
OF_EVERY_CLASS = (
    "__dict__",
    "__weakref__",
    "__doc__",
    "__module__",
    "__annotations__",
    "_abc_impl",
)
ARRAY, REQUIRES_GRAD = Tensor._array, Tensor.requires_grad


def _is_library(namespace):
    """Whether a module of that dictionary is an installed package, which does not change while a program runs, or of
    Python's own library: not merely called as one of them."""
    name, file = namespace.get("__name__") or "", namespace.get("__file__")
    if file and ("site-packages" in file or "dist-packages" in file):
        return True
    if name.split(".")[0] not in sys.stdlib_module_names or name in ("__main__", "builtins"):
        return False
    return file is None or file.startswith(LIBRARY)


def _ours(namespace):
    """Whether code of that module can be taken as it is: fastconv's own, NumPy's, Python's."""
    root = (namespace.get("__name__") or "").split(".")[0]
    return root in ("fastconv", "numpy") or _is_library(namespace)


def _module_of(cls):
    return vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}


def _is_ours_in_c(cls, value):
    """Whether an object of a C type is fastconv's or NumPy's: a kernel, a ufunc, a generator's bits."""
    makers = (cls.__module__, getattr(value, "__module__", None) or "")
    return any(maker.split(".")[0] in ("fastconv", "numpy") for maker in makers)


def _is_of(value, modules):
    """Whether it is a function or a class of these modules."""
    if not isinstance(value, type) and type(value).__name__ not in FUNCTIONS:
        return False
    name = (value.__module__ or "").lstrip("_")
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _codes(code):
    """A code object and those inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


class _Names:
    """The names in a function's code: looked up as globals; imported; and all, texts included, that can be those of
    attributes."""

    def __init__(self, function):
        self.globals, self.imported, self.all = set(), set(), set()
        for code in _codes(function.__code__):
            texts = {c for c in code.co_consts if isinstance(c, str) and c.isidentifier()}
            self.all |= {*code.co_names, *texts}
            for instruction in dis.get_instructions(code):
                if instruction.opname == "IMPORT_NAME":
                    self.imported.add(instruction.argval)
                elif instruction.opname.endswith(("_GLOBAL", "_NAME", "_GLOBALS")):
                    self.globals.add(instruction.argval)


class _Enough(Exception):
    """There is a refusal."""


class Reach:
    """The walk. watch: what must not change; tensors, optimizers: what was met, by id; refusal: why it cannot be
    compiled, or None."""

    def __init__(self):
        self.watch = kernels.Watch()
        self.tensors, self.optimizers = {}, {}
        self.refusal = None
        self._met = {}
        self._names = set()  # in the code of functions that are not some class's
        self._methods = []  # (name, the names in its code)
        self._modules = []  # that are not globals

    def visit(self, value, name):
        """Walk on from `value`, which the source calls `name`."""
        if hasattr(type(value), "compiled_from"):  # it stands for the function
            self.watch.dictionary(value.__dict__, f"{name}.", value.internals)
            value = value.compiled_from
        if type(value) in ATOMS or id(value) in self._met:
            return
        self._met[id(value)] = value
        if id(value) in OPAQUE:
            self._refuse(OPAQUE[id(value)])
        if _is_of(value, RANDOM):
            self._random(value, name)
        if len(self._met) > LARGEST_REACH:
            self._refuse(f"it reaches more than {LARGEST_REACH:,} objects, too many to watch")
        for kind, walk in self._walks:
            if isinstance(value, kind):
                walk(self, value, name)
                return
        self._object(value, name)

    def walk(self, function, others):
        """Visit all; stops where something refuses."""
        try:
            self.visit(function, getattr(function, "__name__", type(function).__name__))
            for value in others:
                self.visit(value, "an argument")
            self._finish()
        except _Enough:
            pass

    def _finish(self):
        """What is known only after the walk."""
        for module in self._modules:  # which may grow meanwhile
            named = self._names.union(*(names for _, names in self._methods))
            self._attributes_of(module, named, set())
        named = self._named_in_what_may_run()
        if CLOCKS_OF_DATES & named and (self.knows(datetime.datetime) or self.knows(datetime.date)):
            self._refuse("it asks for the date, as a replay would not")
        if OPTIONS_ARE_READ & named:
            for optimizer in self.optimizers.values():
                for i, group in enumerate(optimizer.param_groups):
                    self._entries(group, f"param_groups[{i}]")

    def _named_in_what_may_run(self):
        """All names in the code, without those in methods that no code names."""
        names, methods = self._names | CALLED_BY_FASTCONV, self._methods
        while True:
            runs = [m for m in methods if m[0] in names or m[0].startswith("__") or names & DYNAMIC]
            if not runs:
                return names
            names = names.union(*(named for _, named in runs))
            methods = [m for m in methods if m not in runs]

    def is_live(self, optimizer):
        """Whether the numbers of its groups go nowhere but into its kernels' arguments."""
        cls = type(optimizer)
        return _ours(_module_of(cls)) and "_update" not in vars(optimizer)

    def knows(self, value):
        """Whether that object was met."""
        return id(value) in self._met

    def _refuse(self, cause):
        self.refusal = cause
        raise _Enough

    # ---- numbers -------------------------------------------------------------------------------------

    def _tensor(self, tensor, name):
        self.tensors[id(tensor)] = tensor
        if tensor.grad_fn is not None and tensor.grad_fn.backward is not None:
            self._refuse(f"{name} was computed outside of it, from what requires a gradient")
        self.watch.memory(tensor, ARRAY, tensor._array, f"the memory of {name}")
        self.watch.slot(tensor, REQUIRES_GRAD, tensor.requires_grad, f"{name}.requires_grad")
        if type(tensor) is not Tensor:
            self._instance(tensor, name)

    def _array(self, array, name):
        self._refuse(
            f"{name} is a NumPy array, whose numbers could change unseen; make it a Tensor"
        )

    def _random(self, generator, name):
        self._refuse(f"{name} draws random numbers that a replay would not draw again")

    def _iterator(self, iterator, name):
        self._refuse(f"{name} is an iterator, which a replay would not advance")

    # ---- containers ----------------------------------------------------------------------------------

    def _measure(self, container, name):
        if len(container) > LARGEST_CONTAINER:
            self._refuse(f"{name} has {len(container)} elements, too many to watch")

    def _entries(self, container, name, skipped=()):
        """What a dict holds. A name that ends with a point is that of an object, whose attributes they are."""
        self._measure(container, name)
        self.watch.dictionary(container, name, skipped)
        for key, value in list(container.items()):
            if not (isinstance(key, str) and key in skipped):
                self.visit(value, f"{name}{key}" if name.endswith(".") else f"{name}[{key!r:.30}]")
            if type(key) not in ATOMS and not isinstance(key, Tensor):
                self.visit(key, f"a key of {name}")

    def _dictionary(self, dictionary, name):
        self._entries(dictionary, name)
        self._rest(dictionary, (dict,), name)

    def _sequence(self, sequence, name):
        self._measure(sequence, name)
        if isinstance(sequence, list):
            self.watch.items(sequence, f"the elements of {name}")
        elif isinstance(sequence, set):
            self.watch.members(sequence, f"the elements of {name}")
        for i, value in enumerate(sequence):
            self.visit(value, f"{name}[{i}]")
        self._rest(sequence, (list, tuple, set, frozenset), name)

    def _rest(self, container, kinds, name):
        """An object of a class derived from a container's has attributes too."""
        in_c = type(container).__flags__ & IMMUTABLE_TYPE  # such as sys.version_info
        if type(container) not in kinds and not (in_c and isinstance(container, tuple)):
            self._object(container, name)

    def _proxy(self, proxy, name):
        for dictionary in gc.get_referents(proxy):
            self.visit(dictionary, name)

    # ---- fastconv's objects --------------------------------------------------------------------------

    def _module(self, module, name):
        self._object(module, name)
        if module._forward_hooks or module._forward_pre_hooks:
            self._refuse(f"{name} has forward hooks")

    def _optimizer(self, optimizer, name):
        self.optimizers[id(optimizer)] = optimizer
        self.watch.items(optimizer.param_groups, f"the groups of {name}")
        live = optimizer.live_options if self.is_live(optimizer) else ()
        for i, group in enumerate(optimizer.param_groups):
            self._entries(group, f"{name}.param_groups[{i}]", live)
        self._object(optimizer, name, ("param_groups",))

    # ---- code ----------------------------------------------------------------------------------------

    def _function(self, function, name):
        self.watch.function(function, name)
        for attribute in ("__defaults__", "__kwdefaults__"):
            self.visit(getattr(function, attribute), f"{name}.{attribute}")
        ours = _ours(function.__globals__)
        if not ours:
            self._entries(function.__dict__, f"{name}.")
        cells = function.__closure__ or ()
        for variable, cell in zip(function.__code__.co_freevars, cells, strict=True):
            self.watch.cell(cell, variable)
            try:
                value = cell.cell_contents
            except ValueError:
                self._refuse(f"{variable} has no value yet")
            self.visit(value, variable)
        if not ours:
            names = _Names(function)
            if "." in name:  # found as an attribute: it may run if some code names it
                self._methods.append((name.rpartition(".")[2], names.all))
            else:
                self._names |= names.all
            self._globals(function.__globals__, names)

    def _globals(self, namespace, names):
        by_text = "globals" in names.globals
        named = names.globals | (names.all if by_text else set())
        for name in sorted(named):
            self.watch.entry(namespace, name, name)
            if name in namespace:
                self._named(namespace[name], name, names)
            elif id(vars(builtins).get(name)) in OPAQUE:
                self.visit(vars(builtins)[name], name)
        if by_text:
            self._numbers_of(namespace, named)
        for name in sorted(names.imported):
            parts = name.split(".")
            above = [".".join(parts[: i + 1]) for i in range(len(parts))]
            for full in (*above, f"{namespace.get('__package__')}.{name}".rstrip(".")):
                self.watch.entry(sys.modules, full, f"the module {full}")
                self._named(sys.modules.get(full), full, names)

    def _numbers_of(self, namespace, but):
        """The variables that may be asked for by a text that is computed: those that are numbers and the like, or
        Tensors."""
        for name, value in sorted(namespace.items()):
            if name in but or name.startswith("__") or type(value) not in (*ATOMS, Tensor):
                continue
            self.watch.entry(namespace, name, name)
            self.visit(value, name)

    def _named(self, value, name, names):
        if isinstance(value, types.ModuleType):
            self._attributes_of(value, names.all, set())
        else:
            self.visit(value, name)

    def _loose_module(self, module, name):
        self._modules.append(module)

    def _attributes_of(self, module, names, done):
        """Those attributes of an imported module, and of modules in it, that the code names."""
        if module.__name__ in RANDOM or (module is np and "random" in names):
            self._random(module, f"the module {module.__name__}")
        if module.__name__ in CLOCKS:
            self._refuse(
                f"the module {module.__name__} tells a time that a replay would not ask for"
            )
        if module.__name__.split(".")[0] in ("fastconv", "numpy") or id(module) in done:
            return
        done.add(id(module))
        own = vars(module)
        named = names | {"__getattr__"}
        if names & DYNAMIC and not _is_library(own):
            self._numbers_of(own, named)
        for name in sorted(own.keys() & named):
            value = own[name]
            self.watch.entry(own, name, f"{module.__name__}.{name}")
            if isinstance(value, types.ModuleType):
                self._attributes_of(value, names, done)
            else:
                self.visit(value, f"{module.__name__}.{name}")

    def _method(self, method, name):
        self.visit(method.__func__, name.rpartition(".")[2])
        self.visit(method.__self__, f"the owner of {name}")

    def _builtin(self, function, name):
        """A function in C: bound to an object, to a module, or to nothing."""
        owner = getattr(function, "__self__", None)
        if isinstance(owner, types.ModuleType) or owner is None:
            if _is_of(function, CLOCKS):
                self._refuse(f"{name} gives something else each time")
        else:
            self.visit(owner, f"the owner of {name}")

    def _partial(self, partial, name):
        for part in (partial.func, partial.args, partial.keywords):
            self.visit(part, name)
        self._instance(partial, name)

    def _descriptor(self, descriptor, name):
        """A property, a class method, a static method: the functions in it."""
        for part in ("__func__", "fget", "fset", "fdel"):
            self.visit(getattr(descriptor, part, None), name)

    def _class(self, cls, name):
        for base in cls.__mro__:
            if base.__flags__ & IMMUTABLE_TYPE or _ours(_module_of(base)):
                continue
            own = kernels.dictionary_of_class(base)
            self._entries(own, f"{base.__name__}.", OF_EVERY_CLASS)
            self.visit(type(base), f"the class of {base.__name__}")

    # ---- other objects -------------------------------------------------------------------------------

    def _object(self, value, name, skipped=()):
        """An instance: what its dictionary and its slots hold, and what its class can read."""
        cls = type(value)
        in_c = cls.__flags__ & IMMUTABLE_TYPE
        if isinstance(value, HARMLESS) or in_c and _is_ours_in_c(cls, value):
            return
        if cls.__module__ == "logging":  # what it writes, it writes while recording
            return
        for base in cls.__mro__:
            if base.__flags__ & IMMUTABLE_TYPE and base not in BASES:
                self._refuse(f"{name} is a {base.__name__}, which cannot be watched")
        self._instance(value, name, skipped)

    def _instance(self, value, name, skipped=()):
        cls = type(value)
        self.visit(cls, cls.__name__)
        self.watch.instance(value, f"the class of {name}")
        if cls.__dictoffset__:
            self._entries(value.__dict__, f"{name}.", skipped)
            for key in skipped:
                self.watch.entry(value.__dict__, key, f"{name}.{key}")
        for base in cls.__mro__:
            if base.__flags__ & IMMUTABLE_TYPE or base is Tensor:
                continue
            for slot, member in vars(base).items():
                if isinstance(member, types.MemberDescriptorType):
                    self._slot(value, member, f"{name}.{slot}")

    def _slot(self, value, member, name):
        try:
            held = member.__get__(value)
        except AttributeError:
            held = kernels.ABSENT
        self.watch.slot(value, member, held, name)
        if held is not kernels.ABSENT:
            self.visit(held, name)

    _walks = (
        (Tensor, _tensor),
        (np.ndarray, _array),
        (Module, _module),
        (Optimizer, _optimizer),
        (types.FunctionType, _function),
        (types.MethodType, _method),
        ((types.BuiltinFunctionType, types.MethodWrapperType), _builtin),
        (types.ModuleType, _loose_module),
        (functools.partial, _partial),
        ((property, classmethod, staticmethod), _descriptor),
        ((np.random.Generator, np.random.RandomState, random.Random), _random),
        (type, _class),
        (dict, _dictionary),
        ((list, tuple, set, frozenset), _sequence),
        (types.MappingProxyType, _proxy),
        (Iterator, _iterator),
    )
