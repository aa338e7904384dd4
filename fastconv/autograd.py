"""The tape: Tensors, the graph of what made them, and `backward`, which walks it in reverse.

    op(x, w) computes an array at the door and calls record(name, array, inputs, backward)
        y.grad_fn = Node(name, edges to the Nodes of x and w, backward)
    y.backward()  calls each Node's closure once, newest first: dy -> (dx, dw)

The tape knows no op: it calls the closures that it was handed. A closure gets the gradient of its result and
returns one gradient (an array) per input, or None. What it returns is a new array, or dy itself, or a view of dy.

In-place changes cannot make a gradient silently wrong: every memory has a version, counted up by each change, the
version of its last recorded change, and whether an array of it, or a `.data`, is in other hands, which change it
without counting. A Node remembers the versions of what its closure will read, a view remembers the version of what
it shows.
"""

import heapq
import itertools
import threading
from contextlib import ContextDecorator

import numpy as np

from fastconv import kernels
from fastconv.missing import advice, kind


class Size(tuple):
    """The shape of a Tensor."""

    __slots__ = ()

    def numel(self):
        """The product of all sizes."""
        count = 1
        for size in self:
            count *= size
        return count

    def __getitem__(self, index):
        part = super().__getitem__(index)
        return Size(part) if isinstance(index, slice) else part

    def __add__(self, other):
        return Size(super().__add__(tuple(other)))

    def __repr__(self):
        return f"fastconv.Size([{', '.join(map(str, self))}])"


# ---- grad mode ------------------------------------------------------------------------------------


class _Mode(threading.local):
    enabled = True


_mode = _Mode()


def is_grad_enabled():
    """Whether operations in this thread are recorded."""
    return _mode.enabled


class set_grad_enabled(ContextDecorator):
    """Switch recording on or off: at once, and for the length of a `with` block, or of a function it decorates."""

    def __init__(self, mode):
        self.mode = bool(mode)
        self.before = _mode.enabled
        _mode.enabled = self.mode

    def __call__(self, function):
        _mode.enabled = self.before  # a decorator switches nothing yet
        return super().__call__(function)

    def _recreate_cm(self):
        return type(self)(self.mode)

    def __enter__(self):
        _mode.enabled = self.mode
        return self

    def __exit__(self, *exception):
        _mode.enabled = self.before


class _Block(ContextDecorator):
    """A context manager or decorator, reentrant, that sets the mode for its extent."""

    mode: bool

    def __new__(cls, function=None):
        block = super().__new__(cls)
        block.before = []
        return block if function is None else block(function)  # @no_grad() or, bare, @no_grad

    def __enter__(self):
        self.before.append(_mode.enabled)
        _mode.enabled = self.mode
        return self

    def __exit__(self, *exception):
        _mode.enabled = self.before.pop()

    def _recreate_cm(self):
        return type(self)()


class no_grad(_Block):
    """Nothing inside is recorded: `with no_grad():`, or as a decorator."""

    mode = False


class enable_grad(_Block):
    """Record inside, within a no_grad block."""

    mode = True


# ---- the graph ------------------------------------------------------------------------------------

_order = itertools.count()


class Node:
    """One recorded operation. `edges`: for each input the Node that made it, the leaf Tensor itself, or None."""

    __slots__ = ("op", "edges", "backward", "saved", "order")

    def __init__(self, op, edges, backward, saved):
        self.op = op
        self.edges = edges
        self.backward = backward
        self.saved = saved  # pairs (version cell, version) of what the closure will read
        self.order = next(_order)

    def name(self):
        return f"{self.op}Backward"

    @property
    def next_functions(self):
        """PyTorch's form: a pair (node, 0) per input; leaves appear as AccumulateGrad nodes."""
        return tuple((AccumulateGrad(e) if isinstance(e, Tensor) else e, 0) for e in self.edges)

    def __repr__(self):
        return f"<{self.name()}>"


class AccumulateGrad:
    """Where the graph ends: the gradient is added to `variable.grad`."""

    def __init__(self, variable):
        self.variable = variable
        self.next_functions = ()

    def name(self):
        return "AccumulateGrad"

    def __repr__(self):
        return "<AccumulateGrad>"


