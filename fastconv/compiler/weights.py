"""Weights that no call of a plan writes, as at inference: made ready once, and again when they have changed."""

from dataclasses import replace

from fastconv import kernels


class ReadyWeights:
    """The weights of one convolution in the form that its algorithm reads; `version` counts changes of the
    original."""

    def __init__(self, call, version):
        self._words, self._double, self._version = call.words.copy(), call.dtype == 1, version
        self._count = version[0]
        self.ready = kernels.prepare_recorded(self._words, self._double)

    def refresh(self):
        count = self._version[0]  # before they are read: another thread may change them meanwhile
        if count != self._count:
            kernels.prepare_recorded(self._words, self._double, self.ready[0])
            self._count = count


def make_ready(calls, tensors, watch):
    """Let the convolutions among the calls read weights that are ready. tensors: those outside, by the id of their
    root.

    Only weights of which nobody else has the array: a change of it through NumPy would not be noticed. Returns the
    ReadyWeights, which are to be refreshed before each replay.
    """
    written = {id(o.root) for call in calls for o in call.operands.values() if o.writes}
    found = []
    for call in calls:
        if call.kernel != "conv2d_forward" or call.number("prepared"):
            continue
        operand = call.operands["w"]
        tensor = tensors.get(id(operand.root))
        if tensor is None or id(operand.root) in written or tensor._version[2]:
            continue
        weights = ReadyWeights(call, tensor._version)
        if weights.ready is None:
            continue
        array, algorithm, form = weights.ready
        call.words[call.word("algorithm")], call.words[call.word("prepared")] = algorithm, form
        call.operands["w"] = replace(operand, array=array, root=array, offset=0)
        watch.item(tensor._version, 2, False, "who has the array of a weight")
        found.append(weights)
    return found
