"""`compile`: the callable that replays what it can, and says what it cannot."""

import copy
import functools
import os
import sys
import types
import warnings

from fastconv import autograd, kernels
from fastconv.autograd import PLAIN, Tensor, _stale, is_grad_enabled
from fastconv.compiler.explain import explain
from fastconv.compiler.plan import Plan
from fastconv.compiler.trace import Refused, RefusedNow, is_sequence, trace
from fastconv.nn.module import Module

MOST_PLANS = 8
MODE = os.environ.get("FASTCONV_COMPILE") or "on"
if MODE not in ("on", "off", "check"):
    raise ValueError(f"FASTCONV_COMPILE must be on, off or check, got {MODE!r}")

# What must hold for calls to be replayed without a look from here.
USUAL = kernels.Watch()
USUAL.entry(globals(), "MODE", "FASTCONV_COMPILE")
USUAL.entry(vars(autograd), "observer", "an observer of operations")

MOST_TRIES = 3  # recordings of one signature that changed what they depend on
MOST_IN_VAIN = 16  # recordings of one signature without a replay between them


class Compiled(kernels.QuickCompiled):
    """A function whose kernel calls are recorded once and then replayed in C. See `compile`."""

    def __init__(self, function):
        super().__init__(PLAIN, USUAL if MODE == "on" else None)
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self._name = getattr(function, "__qualname__", type(function).__name__)
        self._tries, self._eager = {}, {}
        # by signature: whether there was a replay since the last recording, and recordings since the last replay
        self._replayed, self._in_vain = {}, {}
        self._causes = set()  # what was warned of
        self.internals = ("internals", *vars(self))  # what the function cannot mean by an attribute

    def __copy__(self):
        return Compiled(self._function)

    def __deepcopy__(self, memo):
        return Compiled(copy.deepcopy(self._function, memo))

    def __reduce__(self):
        if getattr(sys.modules.get(self.__module__), self._name, None) is self:
            return self._name  # of a decorated function: pickle finds it by that
        return Compiled, (self._function,)

    @property
    def compiled_from(self):
        return self._function

    def __get__(self, instance, owner=None):
        return self if instance is None else types.MethodType(self, instance)

    def _call(self, args, kwargs):
        """The calls that are not replayed at once: see QuickCompiled."""
        if MODE == "off" or kernels.is_recording() or autograd.observer is not None:
            return self._function(*args, **kwargs)
        leaves, constants = tuple(_tensors(args, kwargs)), _constants(args, kwargs)
        if _are_plain(leaves):
            arrays = [leaf._array for leaf in leaves]
            plan = self._find(arrays, leaves, constants)
            if plan is not None:
                if MODE == "check":
                    return self._checked(plan, args, kwargs, arrays, leaves)
                return plan.run(arrays, leaves)
        return self._record(args, kwargs, leaves, constants)

    def explain(self, plot=None):
        """Print what the last call replayed, or recorded: its kernel calls, their algorithms, shapes, bytes, times and
        share of the multiply-add peak; return that as an object with `rows`.

        plot: matplotlib Axes, or the name of a file, for a picture of the times. Raises RuntimeError where no call was
        recorded.
        """
        if self._last is None:
            raise RuntimeError(
                f"{self._name} has not been recorded: call it first, twice to replay it"
            )
        explanation = explain(self._last)
        print(explanation)
        if plot is not None:
            explanation.plot(plot)
        return explanation

    # ---- recording -----------------------------------------------------------------------------------

    def _record(self, args, kwargs, leaves, constants):
        signature = (is_grad_enabled(), *(_form(leaf._array) for leaf in leaves))
        recorded, recording = None, kernels.Recording()
        try:
            # While another thread records, this one does not wait: the other could be waiting for this one.
            if self._stays_eager(signature) or not recording.claim():
                return self._function(*args, **kwargs)
            _refuse_arguments(leaves)
            recorded = trace(recording, self._function, args, kwargs, leaves)
            plan = _plan_that_has_run(recorded)
            self._keep(plan, recorded, signature, args, kwargs, constants)
        except Refused as refusal:
            self._give_up(signature, refusal)
        finally:
            recording.finish()
        return self._function(*args, **kwargs) if recorded is None else recorded.result

    def _keep(self, plan, recorded, signature, args, kwargs, constants):
        """Keep a plan, unless the next call begins as this one did not. plan: or why there is none."""
        if recorded.changed:
            self._tries[signature] = self._tries.get(signature, 0) + 1
            if self._tries[signature] >= MOST_TRIES:
                raise Refused(f"it changes {recorded.changed} each time")
            return
        try:
            _refuse_other_arguments(args, kwargs, recorded.leaves, constants)
            _refuse_known_containers(recorded, args, kwargs)
            if isinstance(plan, Refused):
                raise plan
        except Refused as refusal:
            refusal.watch = recorded.reach.watch
            raise
        self._tries.pop(signature, None)
        plan.replayed = self._replayed.setdefault(signature, [False])
        in_vain = 0 if plan.replayed[0] else self._in_vain.get(signature, 0) + 1
        plan.replayed[0], self._in_vain[signature] = False, in_vain
        if in_vain > MOST_IN_VAIN:
            raise Refused("what it depends on, or a number among its arguments, differs each time")
        plan.constants = constants
        self._plans = [plan, *self._plans[: MOST_PLANS - 1]]
        self._last = plan

    def _stays_eager(self, signature):
        """Whether a cause that was met before still holds; the first few times that what it depends on has changed,
        the call is recorded again."""
        if signature not in self._eager:
            return False
        watch, times = self._eager[signature]
        return watch is None or times >= MOST_TRIES or watch.changed() is None

    def _checked(self, plan, args, kwargs, arrays, leaves):
        """Run eagerly, go back, replay, and compare."""
        written = plan.written + [arrays[i] for i in plan.written_inputs]
        before = [array.copy() for array in written]
        grads = [(leaf, leaf.grad) for leaf, _ in plan.gradients]
        result = self._function(*args, **kwargs)
        wanted = _bytes(result, written, grads)
        for array, old in zip(written, before, strict=True):
            array[...] = old
        for leaf, grad in grads:
            leaf.grad = grad
        result = plan.run(arrays, leaves)
        if _bytes(result, written, grads) != wanted:
            raise RuntimeError(
                f"fastconv.compile: a replay of {self._name} differs from the function"
            )
        return result

    def _give_up(self, signature, refusal):
        cause = str(refusal)
        if not isinstance(refusal, RefusedNow):
            _, times = self._eager.get(signature, (None, 0))
            self._eager[signature] = refusal.watch, times + 1
        if cause not in self._causes:
            self._causes.add(cause)
            text = f"fastconv.compile: {self._name} runs eagerly, because {cause}"
            warnings.warn(text, stacklevel=_callers_level())

    def __repr__(self):
        return f"<compiled {self._name}, {len(self._plans)} plans>"


