"""One call of a function, recorded: its kernel calls, what it returned, the gradients that it left behind."""

from dataclasses import dataclass, field

import numpy as np

from fastconv import kernels, random
from fastconv.autograd import Tensor, is_grad_enabled
from fastconv.compiler.reach import ARRAY, Reach
from fastconv.optim import optimizer as optimizers

GRAD = Tensor.grad


class Refused(Exception):
    """The function cannot be replayed; the text says why. watch: if given, what would have to change for another
    answer."""

    def __init__(self, cause, watch=None):
        super().__init__(cause)
        self.watch = watch


class RefusedNow(Refused):
    """This call cannot be recorded; others may."""


@dataclass
class Operand:
    """A pointer among the arguments of a call: kind is IN, OUT or INOUT. It points to `array` as the door saw it,
    `offset` bytes after the first of `root`, which owns the memory, or stands for what owned it while recording; those
    must not be read. number: what is there, if it is a number that Python gave, else None."""

    kind: str
    field: str
    array: np.ndarray
    root: np.ndarray
    offset: int
    number: float | None = None

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
    of something that the call depends on and has itself changed, or None. recording: to be finished; while it is
    putting off, no call has run."""

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


def _operands(kernel, words, seen, constants):
    places = {f: first for _, f, first, _ in kernels.FIELDS[kernel]}
    for kind, name, array in seen:
        if kernel == "gemm" and name == "c" and words[places["beta"]] == 0:
            kind = "OUT"
        if kernel == "sgd_step" and name == "v" and words[places["first"]]:
            kind = "OUT"
        root = root_of(array)
        number = constants[id(root)].item() if id(root) in constants else None
        yield Operand(kind, name, array, root, int(words[places[name]]) - address(root), number)


def _known_roots(leaves, reach, gradients_before):
    """The memory that is watched: that of the arguments, and of all that the function can reach."""
    tensors = [*leaves, *reach.tensors.values(), *gradients_before.values()]
    roots = [root_of(t._array) for t in tensors if t is not None]
    roots.append(random.default_generator.dropout_state)  # the one array of which all know
    return {id(root): root for root in roots}


def _leaves_with_gradients(reach):
    return [t for t in reach.tensors.values() if t.grad_fn is None]


def is_sequence(value):
    """Whether it is a plain list or tuple, or a named tuple."""
    cls = type(value)
    return cls in (tuple, list) or cls.__bases__ == (tuple,) and hasattr(cls, "_fields")


def _others(value):
    """What a plain container holds besides Tensors, and the class of a named tuple."""
    if is_sequence(value):
        yield type(value)
        for element in value:
            yield from _others(element)
    elif type(value) is dict:
        yield from _others([*value, *value.values()])
    elif not isinstance(value, Tensor):
        yield value


def _refuse_shared_memory(leaves, reach, gradients):
    """A replay gives each argument memory of its own: what is known by another name has to keep its place."""
    known = [t._array for t in (*reach.tensors.values(), *gradients.values()) if t is not None]
    for i, leaf in enumerate(leaves):
        if any(np.may_share_memory(leaf._array, other._array) for other in leaves[:i]):
            raise RefusedNow("two arguments share memory")
        if any(np.may_share_memory(leaf._array, array) for array in known):
            raise RefusedNow("an argument shares memory with what the function reaches otherwise")


def _state(leaf):
    return leaf._array, leaf.requires_grad, leaf.grad, leaf.grad_fn, leaf._version


def _numbers(reach):
    """By optimizer and group, their numbers, which are not watched; None for those that are not numbers."""
    return {
        (id(optimizer), id(group)): _numbers_of(optimizer, group)
        for optimizer in reach.optimizers.values()
        if reach.is_live(optimizer)
        for group in optimizer.param_groups
    }


def _numbers_of(optimizer, group):
    try:
        return optimizer._numbers(group)
    except (KeyError, TypeError, ValueError):
        return None


def trace(recording, function, args, kwargs, leaves):
    """Call the function and write it down; whoever traces has claimed the recording and finishes it. Raises what
    the function raises. Raises Refused only before it is called; a Trace whose recording has a refusal afterwards
    cannot be replayed."""
    reach = Reach()
    reach.walk(function, _others([*args, *kwargs.values()]))
    if reach.refusal:
        raise Refused(reach.refusal, reach.watch)
    before = {id(t): t.grad for t in _leaves_with_gradients(reach)}
    _refuse_shared_memory(leaves, reach, before)
    states, numbers, mode = [_state(leaf) for leaf in leaves], _numbers(reach), is_grad_enabled()
    everything = [*leaves, *reach.tensors.values()]
    versions = [t._version[0] for t in everything]
    recording.put_off(frozenset(_known_roots(leaves, reach, before)))
    result, updates = _recorded(recording, reach, function, args, kwargs)
    changed = reach.watch.changed()
    if numbers != _numbers(reach):
        changed = changed or "an option of an optimizer"
    if any(
        a is not b
        for leaf, state in zip(leaves, states, strict=True)
        for a, b in zip(_state(leaf), state, strict=True)
    ):
        recording.refuse("it changes an argument's attributes")
    if is_grad_enabled() is not mode:
        recording.refuse("it switches gradients on or off")
    calls = [
        Call(
            kernel,
            dtype,
            words.copy(),  # of calls that may still be to run
            {o.field: o for o in _operands(kernel, words, operands, recording.constants)},
        )
        for kernel, dtype, words, operands in recording.calls
    ]
    _explain_all(recording, calls, _known_roots(leaves, reach, before))
    _refuse_meeting_roots(recording, calls)
    counted = [t for t, v in zip(everything, versions, strict=True) if t._version[0] != v]
    _refuse_unseen_changes(recording, calls, counted)
    touched = {id(o.root) for call in calls for o in call.operands.values()}
    if id(random.default_generator.dropout_state) in touched:
        reach.watch.entry(vars(random), "default_generator", "the default generator")
    gradients = []
    for tensor in _leaves_with_gradients(reach):
        dropped = _watch_gradient(
            reach, recording, tensor, before.get(id(tensor)), touched, gradients
        )
        changed = changed or dropped
    live = []
    for optimizer, group, used, first, end in updates:
        if id(optimizer) in reach.optimizers and reach.is_live(optimizer):
            live.append((optimizer, group, calls[first:end]))
            if numbers.get((id(optimizer), id(group))) != used:
                recording.refuse("it sets an option of an optimizer before the update")
            if _numbers_of(optimizer, group) is None:
                recording.refuse("it takes an option from an optimizer")
    return Trace(calls, leaves, result, reach, gradients, live, changed, recording)


def _recorded(recording, reach, function, args, kwargs):
    """What the function returns, and (optimizer, group, its numbers, first call, end) of each update; the numbers of
    those whose numbers are not watched."""
    updates, begun = [], []  # of an optimizer, another one may be part

    def listen(optimizer, group, ended):
        if not kernels.is_recording():
            return
        if ended:
            updates.append((*begun.pop(), len(recording.calls)))
        else:
            numbers = _numbers_of(optimizer, group) if reach.is_live(optimizer) else None
            begun.append((optimizer, group, numbers, len(recording.calls)))

    outer, optimizers.listener = optimizers.listener, None
    with recording:
        try:
            optimizers.listener = listen
            return function(*args, **kwargs), updates
        finally:
            optimizers.listener = outer


def _refuse_unseen_changes(recording, calls, tensors):
    """Refuse where a Tensor counts as changed whose memory, or that of a view of it, no call has written: somebody did
    it, in another thread perhaps."""
    written = {id(o.root) for call in calls for o in call.operands.values() if o.writes}
    seen = {id(t._version) for t in tensors if id(root_of(t._array)) in written}
    if any(t._array.size and id(t._version) not in seen for t in tensors):
        recording.refuse("it changes a Tensor in a way that is not recorded")


def _refuse_meeting_roots(recording, calls):
    """Refuse memory that is known as two: the passes compare roots, not addresses."""
    roots = {id(o.root): o.root for call in calls for o in call.operands.values()}
    places = [np.lib.array_utils.byte_bounds(r) for k, r in roots.items() if k not in recording.new]
    last = 0
    for first, end in sorted(p for p in places if p[0] < p[1]):
        if first < last:
            recording.refuse("it reaches memory in two ways that have no array in common")
        last = max(last, end)


def _explain_all(recording, calls, known):
    """Refuse memory of which nothing is known: nobody would notice when it is another. Refuse also what was made in
    the step, but not by a call."""
    made = set(recording.constants)
    for call in calls:
        for operand in call.operands.values():
            root = operand.root
            if id(root) in recording.new:
                if operand.reads and id(root) not in made:
                    recording.refuse(f"{call.kernel} reads what NumPy wrote inside of the step")
            elif id(root) not in known:
                _explain(recording, call, operand)
        made |= {id(o.root) for o in call.operands.values() if o.writes}


def _explain(recording, call, operand):
    if recording.made_by_numpy(operand.array):
        recording.refuse(f"{call.kernel} reads an array that NumPy made inside of the step")
    else:
        recording.refuse(
            f"{call.kernel} reads an array that the function reaches in a way that cannot be watched"
        )


def _watch_gradient(reach, recording, tensor, before, touched, gradients):
    """Watch what the recording was made for; the name of what the next call will find changed, or None."""
    after = tensor.grad
    watch = reach.watch
    if after is before:
        watch.slot(tensor, GRAD, before, "a gradient")
        if before is not None:
            watch.memory(before, ARRAY, before._array, "the memory of a gradient")
            reach.tensors[id(before)] = before
        return None
    if before is None:
        watch.slot(tensor, GRAD, None, "a gradient")
    elif id(root_of(before._array)) in touched:
        recording.refuse("a gradient is read and then replaced")
    else:
        watch.present(tensor, GRAD, "a gradient")
    if after is None:
        return "a gradient"
    gradients.append((tensor, after))
    return None
