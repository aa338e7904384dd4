"""Results that are made again for the backward pass, rather than kept for it from the forward pass.

Where to make a result costs little more than to read it, and what it is made of is there anyway: those of batch
normalisations, whose gradients keep inputs and statistics (what they add is kept too, or made again before), and of
convolutions of few channels. No more of them than it takes to bring down the memory that is needed at one time. After
Chen et al., arXiv 1604.06174.
"""

import math
from dataclasses import replace

import numpy as np

from fastconv import kernels
from fastconv.compiler.passes import Uses, is_written, same, whole
from fastconv.compiler.trace import Call, Operand

LEAST_BYTES = 1 << 18  # of a result: with less, it may still be in the L2 cache
MOST_PRODUCTS = 32  # of a convolution, for each of its results
NEARLY = 1.03  # times the least memory is as good


def remake(calls, private, new):
    """The calls, with some more that make results again. private: as in passes.py; new: by id, the roots that the plan
    finds places for."""
    if not any("backward" in call.kernel for call in calls):
        return calls
    _write_elsewhere(calls, private, new)
    lives = _Lives(calls, private)
    if not lives.makers:
        return calls
    peaks, divisions = [], []
    while True:
        needed, time = lives.peak()
        peaks.append(needed)
        division = lives.division(time)
        if division is None:
            break
        lives.divide(*division)
        divisions.append(division)
    lives = _Lives(calls, private)
    for division in divisions[: next(i for i, n in enumerate(peaks) if n <= NEARLY * min(peaks))]:
        lives.divide(*division)
    return lives.calls_with_more(new)


def _write_elsewhere(calls, private, new):
    """Where a normalisation writes over what it adds, give its result memory of its own: then both can be made again.
    If they are not, reuse.py brings them together."""
    uses = Uses.of(calls)
    for at, call in enumerate(calls):
        if call.kernel != "batch_norm_forward" or "residual" not in call.operands:
            continue
        y = call.operands["y"]
        if not (same(call.operands["residual"], y) and private(y.root) and whole(y)):
            continue
        if uses.writes[id(y.root)][-1] == at:
            root = _new_root(y, new)
            call.operands["y"] = replace(y, root=root)
            for i in uses.reads[id(y.root)]:
                if i > at:
                    _read_instead(calls[i], y.root, root)