def _plan_that_has_run(recorded):
    """The plan of a recording, or the Refused that says why there is none; the calls that were put off, it runs."""
    try:
        plan = Plan(recorded)
    except Refused as refusal:
        return refusal
    except MemoryError:
        return RefusedNow("there is no memory for what it needs at one time")
    plan.run_put_off()
    return plan


def _callers_level():
    """The stacklevel, in the function that asks, of whoever called fastconv."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("fastconv."):
        level, frame = level + 1, frame.f_back
    return level


def _form(array):
    return (array.shape, array.dtype.str, array.strides)


def _tensors(args, kwargs):
    """The Tensors among the arguments, in their order, containers looked into."""
    leaves = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            leaves.append(value)
        elif is_sequence(value):
            leaves += _tensors(value, {})
        elif type(value) is dict:
            leaves += _tensors((), value)
    return leaves


def _constants(args, kwargs):
    """The arguments, with a mark in the place of each Tensor; their number, if there is nothing else."""
    positional = tuple([_constant(a) for a in args])
    if not kwargs:
        return len(args) if all(c is _Slot for c in positional) else positional
    return positional, tuple([(k, _constant(v)) for k, v in kwargs.items()])


class _Slot:
    """Stands for a Tensor."""


def _constant(value):
    if isinstance(value, Tensor):
        return _Slot
    if is_sequence(value):
        return (type(value), *map(_constant, value))
    if type(value) is dict:
        return (dict, *((k, _constant(v)) for k, v in value.items()))
    return value


def _are_plain(values):
    """Whether they are plain Tensors, or views of such."""
    for value in values:
        if (
            type(value) is not Tensor
            or value.requires_grad
            or value.grad is not None
            or (value._made_at is not None and _stale(value))
        ):
            return False
    return True


def _refuse_arguments(leaves):
    for leaf in leaves:
        if not _are_plain((leaf,)):
            given = "requires grad" if leaf.requires_grad else "is not merely a Tensor of numbers"
            raise RefusedNow(f"an argument {given}")


def _refuse_other_arguments(args, kwargs, leaves, constants):
    """After the call, they must be what they were, and no result."""
    after = _tensors(args, kwargs)
    same = type(constants) is int or kernels.same_value(constants, _constants(args, kwargs))
    if not same or [*map(id, after)] != [*map(id, leaves)]:
        raise Refused("it changes a list or a dict among its arguments")


def _containers(value):
    """The lists and dicts in a value."""
    if is_sequence(value) or type(value) is dict:
        yield from () if isinstance(value, tuple) else (value,)
        for element in value.values() if type(value) is dict else value:
            yield from _containers(element)


def _refuse_known_containers(recorded, args, kwargs):
    """A replay returns new lists and dicts."""
    given = [*map(id, _containers([*args, *kwargs.values()]))]
    for container in _containers(recorded.result):
        if recorded.reach.knows(container) or id(container) in given:
            raise Refused(f"it returns a {type(container).__name__} that it did not make")


def _bytes(result, written, grads):
    """All numbers that a call left behind."""
    arrays = [t._array for t in _tensors((result,), {})] + written
    arrays += [leaf.grad._array for leaf, _ in grads if leaf.grad is not None]
    return [array.tobytes() for array in arrays]


def compile(function):
    """A function, or a Module, whose kernel calls are recorded once and then replayed in C, without Python.

        @fastconv.compile
        def step(x, y):                         net = fastconv.compile(net)      for inference
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

    The first calls are recorded: Python runs, and after it the kernels, in the memory of the list, or as soon as
    anybody looks at a number. Later ones replay the list, to the same bits, and return new Tensors. A list holds for
    one set of shapes and dtypes, and as long as all that the function can read is what it was: the modules with their
    modes and attributes, the memory of the parameters, globals, closures, numbers among the arguments. What differs is
    recorded anew (the last 8 lists are kept). The numbers of an optimizer's groups, such as the learning rate, are read
    at each replay. At batch 1 the gradient of a linear layer, of which SGD makes its step, is computed when somebody
    looks at it.

    Python runs only while recording: what it prints or appends, it does so then, and what NumPy writes into memory that
    a Tensor shares, nobody sees. A function that must see numbers half-way (`.item()`, `if loss > 1`, NumPy), has
    hooks, draws random numbers other than Dropout's, or changes what it reads, runs eagerly, with one warning that
    names the cause and the line. Not watched are files and the rest of the process's surroundings, and installed
    packages, fastconv among them: they are taken not to change.

    A compiled Module shares everything with the Module that was given; it replays under no_grad(), or where nothing
    requires a gradient. FASTCONV_COMPILE=off runs everything eagerly; FASTCONV_COMPILE=check runs each replay
    eagerly too, from the same state, and raises RuntimeError where a bit differs.
    """
    if isinstance(function, Module):
        return _compiled_module(function)
    if not callable(function):
        raise TypeError(f"compile wants a function or a Module, got {type(function).__name__}")
    return Compiled(function)


class _CompiledModule:
    """What a compiled Module's class begins with; `__call__`, which is `_compiled`, and
    `_original` belong to the class made for it."""

    def __init_subclass__(cls, **kwargs):
        """What the Module's class does for its subclasses is not for this one."""

    def __deepcopy__(self, memo):
        return compile(copy.deepcopy(self._original, memo))

    def __copy__(self):
        return compile(copy.copy(self._original))

    def __reduce__(self):
        return compile, (self._original,)


def _compiled_module(module):
    """A Module of a class derived from the given one's, with the same attributes: not alike, but one and the same."""
    if isinstance(module, _CompiledModule):
        return module
    cls, compiled = type(module), staticmethod(Compiled(module))
    members = {
        "__call__": compiled,
        "_compiled": compiled,
        "_original": module,
        "__module__": cls.__module__,
    }
    result = object.__new__(type(cls.__name__, (_CompiledModule, cls), members))
    object.__setattr__(result, "__dict__", module.__dict__)
    return result
