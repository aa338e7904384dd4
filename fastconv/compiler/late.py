"""Gradients that are not written until somebody looks at them.

At batch 1 the gradient of a linear layer is the outer product of two vectors, and writing it takes longer than all its
arithmetic. Where only the optimizer's step reads it, that step makes the numbers itself, from the vectors, and a replay
leaves the gradient's Tensor without an array; whoever asks for the array has it computed. Nobody can tell, as long as
nobody else has that array: that is counted, by its references, after each replay.
"""

from dataclasses import replace

import numpy as np

from fastconv import kernels
from fastconv.autograd import _wrap
from fastconv.compiler.passes import Uses, is_written, same, whole


def put_last(calls, private, tensors):
    """The calls, those that need not run at once moved to the end, and the Tensors that these write, one each.

    tensors: by the id of its root, the one Tensor of a memory. What the late calls read lies in the plan's own memory,
    which keeps it until the next replay, because the calls are the last.
    """
    uses, late, written = Uses.of(calls), [], []
    for at, step in enumerate(calls):
        gradient = step.operands.get("g")
        if step.kernel != "sgd_step" or not whole(gradient) or id(gradient.root) not in tensors:
            continue
        tensor, users = tensors[id(gradient.root)], uses.of_root(gradient.root)
        if tensor._array is not gradient.root or len(users) != 2 or users[1] != at:
            continue
        outer = calls[users[0]]
        if not _is_outer_product(outer, gradient):
            continue
        factors = [outer.operands[name] for name in "ab"]
        if any(
            not private(f.root) or is_written(uses, f.root, users[0], len(calls)) for f in factors
        ):
            continue
        del step.operands["g"]
        step.words[step.word("g")] = 0
        step.words[step.word("columns")] = outer.number("n")
        for name, factor in zip(("column", "row"), factors, strict=True):
            step.operands[name] = replace(factor, field=name)
        late.append(outer)
        written.append(tensor)
    return [c for c in calls if not any(c is o for o in late)] + late, written


def _is_outer_product(call, result):
    """Whether it writes one, of two vectors that lie each in one piece, to `result`, which is whole."""
    wanted = {"k": 1, "rs_a": 1, "cs_b": 1, "cs_c": 1}
    return (
        call.kernel == "gemm"
        and same(call.operands["c"], result)
        and not call.operands["c"].reads
        and call.real("alpha") == 1
        and all(call.number(name) == value for name, value in wanted.items())
        and call.number("rs_c") == call.number("n")
    )


class Late:
    """What a late call writes: the array of a Tensor, which a replay may leave without it."""

    def __init__(self, tensor, replay, number):
        self.array, self._replay, self._number = tensor._array, replay, number
        tensor._late = None

    def _references(self):
        return kernels.references(self.array)

    def leave(self, tensor):
        """After a replay: take the array out of its Tensor, or, if anybody else has it, have it computed."""
        references = self._references()
        if references == OF_TWO - 1:
            return  # nobody has asked for it since the last one
        if references == OF_TWO and tensor._array is self.array:
            tensor._late = self
            del tensor._array
        else:
            self._replay.run_late(self._number)

    def lose(self, tensor):
        """After a replay that failed, and may have overwritten what the numbers are computed from: zeros."""
        if self._references() == OF_TWO - 1:
            self.array.fill(0)
            tensor._array = self.array

    def look(self, tensor):
        """The array, computed, and again in its Tensor."""
        self._replay.run_late(self._number)
        tensor._array = self.array
        tensor._late = None
        return self.array


def _references_of_two():
    """How many references are counted where a Late and its Tensor have the array, and nobody else."""
    tensor = _wrap(np.empty(0, np.float32))
    return Late(tensor, None, 0)._references()


OF_TWO = _references_of_two()
