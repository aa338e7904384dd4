"""Parameter: a Tensor that a Module owns and an optimizer changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fastconv import kernels
from fastconv.autograd import Tensor
from fastconv.missing import kind


class Parameter(Tensor):
    """A Tensor that counts as a Module's parameter when it is set as an attribute.

    data: a Tensor or array, whose memory is shared; None makes an empty one.
    """

    def __init__(self, data: Tensor | np.ndarray | None = None, requires_grad: bool = True):
        if data is None:
            data = np.empty(0, np.float32)
        if not isinstance(data, Tensor | np.ndarray):
            raise TypeError(f"Parameter takes a Tensor or an array, got {kind(data)}")
        super().__init__(data, requires_grad)
        if isinstance(data, Tensor):
            self._version = data._version

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


def empty_parameter(shape: Sequence[int], device: object, dtype: np.dtype | None) -> Parameter:
    """A Parameter whose numbers are still to be set; float32 unless `dtype` says otherwise.

    Raises ValueError for a device that is not the CPU, TypeError for a dtype that is not floating.
    """
    if device is not None and str(device) != "cpu":
        raise ValueError(f'fastconv computes on the CPU: device must be "cpu", got {device!r}')
    dtype = np.dtype(np.float32 if dtype is None else dtype)
    if dtype.name not in ("float32", "float64"):
        raise TypeError(f"a layer's dtype must be float32 or float64, got {dtype.name}")
    parameter = Parameter(kernels.empty_array(tuple(shape), dtype, for_kernels=False))
    parameter._version[2] = False  # nobody else has the array
    return parameter


def clear_gradients(parameters: Iterable[Tensor], set_to_none: bool) -> None:
    """Fill the gradients that exist with zeros, in place, or forget them.

    Those of frozen parameters, which no backward reaches, are forgotten in any case: an optimizer would move the
    parameters on.
    """
    cleared = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if set_to_none or not parameter.requires_grad:
            parameter.grad = None
        else:
            cleared.append(parameter)
    kernels.zero([parameter.grad._array for parameter in cleared])
    for parameter in cleared:
        parameter.grad._version[0] += 1
