"""Shapes and indices: views of the same memory where PyTorch gives views, copies where it copies."""

import builtins
import itertools
import math

import numpy as np

from fastconv import kernels
from fastconv.autograd import Tensor, record
from fastconv.ops.common import as_tensor, cast, is_floating, joint_dtype, method


def _sizes(sizes):
    """The sizes of view(2, 3) and of view((2, 3)) as a tuple of ints."""
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = sizes[0]
    return tuple([s if type(s) is int else s.__index__() for s in sizes])


def _view(op, input, array, undo):
    """`array` shows input's memory (or a copy, if NumPy had to make one); undo(dy) is the adjoint."""
    shares = array.size == 0 or np.may_share_memory(array, input._array)
    return record(op, array, (input,), lambda dy: (undo(dy),), view_of=input if shares else None)


def _reshaped(op, input, sizes, must_share):
    x = input._array
    try:
        if any([s < -1 for s in sizes]):
            raise ValueError
        if not x.flags.c_contiguous:
            kernels.settle()  # NumPy may copy it
        array = x.reshape(sizes)
    except ValueError:
        raise RuntimeError(f"shape {list(sizes)} is invalid for input of size {x.size}") from None
    shares = x.flags.c_contiguous or x.size == 0 or np.may_share_memory(array, x)
    if must_share and not shares:
        raise RuntimeError(
            "view size is not compatible with input tensor's size and stride; use .reshape(...) instead"
        )
    shape = x.shape
    return record(
        op, array, (input,), lambda dy: (dy.reshape(shape),), view_of=input if shares else None
    )


@method("view")
def view(input, *sizes):
    """The same memory with another shape; one size may be -1."""
    return _reshaped("View", input, _sizes(sizes), True)


@method("view_as")
def view_as(input, other):
    return view(input, *other._array.shape)


@method("reshape")
def reshape(input, *sizes):
    """Another shape: a view where possible, else a copy."""
    return _reshaped("View", input, _sizes(sizes), False)


@method("flatten")
def flatten(input, start_dim=0, end_dim=-1):
    """Axes start_dim to end_dim as one."""
    ndim = input._array.ndim
    if ndim == 0:
        return reshape(input, 1)
    for dim in (start_dim, end_dim):
        if not -ndim <= dim < ndim:
            raise IndexError(f"dim {dim} is out of range for {ndim} axes")
    first, last = start_dim % ndim, end_dim % ndim
    if first > last:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    shape = input._array.shape
    merged = math.prod(shape[first : last + 1])
    return reshape(input, *shape[:first], merged, *shape[last + 1 :])


@method("unflatten")
def unflatten(input, dim, sizes):
    """Axis dim as several axes."""
    shape = input._array.shape
    if not -len(shape) <= dim < len(shape):
        raise IndexError(f"dim {dim} is out of range for {len(shape)} axes")
    dim %= len(shape)
    return reshape(input, *shape[:dim], *sizes, *shape[dim + 1 :])


@method("squeeze")
def squeeze(input, dim=None):
    """Without the axes of one element, or without axis dim if it has one element."""
    shape = input._array.shape
    if dim is None:
        return _reshaped("Squeeze", input, [s for s in shape if s != 1], True)
    if shape and not -len(shape) <= dim < len(shape):
        raise IndexError(f"dim {dim} is out of range for {len(shape)} axes")
    dim = dim % len(shape) if shape else 0
    kept = shape if not shape or shape[dim] != 1 else shape[:dim] + shape[dim + 1 :]
    return _reshaped("Squeeze", input, kept, True)


@method("unsqueeze")
def unsqueeze(input, dim):
    """With an axis of one element before axis dim."""
    x = input._array
    return _view("Unsqueeze", input, np.expand_dims(x, dim), lambda dy: dy.reshape(x.shape))