class _Lives:
    """When the results of calls are needed. One that is made again has several lives: from its maker on, and from each
    time on when it is made again, until it is read last.

    Times are numbers of calls. A call that repeats number m is put before another one, after those that repeat earlier
    ones: its time is a fraction that grows with m. makers: of the results that can be made again, by the id of their
    root.
    """

    def __init__(self, calls, private):
        self.calls, self.private, self.uses = calls, private, Uses.of(calls)
        operands = [o for call in calls for o in call.operands.values() if private(o.root)]
        self.bytes = {id(o.root): o.root.nbytes for o in operands}
        self.makers = {}
        for at, call in enumerate(calls):
            if self._is_cheap(at, call):
                self.makers[id(call.operands["y"].root)] = at
                self._let_gradient_find_out(at, call)
        self.reads = {key: set(self.uses.reads.get(key, ())) for key in self.bytes}
        self.begins = {key: [] for key in self.makers}  # of lives after the first
        self._found = {}  # lives, by the id of the root

    def _is_cheap(self, at, call):
        """Whether the call's result can be made again at little cost, and is worth it."""
        if call.kernel == "conv2d_forward":
            products = call.number("C") * call.number("R") * call.number("S")
            if call.number("groups") > 1 or products > MOST_PRODUCTS or call.number("relu_pool"):
                return False
        elif call.kernel != "batch_norm_forward":
            return False
        y = call.operands["y"]
        if not (self.private(y.root) and whole(y) and y.array.nbytes >= LEAST_BYTES):
            return False
        readers = self.uses.reads.get(id(y.root), [at])
        return (
            self.uses.writes[id(y.root)] == [at]
            and min(readers) > at
            and all(
                same(o, y)
                for i in readers
                for o in self.calls[i].operands.values()
                if o.root is y.root
            )
        )

    def _let_gradient_find_out(self, at, norm):
        """Where relu gave 0, a gradient of a normalisation sees from what that was made of, too; then it need not read
        the result."""
        if (
            not (norm.kernel == "batch_norm_forward" and norm.number("relu"))
            or "residual" in norm.operands
        ):
            return
        y = norm.operands["y"]
        for i in self.uses.reads[id(y.root)].copy():
            call = self.calls[i]
            asked = [name for name, o in call.operands.items() if o.root is y.root]
            if (
                call.kernel == "batch_norm_backward"
                and asked == ["y"]
                and all(_alike(call, norm, name) for name in ("x", "w", "mean", "invstd"))
                and self._keeps_sources(norm, at, i)
            ):
                del call.operands["y"]
                call.words[call.word("y")], call.words[call.word("relu")] = 0, 1
                if "b" in norm.operands:
                    call.operands["b"] = replace(norm.operands["b"])
                self.uses.reads[id(y.root)].remove(i)

    def _keeps_sources(self, call, at, last):
        """Whether nothing that the call at `at` reads, or what it left for gradients, is written up to call `last`."""
        return not any(is_written(self.uses, root, at, last) for root in _sources(call))

    def peak(self):
        """(bytes, time) where most is needed."""
        changes = {}
        for key, size in self.bytes.items():
            for life in self._lives(key):
                begin, end = (life[0], 0), (life[-1], 1)
                changes[begin] = changes.get(begin, 0) + size
                changes[end] = changes.get(end, 0) - size
        order = sorted(changes)
        needed = np.cumsum([changes[moment] for moment in order])
        return int(needed.max()), order[int(needed.argmax())][0]

    def _lives(self, key):
        """The times of each life, the first being that of its making."""
        if key not in self._found:
            begins = sorted(self.begins.get(key, ()))
            times = sorted({*self.uses.writes.get(key, ()), *self.reads[key], *begins})
            bounds = zip([-1, *begins], [*begins, len(self.calls)], strict=True)
            lives = [[time for time in times if begin <= time < end] for begin, end in bounds]
            self._found[key] = [life for life in lives if life]
        return self._found[key]

    def division(self, time):
        """(key, begin) of another life for a result that is kept at that time for later, or None. Normalisations, large
        results and late ones first."""
        found = []
        for key, at in self.makers.items():
            for life in self._lives(key):
                later = [i for i in life if i > time]
                if life[0] < time and later and time not in life:
                    begin = math.ceil(later[0]) - 1 + (at + 1) / (len(self.calls) + 1)
                    if begin > time and self._can_be_made(at, later):
                        found.append((self.calls[at].kernel, -self.bytes[key], -at, key, begin))
        return min(found)[-2:] if found else None

    def divide(self, key, begin):
        """Let the result be made again at that time."""
        self.begins[key].append(begin)
        self._found.pop(key, None)
        for root in _sources(self.calls[self.makers[key]]):
            if self.private(root):
                self.reads[id(root)].add(begin)
                self._found.pop(id(root), None)

    def _can_be_made(self, at, life):
        """Whether all that the result was made of is then what it was, and is there, or can be made again itself."""
        call = self.calls[at]
        return self._keeps_sources(call, at, life[-1]) and all(
            id(root) in self.makers or max(self.reads[id(root)], default=-1) >= life[0]
            for root in _sources(call)
            if self.private(root)
        )

    def calls_with_more(self, new):
        """The calls, and before them those that make results again."""
        by_time = dict(enumerate(self.calls))
        for key, at in sorted(
            self.makers.items(), key=lambda item: -item[1]
        ):  # what reads it is there then
            y = self.calls[at].operands["y"].root
            for begin, *times in self._lives(key):
                if begin in self.begins[key]:
                    again = _again(self.calls[at], new)
                    for time in times:
                        _read_instead(by_time[time], y, again.operands["y"].root)
                    by_time[begin] = again
        return [by_time[time] for time in sorted(by_time)]


def _sources(call):
    """The roots of what a result is made of; of a normalisation's, by batch_norm_again."""
    names = ("x", "w", "b", "residual", "mean", "invstd")
    return [call.operands[name].root for name in names if name in call.operands]


def _alike(call, other, name):
    """Whether both have one array in a field, or none."""
    if name not in call.operands or name not in other.operands:
        return name not in call.operands and name not in other.operands
    return same(call.operands[name], other.operands[name])


def _again(call, new):
    """The call that makes the result of this one once more, in memory of its own."""
    if call.kernel == "batch_norm_forward":
        words = np.zeros(sum(count for *_, count in kernels.FIELDS["batch_norm_again"]), np.int64)
        again = Call("batch_norm_again", call.dtype, words, {})
        for name in ("N", "C", "inner", "relu"):
            words[again.word(name)] = call.number(name)
        for name in ("x", "w", "b", "residual", "mean", "invstd"):
            if name in call.operands:
                again.operands[name] = replace(call.operands[name], kind="IN")
    else:
        again = replace(call, words=call.words.copy(), operands=dict(call.operands))
    root = _new_root(call.operands["y"], new)
    again.operands["y"] = Operand("OUT", "y", root, root, 0)
    return again


def _new_root(operand, new):
    root = kernels.form_of(operand.array)
    new[id(root)] = root
    return root


def _read_instead(call, root, other):
    for name, operand in call.operands.items():
        if operand.root is root and operand.reads:
            call.operands[name] = replace(operand, root=other)