#: Called as observer(op, result, inputs) after every recorded operation, when set: what `summary` listens with.
observer = None


def record(op, array, inputs, backward, saves=(), saves_result=False, view_of=None):
    """The result of an operation as a Tensor, with its place in the graph.

    inputs: the Tensors that the closure returns gradients for, in its order. saves: the Tensors whose arrays the
    closure reads; saves_result: it reads the result too. view_of: the Tensor whose memory the result shows.
    """
    result = _wrap(array)
    if view_of is not None:
        result._version = view_of._version
        result._made_at = view_of._version[0]
    if _mode.enabled:
        edges = _edges(inputs)
        if edges is not None:
            saved = []
            for t in saves:
                saved.append((t._version, t._version[0]))
            if saves_result:
                saved.append((result._version, result._version[0]))
            result.grad_fn = Node(op, edges, backward, saved)
            result.requires_grad = True
    if observer is not None:
        observer(op, result, inputs)
    return result


_STALE = "this Tensor is a view of memory that was changed in place after the view was made; make the view anew"


def _stale(view):
    """Whether the view's own history, or its having none, no longer tells how its numbers came about."""
    changed, tracked, _ = view._version
    return tracked > view._made_at or (view.grad_fn is not None and changed != view._made_at)


def _edges(inputs):
    """For each input the Node that made it, the leaf itself, or None; None altogether if no input requires grad."""
    edges, some = [], False
    for t in inputs:
        made_at = t._made_at
        if made_at is not None and _stale(t):
            raise RuntimeError(_STALE)
        if not t.requires_grad:
            edges.append(None)
        else:
            some = True
            edges.append(t if t.grad_fn is None else t.grad_fn)
    return edges if some else None


def change(target, op, compute, inputs=(), backward=None, saves=(), saves_result=False):
    """An operation in place: compute() writes target's array. `inputs` begins with target when there is a closure."""
    tracked = _mode.enabled and (target.requires_grad or any(t.requires_grad for t in inputs))
    if tracked:
        if target.requires_grad and target.grad_fn is None:
            raise RuntimeError(
                "a leaf Tensor that requires grad cannot be changed in place; use no_grad() or .data"
            )
        if target._made_at is not None:
            raise RuntimeError(
                "a view cannot be changed in place where gradients are recorded; use the op without _"
            )
    elif target._made_at is not None and _stale(target):
        raise RuntimeError(_STALE)
    edges = _edges(inputs) if tracked else None
    saved = [(t._version, t._version[0]) for t in saves if t is not target] if tracked else []
    compute()
    target._bump()
    if tracked:
        if saves_result:
            saved.append((target._version, target._version[0]))
        target.grad_fn = Node(op, edges, backward, saved)
        target.requires_grad = True
        target._version[1] = target._version[0]
    if observer is not None:
        observer(op, target, inputs)
    return target


def _accumulate(leaf, gradient, dy):
    """leaf.grad += gradient. The first one is kept itself, unless somebody else may hold its memory."""
    grad = leaf.grad
    if grad is None:
        shared = gradient is dy or gradient.base is not None
        leaf.grad = _wrap(kernels.copy(gradient) if shared else gradient)
    else:
        kernels.add(grad._array, gradient, out=grad._array)
        grad._version[0] += 1


def _freed():
    return RuntimeError(
        "Trying to backward through the graph a second time: what it saved was freed by the first backward(). "
        "Pass retain_graph=True to the first call"
    )


def _overwritten(node, cell, version):
    return RuntimeError(
        f"a Tensor that {node.name()} needs was changed in place after the forward pass "
        f"(it is at version {cell[0]}, version {version} was recorded)"
    )


