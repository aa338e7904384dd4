"""A plan: a list of kernel calls with its memory, its results, and all that it depends on."""

from dataclasses import replace

import numpy as np

from fastconv import kernels
from fastconv.autograd import PLAIN, Node, Tensor, _mode, _stale, is_grad_enabled
from fastconv.compiler import blocks, late, memory, passes, remake, reuse, weights
from fastconv.compiler.reach import ATOMS
from fastconv.compiler.trace import Refused, address, is_sequence, root_of


def _is_lasting(option):
    """Whether an option of an optimizer is another object when it is another number; a list is watched by itself."""
    if isinstance(option, tuple | list):
        return all(map(_is_lasting, option))
    return type(option) in ATOMS or isinstance(option, np.generic)


class Plan(kernels.QuickPlan):
    """What a trace becomes. Raises Refused for a trace that cannot be replayed. What every replay goes through:
    fastconv/door/quick.pxi.
    """

    def __init__(self, trace):
        if trace.recording.refusal:
            raise Refused(trace.recording.refusal)
        self.watch, self.plain = trace.reach.watch, PLAIN
        self.mode, self.grad_enabled = _mode, is_grad_enabled()
        self._inputs = [leaf._array for leaf in trace.leaves]
        self._own = {id(leaf): i for i, leaf in enumerate(trace.leaves)}
        self._reached = trace.reach.tensors
        self.reached = frozenset(self._reached)
        self._new, self._root_of = trace.recording.new, trace.recording.root_of
        self._written_by_calls = {
            id(o.root) for c in trace.calls for o in c.operands.values() if o.writes
        }
        self._slots, self._outputs = {}, []
        self._made, self._versions_of_made = {}, {}
        self.makers = []
        self.gradients = [(leaf, self._new_tensor(grad)) for leaf, grad in trace.gradients]
        self.build = self._result(trace.result)
        self._add_survivors(trace)
        labels = self._labels(trace.calls)
        kept = set(self._slots)
        private = self._is_private(kept, trace.recording)
        calls = remake.remake(passes.shorten(trace.calls, private), private, self._new)
        of_one_name = self._of_one_name()
        self.calls, left = late.put_last(calls, private, of_one_name)
        reuse.in_place(self.calls, private)
        self.weights = weights.make_ready(self.calls, of_one_name, self.watch)
        constants = trace.recording.constants
        fixed = {
            id(o.root)
            for call in self.calls
            for o in call.operands.values()
            if id(o.root) not in self._new or id(o.root) in constants
        }
        self.chains = self._worthwhile(blocks.chains(self.calls, private), fixed)
        relocations, self.arena, self.buffers = memory.place(
            self.calls, self.chains, self._slot_of, fixed
        )
        operands = [o for call in self.calls for o in call.operands.values()]
        written = [o for o in operands if o.writes]
        outside = {id(o.root): o.root for o in written if id(o.root) in fixed}
        self.written_inputs = sorted({self._slot_of(o)[0] for o in written if self._is_input(o)})
        staying = [o for o in operands if id(o.root) in fixed and not self._is_input(o)]
        # where an input is written, nothing that is read may be given as an input either
        avoided = [o.array for o in staying if o.writes or self.written_inputs]
        lefts = {id(tensor._array) for tensor in left}  # held by their Lates alone
        staying = [o for o in staying if id(o.root) not in lefts]
        self._written = [o.array for o in staying if o.writes]
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
        self.numbers = None if self._live else kernels.Watch()
        self.replay = kernels.Replay(
            [(call.kernel, call.dtype, call.words) for call in self.calls],
            relocations,
            self._inputs,
            self._outputs,
            [self.arena, [o.root for o in staying], *constants.values()],
            avoided,
            self._versions(outside),
            labels,
            [chain.recorded() for chain in self.chains],
            len(left),
        )
        self.late = [(t, kernels.Late(self.replay, i, t)) for i, t in enumerate(left)]
        for tensor, its_late in self.late:
            self.watch.may_be_late(tensor, its_late)
        for call in self.calls:  # a plan does not hold the batch it was recorded with
            for name, operand in call.operands.items():
                root = id(operand.root)
                if self._is_input(operand) or root not in fixed or root in lefts:
                    form = kernels.form_of(operand.array)
                    call.operands[name] = replace(operand, array=form, root=form)
        self._lie_already = self._inputs, self._outputs
        del (
            self._new,
            self._root_of,
            self._reached,
            self._inputs,
            self._outputs,
            self._made,
            self._versions_of_made,
        )

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

    def _is_input(self, operand):
        place = self._slot_of(operand)
        return place is not None and place[0] < len(self._inputs)

    def _of_one_name(self):
        """By the id of their root, the Tensors of memory that goes by no other version, and is no input's."""
        found, several = {}, {id(root_of(array)) for array in self._inputs}
        for tensor in self._reached.values():
            other = found.setdefault(id(root_of(tensor._array)), tensor)
            if other._version is not tensor._version:
                several.add(id(root_of(tensor._array)))
        return {key: tensor for key, tensor in found.items() if key not in several}

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

    def _labels(self, calls):
        """Where class labels lie that are there before a replay: (slot, offset, count, classes, ignored)."""
        found = []
        for call in calls:
            if call.kernel == "nll_loss" and id(call.operands["target"].root) not in self._new:
                target = call.operands["target"]
                slot, offset = self._slot_of(target) or (-1, address(target.root) + target.offset)
                count = call.number("N") * call.number("inner")
                found.append((slot, offset, count, call.number("C"), call.number("ignore_index")))
        return found

    def _worthwhile(self, chains, fixed):
        """The chains, if threads share them; else those of pointwise calls alone, and the others if the plan needs less
        memory with them. Where its gradients need as much, they only find less of it in the caches."""
        pointwise = [c for c in chains if c.is_pointwise]
        if kernels.get_num_threads() > 1 or len(pointwise) == len(chains):
            return chains
        with_them, without = (
            memory.lay_out(memory.lifetimes(self.calls, c, self._slot_of, fixed).values())
            for c in (chains, pointwise)
        )
        own = sum(c.own_bytes for c in chains if not c.is_pointwise)
        return chains if with_them + own < without else pointwise

    # ---- results -------------------------------------------------------------------------------------

    def _add_survivors(self, trace):
        """What else is still there of what the calls are to write: somebody may have it, where it was recorded."""
        for key, root in self._new.items():
            if (
                key in self._written_by_calls
                and key not in trace.recording.constants
                and trace.recording.is_alive(root)
            ):
                self._output_slot(root)

    def _output_slot(self, root):
        """The number of the output array that stands for this root."""
        slot = self._slots.setdefault(id(root), len(self._slots))
        if slot == len(self._outputs):
            self._outputs.append(root)
        return slot

    def _output(self, tensor):
        """The number of the output array in which this Tensor lies, and a function of it that gives the Tensor's; None
        for the whole."""
        array = tensor._array
        root = self._root_of(array)
        if id(root) not in self._new or root.size and id(root) not in self._written_by_calls:
            raise Refused("it returns an array that was not computed by the kernels")
        slot = self._output_slot(root)
        if array.base is None:
            return slot, None
        shape, strides, offset = array.shape, array.strides, address(array) - address(root)
        dtype = array.dtype
        return slot, lambda output: np.ndarray(shape, dtype, output, offset, strides)

    def _new_tensor(self, tensor):
        """The number, among the Tensors that a replay makes, of the one that stands for this one."""
        if id(tensor) in self._made:
            return self._made[id(tensor)]
        if type(tensor) is not Tensor or tensor.requires_grad and tensor.grad_fn is None:
            raise Refused(f"it returns a new {type(tensor).__name__} that is a leaf")
        if tensor.grad_fn is not None and tensor.grad_fn.backward is not None:
            raise Refused(
                "it returns a Tensor whose graph is not walked by a backward() inside of it; return .detach(), "
                "or call it under no_grad()"
            )
        if tensor._made_at is not None and _stale(tensor):
            raise Refused("it returns a view of what was changed after the view was made")
        number = self._made[id(tensor)] = len(self.makers)
        shared = self._versions_of_made.setdefault(id(tensor._version), number)
        # backward() was called inside of the step
        spent = tensor.grad_fn and Node(tensor.grad_fn.op, (), None, ())
        is_view = tensor._made_at is not None
        self.makers.append((*self._output(tensor), spent, shared, is_view))
        return number

    def _result(self, value):
        """A function (new tensors, leaves) -> what the step returns."""
        if isinstance(value, Tensor):
            return self._tensor(value)
        if is_sequence(value):
            parts = [self._result(v) for v in value]
            make = getattr(type(value), "_make", type(value))
            return lambda made, leaves: make([part(made, leaves) for part in parts])
        if type(value) is dict:
            entries = {k: self._result(v) for k, v in value.items()}
            return lambda made, leaves: {k: v(made, leaves) for k, v in entries.items()}
        if value is None or isinstance(value, bool | int | float | str):
            return lambda made, leaves: value
        raise Refused(f"it returns a {type(value).__name__}")

    def _tensor(self, tensor):
        if id(tensor) in self._own:
            own = self._own[id(tensor)]
            return lambda made, leaves: leaves[own]
        if id(tensor) in self._reached:
            return lambda made, leaves: tensor
        number = self._new_tensor(tensor)
        return lambda made, leaves: made[number]

    # ---- the numbers of optimizers -------------------------------------------------------------------

    @staticmethod
    def _structure(optimizer, group):
        """Which numbers are zero decides which calls there are; None if one is not a number."""
        return tuple(value != 0 for value in optimizer._numbers(group).values())

    def refresh(self):
        """Write the optimizers' numbers into their calls; False if they change the calls."""
        self.numbers = None
        written, lasting = kernels.Watch(), True
        for optimizer, group, calls, structure in self._live:
            # watched before they are read: another thread may change them meanwhile
            for option in optimizer.live_options:
                written.entry(group, option, option)
                if isinstance(group[option], list):
                    written.items(group[option], option)
                lasting &= _is_lasting(group[option])
            numbers = optimizer._numbers(group)
            if tuple(value != 0 for value in numbers.values()) != structure:
                return False
            for at in calls:
                for name, value in numbers.items():
                    if any(f == name for _, f, _, _ in kernels.FIELDS[self.calls[at].kernel]):
                        self.replay.set_number(at, self.calls[at].word(name), value)
        self.numbers = written if lasting else None
        return True

    # ---- running -------------------------------------------------------------------------------------

    def run_put_off(self):
        """Run the calls for the recording, if it is still putting them off: on its inputs, into its results."""
        self.replay.run(*self._lie_already, [])
        del self._lie_already  # no plan holds the batch that it was recorded with

    @property
    def written(self):
        """The arrays that it writes, besides inputs, results, and its own."""
        return [*self._written, *(tensor._array for tensor, _ in self.late)]

    def nanoseconds(self):
        return self.replay.nanoseconds()
