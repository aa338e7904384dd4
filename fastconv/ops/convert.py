"""Conversions of dtype, and how a Tensor prints."""

import numpy as np

from fastconv import kernels
from fastconv.autograd import Tensor
from fastconv.ops.common import cast, method
from fastconv.printing import tensor_repr


class device:
    """The device of all Tensors: the CPU. `device("cuda")` is refused with a word of advice."""

    def __init__(self, name="cpu"):
        name = name.type if isinstance(name, device) else str(name)
        if name.split(":")[0] != "cpu":
            raise RuntimeError(f"fastconv computes on the CPU only, not on {name!r}; use 'cpu'")
        self.type = "cpu"
        self.index = None

    def __eq__(self, other):
        return isinstance(other, device)

    def __hash__(self):
        return hash("cpu")

    def __repr__(self):
        return "device(type='cpu')"

    def __str__(self):
        return "cpu"


Tensor.device = property(lambda input: device())


@method("to")
def to(input, *args, dtype=None, device=None, non_blocking=False, copy=False):
    """The Tensor in another dtype: to(float64), to("cpu"), to(other)."""
    for arg in args:
        if isinstance(arg, Tensor):
            dtype = arg.dtype
        elif isinstance(arg, str | globals()["device"]):
            device = arg
        else:
            dtype = arg
    if device is not None:
        globals()["device"](device)
    result = input if dtype is None else cast(input, dtype)
    return result.clone() if copy and result is input else result


@method("type")
def type_(input, dtype=None):
    """The dtype, or the Tensor in another one."""
    return input.dtype if dtype is None else cast(input, dtype)


@method("cpu")
def cpu(input):
    return input


@method("cuda")
def cuda(input, *args, **kwargs):
    raise RuntimeError("fastconv computes on the CPU only: leave out .cuda()")


@method("float")
def float_(input):
    return cast(input, np.float32)


@method("double")
def double(input):
    return cast(input, np.float64)


@method("long")
def long(input):
    return cast(input, np.int64)


@method("int")
def int_(input):
    return cast(input, np.int32)


@method("bool")
def bool_(input):
    return cast(input, np.bool_)


@method("__repr__")
def represent(input):
    kernels.not_recorded("printing a Tensor")
    name = input.grad_fn.name() if input.grad_fn is not None else None
    return tensor_repr(input._array, grad_fn_name=name, requires_grad=input.requires_grad)


@method("__format__")
def format_(input, spec):
    """A Tensor of one element formats as its number."""
    if input._array.ndim == 0 and not input.requires_grad:
        return format(input.item(), spec)
    return format(input.item(), spec) if spec else repr(input)