@method("permute")
def permute(input, *dims):
    """The axes in another order."""
    dims = _sizes(dims)
    order = [d % input._array.ndim for d in dims]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return _view("Permute", input, input._array.transpose(dims), lambda dy: dy.transpose(inverse))


@method("transpose", "swapaxes")
def transpose(input, dim0, dim1):
    """Two axes exchanged."""
    return _view(
        "Transpose", input, input._array.swapaxes(dim0, dim1), lambda dy: dy.swapaxes(dim0, dim1)
    )


@method("t")
def t(input):
    """A matrix transposed."""
    if input._array.ndim > 2:
        raise RuntimeError(
            f"t() wants at most 2 axes, got shape {tuple(input.shape)}; use transpose"
        )
    return _view("T", input, input._array.T, lambda dy: dy.T)


Tensor.T = property(lambda input: _view("Permute", input, input._array.T, lambda dy: dy.T))


@method("expand")
def expand(input, *sizes):
    """Axes of one element repeated, without copying; -1 keeps an axis."""
    x, sizes = input._array, _sizes(sizes)
    if len(sizes) < x.ndim:
        raise RuntimeError(
            f"expand to {sizes} has fewer sizes than the {x.ndim} axes of the Tensor"
        )
    own = (1,) * (len(sizes) - x.ndim) + x.shape
    full = tuple(o if s == -1 else s for s, o in zip(sizes, own, strict=True))
    try:
        array = np.broadcast_to(x, full)
    except ValueError:
        raise RuntimeError(f"shape {x.shape} cannot be expanded to {full}") from None
    from fastconv.ops.common import unbroadcast

    return _view("Expand", input, array, lambda dy: unbroadcast(dy, x.shape))


@method("expand_as")
def expand_as(input, other):
    return expand(input, *other._array.shape)


@method("clone")
def clone(input):
    """A copy, through which gradients pass."""
    x = input._array
    array = kernels.copy(x) if is_floating(input) else kernels.new_copy(x)
    return record("Clone", array, (input,), lambda dy: (dy,))


@method("contiguous")
def contiguous(input):
    """The Tensor itself if its memory is in C order, else a copy that is."""
    return input if input._array.flags.c_contiguous else clone(input)


# ---- indexing -----------------------------------------------------------------------------------------


def _index(key):
    """A NumPy index: Tensors inside become arrays, those of one integer ints; lists are copied."""
    if isinstance(key, tuple):
        return tuple(_index(k) for k in key)
    if isinstance(key, Tensor):
        kernels.not_recorded("indexing with a Tensor")
        key = key._array
    if isinstance(key, np.ndarray) and key.ndim == 0 and key.dtype.kind in "iu":
        return int(key)
    return np.array(key) if isinstance(key, list) else key


def _index_tensors(key):
    """The Tensors of an index: what its backward will read."""
    return [k for k in (key if isinstance(key, tuple) else (key,)) if isinstance(k, Tensor)]


def _is_basic(index):
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        p is None
        or p is Ellipsis
        or isinstance(p, slice | int | np.integer)
        and not isinstance(p, bool)
        for p in parts
    )


def slot(array, index):
    """array[index], an array even where NumPy would give a number."""
    parts = index if isinstance(index, tuple) else (index,)
    return array[index if any(p is Ellipsis for p in parts) else (*parts, Ellipsis)]


def _name(index):
    """PyTorch's name of the last step of a basic index: it takes them one by one."""
    for part in reversed(index if isinstance(index, tuple) else (index,)):
        if isinstance(part, int | np.integer):
            return "Select"
        if part is None:
            return "Unsqueeze"
        if part is not Ellipsis and part != slice(None):
            return "Slice"
    return "Alias"