def backward(root, gradient, retain_graph=False):
    """Gradients of all leaves below `root`, given root's own (an array). A Node runs when all that used its result
    ran: Nodes are numbered as they are made, so the newest is always ready."""
    if root.grad_fn is None:
        _accumulate(root, gradient, gradient)
        return
    pending = {root.grad_fn: gradient}
    ready = [(-root.grad_fn.order, root.grad_fn)]
    while ready:
        node = heapq.heappop(ready)[1]
        dy = pending.pop(node)
        if node.backward is None:
            raise _freed()
        for cell, version in node.saved:
            if cell[0] != version:
                raise _overwritten(node, cell, version)
        gradients = node.backward(dy)
        for edge, dx in zip(node.edges, gradients):  # noqa: B905 (a closure's length is fixed where it is written)
            if edge is None or dx is None:
                continue
            if isinstance(edge, Tensor):
                _accumulate(edge, dx, dy)
            elif edge in pending:
                pending[edge] = kernels.add(pending[edge], dx)
            else:
                pending[edge] = dx
                heapq.heappush(ready, (-edge.order, edge))
        if not retain_graph:
            node.backward = None
            node.saved = ()


# ---- Tensor -----------------------------------------------------------------------------------------


class Tensor:
    """An array, and where it came from.

    data: a NumPy array (whose memory is shared), or another Tensor; floating-point arrays must be float32 or float64.
    The operations (`t.sum()`, `a + b`, ...) are defined in fastconv.ops and attached there.
    """

    __slots__ = (
        "_array",
        "requires_grad",
        "grad",
        "grad_fn",
        "_version",
        "_made_at",
        "_late",  # who computes _array when somebody asks, where it is not set: compiler/late.py
        "__weakref__",
    )
    __array_priority__ = 1000
    __array_ufunc__ = None  # array + Tensor asks the Tensor

    def __init__(self, data, requires_grad=False):
        version = [0, -1, True]
        if isinstance(data, Tensor):
            version = data._version
            data = data._array
        if not isinstance(data, np.ndarray):
            raise TypeError(
                f"Tensor wants a NumPy array, got {kind(data)}; fastconv.tensor() takes lists too"
            )
        if data.dtype.kind not in "fiub" or data.dtype in (np.float16, np.longdouble):
            raise TypeError(f"fastconv has float32, float64, integers and bool, not {data.dtype}")
        self._array = data
        self.requires_grad = False
        self.grad = None
        self.grad_fn = None
        self._version = version
        self._made_at = None
        self.requires_grad_(requires_grad)

    def requires_grad_(self, requires_grad=True):
        """Ask for the gradient of this leaf, or no longer; returns the Tensor."""
        if requires_grad and self._array.dtype.kind != "f":
            raise RuntimeError(
                f"only floating-point Tensors can require gradients, not {self._array.dtype}"
            )
        if not requires_grad and self.grad_fn is not None:
            raise RuntimeError("only leaves can stop requiring gradients; use detach()")
        self.requires_grad = bool(requires_grad)
        return self

    def _bump(self):
        """Tell the tape that the memory was changed."""
        self._version[0] += 1

    @property
    def is_leaf(self):
        return self.grad_fn is None

    @property
    def data(self):
        """A Tensor of the same memory, without history; the tape does not see what is done to it."""
        tensor = _wrap(self._array)
        self._version[2] = tensor._version[2] = True
        return tensor

    @data.setter
    def data(self, value):
        if not isinstance(value, Tensor):
            raise TypeError(f".data must be a Tensor, got {type(value).__name__}")
        self._array, self._late = value._array, None
        self._version[2] = value._version[2] = True
        self._bump()

    def detach(self):
        """A Tensor of the same memory, without history."""
        tensor = _wrap(self._array)
        tensor._version = self._version
        return tensor

    @property
    def shape(self):
        return Size(self._array.shape)

    def size(self, dim=None):
        """The shape, or the size of one axis."""
        return Size(self._array.shape) if dim is None else self._array.shape[dim]

    @property
    def dtype(self):
        return self._array.dtype

    @property
    def ndim(self):
        return self._array.ndim

    def dim(self):
        return self._array.ndim

    def numel(self):
        return self._array.size

    nelement = numel

    def element_size(self):
        return self._array.itemsize

    def is_contiguous(self):
        return self._array.flags.c_contiguous

    def stride(self, dim=None):
        """Strides in elements."""
        strides = tuple(s // self._array.itemsize for s in self._array.strides)
        return strides if dim is None else strides[dim]

    def numpy(self):
        """The array, its memory shared."""
        if self.requires_grad:
            raise RuntimeError(
                "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
            )
        kernels.not_recorded(".numpy()")
        self._version[2] = True
        return self._array

    def __array__(self, dtype=None, copy=None):
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def item(self):
        """The one number of a Tensor of one element."""
        if self._array.size != 1:
            raise RuntimeError(
                f"a Tensor with {self._array.size} elements cannot be converted to Scalar"
            )
        kernels.not_recorded(".item()")
        return self._array.item()

    def tolist(self):
        kernels.not_recorded(".tolist()")
        return self._array.tolist()

    def backward(self, gradient=None, retain_graph=False, create_graph=False):
        """Add to `.grad` of every leaf the gradient of sum(gradient * self); gradient is 1 for a Tensor of one
        element.

        The graph is freed on the way, unless retain_graph. Raises RuntimeError where there is nothing to
        differentiate, or where an in-place change has overwritten what a gradient needs.
        """
        if create_graph:
            raise NotImplementedError(
                "fastconv differentiates once: create_graph=True is not supported"
            )
        if not self.requires_grad:
            raise RuntimeError("this Tensor does not require grad, and nothing that made it does")
        if gradient is None:
            if self._array.size != 1:
                raise RuntimeError(
                    f"grad can be implicitly created only for scalar outputs; pass backward() a gradient of shape "
                    f"{tuple(self._array.shape)}"
                )
            array = kernels.empty_array(self._array.shape, self._array.dtype)
            kernels.fill(array, 1)
        else:
            array = gradient._array if isinstance(gradient, Tensor) else gradient
            if not isinstance(array, np.ndarray):
                raise TypeError(f"gradient must be a Tensor, got {type(gradient).__name__}")
            if array.shape != self._array.shape:
                raise RuntimeError(
                    f"gradient has shape {array.shape}, but the Tensor has {self._array.shape}"
                )
            if array.dtype != self._array.dtype:
                raise RuntimeError(
                    f"gradient is {array.dtype}, but the Tensor is {self._array.dtype}"
                )
        backward(self, array, retain_graph)

    def __len__(self):
        if self._array.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self._array.shape[0]

    def _scalar(self, kind):
        if self._array.size != 1:
            raise RuntimeError(
                f"{kind} of a Tensor with {self._array.size} elements is ambiguous or impossible"
            )
        kernels.not_recorded(kind)
        return self._array.item()

    def __bool__(self):
        return bool(self._scalar("the truth value"))

    def __float__(self):
        return float(self._scalar("float()"))

    def __int__(self):
        return int(self._scalar("int()"))

    def __index__(self):
        if self._array.dtype.kind not in "iu":
            raise TypeError("only integer Tensors of one element can be converted to an index")
        return self._scalar("an index")

    def __hash__(self):
        return id(self)

    def __reduce__(self):
        if self.grad_fn is not None:
            raise RuntimeError("only leaves can be copied or pickled; use detach()")
        kernels.not_recorded("copying or pickling a Tensor")
        self._version[2] = True
        return type(self), (self._array, self.requires_grad)

    def __deepcopy__(self, memo):
        if self.grad_fn is not None:
            raise RuntimeError("only leaves can be copied or pickled; use detach()")
        kernels.not_recorded("copying or pickling a Tensor")
        copied = type(self)(kernels.new_copy(self._array), self.requires_grad)
        if self.grad is not None:
            copied.grad = _wrap(kernels.new_copy(self.grad._array))
        memo[id(self)] = copied
        return copied

    def __getattr__(self, name):
        if name == "_array":  # which was not there; unless somebody has looked in this moment
            late = getattr(self, "_late", None)
            return Tensor._array.__get__(self) if late is None else late.look(self)
        raise AttributeError(
            f"fastconv's Tensor has no {name!r}"
            + (advice(name) or "; what needs no gradient can be computed on t.detach().numpy()")
            if not name.startswith("__")
            else name
        )


#: Tensors that hold no more than an array, and came from nowhere.
PLAIN = kernels.Plain(
    Tensor,
    "_array",
    {"requires_grad": False, "grad": None, "grad_fn": None, "_made_at": None},
    {"_version": [0, -1, False]},
)
_wrap = PLAIN.make  # a Tensor around an array, unchecked
