"""A plan: a list of kernel calls with its memory, its results, and all that it depends on."""

import numpy as np

from fastconv import kernels
from fastconv.autograd import Node, Tensor, _wrap, is_grad_enabled
from fastconv.compiler import memory, passes, weights
from fastconv.compiler.trace import Refused, address, root_of

CONTAINERS = (tuple, list)


class Plan:
    """What a trace becomes. Raises Refused for a trace that cannot be replayed.

    fits(arrays) says whether it holds for these inputs now; run(arrays, leaves) replays it and returns what the
    function returned.
    """

    def __init__(self, trace):
        if trace.recording.refusal:
            raise Refused(trace.recording.refusal)
        self.watch = trace.reach.watch
        self.grad_enabled, self.isa = is_grad_enabled(), kernels.isa()
        self._inputs = [leaf._array for leaf in trace.leaves]
        self._own = {id(leaf): i for i, leaf in enumerate(trace.leaves)}
        self._reached = trace.reach.tensors
        self._new = trace.recording.new
        self._slots, self._outputs = {}, []
        self.gradients = [(leaf, self._output(grad)) for leaf, grad in trace.gradients]
        self._build = self._result(trace.result)
        kept = set(self._slots) | {id(root_of(g._array)) for _, g in trace.gradients}
        self.calls = passes.shorten(trace.calls, self._is_private(kept, trace.recording))
        outside = {id(root_of(t._array)): t for t in self._reached.values()}
        self._weights = weights.make_ready(self.calls, outside, self.watch)
        constants = trace.recording.constants
        fixed = {
            id(o.root)
            for call in self.calls
            for o in call.operands.values()
            if id(o.root) not in self._new or id(o.root) in constants
        }
        relocations, self.arena, self.buffers = memory.place(self.calls, self._slot_of, fixed)
        written = [o for call in self.calls for o in call.operands.values() if o.writes]
        outside = {id(o.root): o.root for o in written if id(o.root) in fixed}
        self.written = list(outside.values())
        self._live = [
            (optimizer, group, calls, self._structure(optimizer, group))
            for optimizer, group, calls in (
                (
                    optimizer,
                    group,
                    [i for i, c in enumerate(self.calls) if any(c is o for o in own)],
                )
                for optimizer, group, own in trace.live
            )
        ]
        self._numbers = None  # a Watch of the options that were written last
        self._replay = kernels.Replay(
            [(call.kernel, call.dtype, call.words) for call in self.calls],
            relocations,
            self._inputs,
            [(root.shape, root.dtype) for root in self._outputs],
            [self.arena, list(fixed), [o.root for c in self.calls for o in c.operands.values()]],
            self.written,
            self._versions(outside),
        )
        del self._new, self._reached

    # ---- what lies where -----------------------------------------------------------------------------

    def _slot_of(self, operand):
        """(slot, offset) of an operand in an input or an output, or None."""
        if id(operand.root) in self._slots:
            return len(self._inputs) + self._slots[id(operand.root)], operand.offset
        if id(operand.root) in self._new:
            return None
        place = address(operand.root) + operand.offset
        for i, array in enumerate(self._inputs):
            first, last = np.lib.array_utils.byte_bounds(array)
            if first <= place < last:
                return i, place - address(array)
        return None

    def _is_private(self, kept, recording):
        """Whether nothing but the calls sees the memory of a root."""
        return lambda root: (
            id(root) in recording.new
            and id(root) not in kept
            and id(root) not in recording.constants
        )

    def _versions(self, outside):
        """The versions of the Tensors whose memory the plan writes."""
        tensors = [t for t in self._reached.values() if id(root_of(t._array)) in outside]
        return list({id(t._version): t._version for t in tensors}.values())

    # ---- results -------------------------------------------------------------------------------------

    def _output(self, tensor):
        """A function of the output arrays that gives the array of this Tensor."""
        array = tensor._array
        root = root_of(array)
        if id(root) not in self._new:
            raise Refused("it returns an array that was not computed by the kernels")
        slot = self._slots.setdefault(id(root), len(self._slots))
        if slot == len(self._outputs):
            self._outputs.append(root)
        if array is root:
            return lambda outputs: outputs[slot]
        shape, strides, offset = array.shape, array.strides, address(array) - address(root)
        dtype = array.dtype
        return lambda outputs: np.ndarray(shape, dtype, outputs[slot], offset, strides)

    def _result(self, value):
        """A function (outputs, leaves) -> what the step returns."""
        if isinstance(value, Tensor):
            return self._tensor(value)
        if type(value) in CONTAINERS:
            parts, kind = [self._result(v) for v in value], type(value)
            return lambda outputs, leaves: kind([part(outputs, leaves) for part in parts])
        if type(value) is dict:
            entries = {k: self._result(v) for k, v in value.items()}
            return lambda outputs, leaves: {k: v(outputs, leaves) for k, v in entries.items()}
        if value is None or isinstance(value, bool | int | float | str):
            return lambda outputs, leaves: value
        raise Refused(f"it returns a {type(value).__name__}")

    def _tensor(self, tensor):
        if id(tensor) in self._own:
            own = self._own[id(tensor)]
            return lambda outputs, leaves: leaves[own]
        if id(tensor) in self._reached:
            return lambda outputs, leaves: tensor
        if tensor.grad_fn is not None and tensor.grad_fn.backward is not None:
            raise Refused(
                "it returns a Tensor whose graph is not walked by a backward() inside of it; return .detach(), "
                "or call it under no_grad()"
            )
        array = self._output(tensor)
        if tensor.grad_fn is None:
            return lambda outputs, leaves: _wrap(array(outputs))
        spent = Node(tensor.grad_fn.op, (), None, ())  # backward() was called inside of the step

        def with_history(outputs, leaves):
            result = _wrap(array(outputs))
            result.requires_grad, result.grad_fn = True, spent
            return result

        return with_history

    # ---- the numbers of optimizers -------------------------------------------------------------------

    @staticmethod
    def _structure(optimizer, group):
        """Which numbers are zero decides which calls there are; None if one is not a number."""
        return tuple(value != 0 for value in optimizer._numbers(group).values())

    def _refresh(self):
        """Write the optimizers' numbers into their calls where they changed; False if they change the calls."""
        if self._numbers is not None and self._numbers.changed() is None:
            return True
        self._numbers = None
        written = kernels.Watch()
        for optimizer, group, calls, structure in self._live:
            numbers = optimizer._numbers(group)
            if tuple(value != 0 for value in numbers.values()) != structure:
                return False
            for option in optimizer.live_options:
                written.entry(group, option, group[option], option)
            for at in calls:
                for name, value in numbers.items():
                    if any(f == name for _, f, _, _ in kernels.FIELDS[self.calls[at].kernel]):
                        self._replay.set_number(at, self.calls[at].word(name), value)
        self._numbers = written
        return True

    # ---- running -------------------------------------------------------------------------------------

    def fits(self, arrays):
        return (
            self._replay.accepts(arrays)
            and self.watch.changed() is None
            and is_grad_enabled() is self.grad_enabled
            and kernels.isa() == self.isa
            and self._refresh()
        )

    def run(self, arrays, leaves):
        for ready in self._weights:
            ready.refresh()
        outputs = self._replay.run(arrays)
        for leaf, array in self.gradients:
            leaf.grad = _wrap(array(outputs))
        return self._build(outputs, leaves)

    def nanoseconds(self):
        return self._replay.nanoseconds()