@method("__getitem__")
def getitem(input, key):
    """input[key]: slices and ints give views, integer or boolean arrays give copies."""
    x, index = input._array, _index(key)
    basic = _is_basic(index)
    if not basic:
        kernels.not_recorded("indexing with an array of indices")
    array = slot(x, index) if basic else x[index]
    if not is_floating(input):
        return record("Index", array, (), None, view_of=input if basic else None)

    def backward(dy):
        dx = kernels.empty_array(x.shape, x.dtype)
        kernels.fill(dx, 0)
        if basic:
            kernels.assign(slot(dx, index), dy)
        else:
            kernels.index_add(dx, index, dy)
        return (dx,)

    name = _name(index) if basic else "Index"
    view_of = input if basic else None
    return record(name, array, (input,), backward, saves=_index_tensors(key), view_of=view_of)


@method("__iter__")
def iterate(input):
    if input._array.ndim == 0:
        raise TypeError("iteration over a 0-d tensor")
    return (getitem(input, i) for i in range(len(input)))


@method("unbind")
def unbind(input, dim=0):
    """The slices along dim."""
    lead = (slice(None),) * (dim % input._array.ndim)
    return tuple(getitem(input, (*lead, i)) for i in range(input._array.shape[dim]))


@method("split")
def split(input, split_size, dim=0):
    """Pieces along dim, of split_size each (the last may be smaller), or of the sizes listed."""
    length = input._array.shape[dim]
    if isinstance(split_size, int):
        if split_size < 1:
            raise ValueError(f"split_size must be positive, got {split_size}")
        sizes = [builtins.min(split_size, length - i) for i in range(0, length or 1, split_size)]
    else:
        sizes = list(split_size)
        if builtins.sum(sizes) != length:
            raise ValueError(f"sizes {sizes} do not sum to {length}")
    lead, pieces, start = (slice(None),) * (dim % input._array.ndim), [], 0
    for size in sizes:
        pieces.append(getitem(input, (*lead, slice(start, start + size))))
        start += size
    return tuple(pieces)


@method("chunk")
def chunk(input, chunks, dim=0):
    """About `chunks` pieces of one size along dim; ValueError for less than one."""
    if chunks < 1:
        raise ValueError(f"chunk wants at least 1 piece, got {chunks}")
    return split(input, builtins.max(1, -(-input._array.shape[dim] // chunks)), dim)


# ---- joining ------------------------------------------------------------------------------------------


def cat(tensors, dim=0, *, op="Cat"):
    """Tensors joined along an axis that exists."""
    tensors = [as_tensor(t, "each of tensors") for t in tensors]
    if not tensors:
        raise ValueError("cat wants at least one Tensor")
    dtype = joint_dtype(tensors)
    tensors = [cast(t, dtype) for t in tensors]
    shapes = [t._array.shape for t in tensors]
    ndim = len(shapes[0])
    if not -ndim <= dim < ndim:
        raise IndexError(f"dim {dim} is out of range for {ndim} axes")
    dim %= ndim
    if any(
        len(s) != ndim or s[:dim] + s[dim + 1 :] != shapes[0][:dim] + shapes[0][dim + 1 :]
        for s in shapes
    ):
        raise RuntimeError(
            f"cat along dim {dim} wants shapes that are equal elsewhere, got {shapes}"
        )
    ends = list(itertools.accumulate(s[dim] for s in shapes))
    slots = [
        (slice(None),) * dim + (slice(e - s[dim], e),) for e, s in zip(ends, shapes, strict=True)
    ]
    array = kernels.empty_array(shapes[0][:dim] + (ends[-1],) + shapes[0][dim + 1 :], dtype)
    for place, t in zip(slots, tensors, strict=True):
        if dtype.kind == "f":
            kernels.assign(array[place], t._array)
        else:
            kernels.not_recorded("joining integers")
            array[place] = t._array
    return record(op, array, tensors, lambda dy: tuple(dy[place] for place in slots))


concat = cat


def stack(tensors, dim=0):
    """Tensors of one shape joined along a new axis."""
    return cat([unsqueeze(as_tensor(t, "each of tensors"), dim) for t in tensors], dim, op="Stack")
