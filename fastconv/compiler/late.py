"""Gradients that are not written until somebody looks at them.

At batch 1 the gradient of a linear layer is the outer product of two vectors, and writing it takes longer than all its
arithmetic. Where only the optimizer's step reads it, that step makes the numbers itself, from the vectors, and a replay
leaves the gradient's Tensor without an array; whoever asks for the array has it computed. Nobody can tell, as long as
nobody else has that array: that is counted, by its references, after each replay. The step also takes over the product
with the weights that the layer's input gets for a gradient, and so walks through them once for both.
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
    order = list(calls)
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
        column, row = (outer.operands[name] for name in "ab")
        if any(
            not private(f.root) or is_written(uses, f.root, users[0], len(calls))
            for f in (column, row)
        ):
            continue
        del step.operands["g"]
        step.words[step.word("g")] = 0
        step.words[step.word("columns")] = outer.number("n")
        step.operands["column"] = replace(column, field="column")
        step.operands["row"] = replace(row, field="row")
        order[users[0]] = None
        late.append(outer)
        written.append(tensor)
        other = _other_gradient(calls, uses, at)
        if other is not None:
            step.operands["dx"] = replace(calls[other].operands["c"], field="dx")
            order[other], order[at] = step, None
    return [call for call in order if call is not None] + late, written


def _other_gradient(calls, uses, at):
    """Where the layer's other gradient, dx = column w, is computed, if the step at `at` can as well do that, there,
    while the rows of w are in the cache; else None."""
    step = calls[at]
    w, column, row = (step.operands[name] for name in ("w", "column", "row"))
    n = step.number("columns")
    before = [i for i in uses.of_root(w.root) if i < at]
    if not before or not _is_product_with(calls[before[-1]], column, w, step.number("n") // n, n):
        return None
    first = before[-1]
    if is_written(uses, column.root, first - 1, at) or is_written(uses, row.root, first - 1, at):
        return None
    moved = [o.root for name, o in step.operands.items() if name == "v"]
    if any(first <= i < at for root in moved for i in uses.of_root(root)):
        return None
    return first


def _is_product_with(call, column, w, m, n):
    """Whether it writes nothing but column w, of m rows of n, all in one piece each."""
    wanted = {"m": 1, "n": n, "k": m, "cs_a": 1, "rs_b": n, "cs_b": 1, "cs_c": 1}
    return (
        call.kernel == "gemm"
        and all(call.number(name) == value for name, value in wanted.items())
        and same(call.operands["a"], column)
        and same(call.operands["b"], w)
        and not call.operands["c"].reads
        and call.real("alpha") == 1
    )


def _is_outer_product(call, result):
    """Whether it writes one, of two vectors that lie each in one piece, to `result`, which is whole."""
    wanted = {"k": 1, "rs_a": 1, "cs_b": 1, "cs_c": 1}
    return (
        call.kernel == "gemm"
        and all(call.number(name) == value for name, value in wanted.items())
        and call.number("rs_c") == call.number("n")
        and same(call.operands["c"], result)
        and not call.operands["c"].reads
        and call.real("alpha") == 1
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
