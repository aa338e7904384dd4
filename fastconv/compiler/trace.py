"""One call of a function, recorded: its kernel calls, what it returned, the gradients that it left behind."""

import threading
from dataclasses import dataclass, field

import numpy as np

from fastconv import kernels
from fastconv.autograd import Tensor
from fastconv.compiler.reach import Reach
from fastconv.optim import optimizer as optimizers

_one_at_a_time = threading.RLock()


class Refused(Exception):
    """The function cannot be replayed; the text says why."""


@dataclass
class Operand:
    """A pointer among the arguments of a call: kind is IN, OUT or INOUT. It points to `array` as the door saw it,
    `offset` bytes after the first of `root`, which owns the memory."""

    kind: str
    field: str
    array: np.ndarray
    root: np.ndarray
    offset: int

    @property
    def reads(self):
        return self.kind != "OUT"

    @property
    def writes(self):
        return self.kind != "IN"


@dataclass
class Call:
    """A kernel and its arguments: the words of its struct, the pointers among them as operands by field."""

    kernel: str
    dtype: int
    words: np.ndarray
    operands: dict[str, Operand]

    def word(self, name):
        """Where the field lies among the words."""
        return next(first for _, f, first, _ in kernels.FIELDS[self.kernel] if f == name)

    def number(self, name):
        """A SIZE among the arguments."""
        return int(self.words[self.word(name)])

    def real(self, name):
        """A REAL among them."""
        return float(self.words.view(np.float64)[self.word(name)])


@dataclass
class Trace:
    """A recorded call. leaves: the Tensors among its arguments; gradients: (leaf, its new grad) where the call
    replaced it; live: (optimizer, group, its calls) whose numbers are read anew at each replay; changed: the name
    of something that the call depends on and has itself changed, or None."""

    calls: list[Call]
    leaves: list[Tensor]
    result: object
    reach: Reach
    gradients: list[tuple[Tensor, Tensor]]
    live: list[tuple[object, dict, list[Call]]]
    changed: str | None
    recording: kernels.Recording = field(repr=False)


def address(array):
    return array.__array_interface__["data"][0]


def root_of(array):
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _operands(kernel, words, seen):
    places = {f: first for _, f, first, _ in kernels.FIELDS[kernel]}
    for kind, name, array in seen:
        if kernel == "gemm" and name == "c" and words[places["beta"]] == 0:
            kind = "OUT"
        root = root_of(array)
        yield Operand(kind, name, array, root, int(words[places[name]]) - address(root))


def _known_roots(leaves, reach, gradients_before):
    """The memory that is watched: that of the arguments, and of all that the function can reach."""
    tensors = [*leaves, *reach.tensors.values(), *gradients_before.values()]
    arrays = [t._array for t in tensors if t is not None] + list(reach.arrays.values())
    return {id(root_of(a)): root_of(a) for a in arrays}


def _leaves_with_gradients(reach):
    return [t for t in reach.tensors.values() if t.grad_fn is None]


def trace(function, args, kwargs, leaves):
    """Run the function and write it down. Raises what it raises. Raises Refused only before it runs; a Trace whose
    recording has a refusal afterwards was run, but cannot be replayed."""
    reach = Reach()
    reach.visit(function, getattr(function, "__name__", type(function).__name__))
    for value in (*args, *kwargs.values()):
        if not isinstance(value, Tensor):
            reach.visit(value, "an argument")
    if reach.refusal:
        raise Refused(reach.refusal)
    before = {id(t): t.grad for t in _leaves_with_gradients(reach)}
    marks = []
    with _one_at_a_time, kernels.Recording() as recording:
        outer, optimizers.listener = optimizers.listener, None
        try:
            optimizers.listener = lambda optimizer, group: marks.append(
                (optimizer, group, len(recording.calls)) if kernels.is_recording() else None
            )
            result = function(*args, **kwargs)
        finally:
            optimizers.listener = outer
    changed = reach.watch.changed()
    calls = [
        Call(
            kernel,
            dtype,
            words,
            {o.field: o for o in _operands(kernel, words, operands)},
        )
        for kernel, dtype, words, operands in recording.calls
    ]
    known = _known_roots(leaves, reach, before)
    touched = {id(o.root) for call in calls for o in call.operands.values()}
    for call in calls:
        for operand in call.operands.values():
            _explain(recording, call, operand, known)
    gradients = []
    for tensor in _leaves_with_gradients(reach):
        _watch_gradient(reach, recording, tensor, before.get(id(tensor)), touched, gradients)
    marks = [m for m in marks if m is not None]
    starts = [start for _, _, start in marks] + [len(calls)]
    live = [
        (optimizer, group, calls[starts[i] : starts[i + 1]])
        for i, (optimizer, group, _) in enumerate(marks)
    ]
    return Trace(calls, leaves, result, reach, gradients, live, changed, recording)


def _explain(recording, call, operand, known):
    """Refuse memory of which nothing is known: nobody would notice when it is another."""
    if id(operand.root) in recording.new or id(operand.root) in known:
        return
    if recording.made_by_numpy(operand.array):
        recording.refuse(f"{call.kernel} reads an array that NumPy made inside of the step")
    else:
        recording.refuse(
            f"{call.kernel} reads an array that the function reaches in a way that cannot be watched"
        )


def _watch_gradient(reach, recording, tensor, before, touched, gradients):
    after = tensor.grad
    watch = reach.watch
    if after is before:
        watch.attribute(tensor, "grad", before, "a gradient")
        if before is not None:
            watch.attribute(before, "_array", before._array, "the memory of a gradient")
            reach.tensors[id(before)] = before
        return
    if before is None:
        watch.attribute(tensor, "grad", None, "a gradient")
    elif id(root_of(before._array)) in touched:
        recording.refuse("a gradient is read and then replaced")
    else:
        watch.present(tensor, "grad", "a gradient")
    if after is not None:
        gradients.append((tensor, after))
    else:
        recording.refuse("a gradient is dropped")
