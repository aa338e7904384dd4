"""summary: what each layer of a network makes of its input, and the arithmetic behind the shape.

The network runs once on zeros while somebody stands beside the tape and writes down each operation,
so that functional calls such as ``F.max_pool2d`` are seen as well as layers are.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

import numpy as np

from fastconv import autograd
from fastconv.autograd import Tensor, no_grad
from fastconv.nn import Module, formulas, functional

HEADINGS = ("Layer", "Output shape", "Formula", "Parameters", "Multiply-adds")


@dataclass
class Row:
    """One call of a layer, or of a function between layers."""

    name: str  # dotted name of the layer; "" for a function and for the network itself
    kind: str  # "Conv2d", "max_pool2d", ...
    output_shape: tuple[int, ...] = ()
    formulas: list[str] = field(default_factory=list)
    parameters: int = 0
    multiply_adds: int = 0

    def cells(self) -> list[list[str]]:
        """The lines of text of each column."""
        return [
            [f"{self.name} ({self.kind})" if self.name else self.kind],
            [str(self.output_shape)],
            self.formulas or [""],
            [f"{self.parameters:,}"],
            [f"{self.multiply_adds:,}"],
        ]


@dataclass
class Summary:
    """What `summary` returns; printing it prints the table.

    total_parameters counts each parameter of the network once, also those that no row shows.
    """

    rows: list[Row]
    total_parameters: int
    trainable_parameters: int
    multiply_adds: int

    def __str__(self) -> str:
        cells = [row.cells() for row in self.rows]
        columns = list(zip(*([[h] for h in HEADINGS], *cells), strict=True))
        widths = [max(len(line) for cell in column for line in cell) for column in columns]
        lines = [line for row in ([[h] for h in HEADINGS], *cells) for line in _lines(row, widths)]
        rule = "-" * max(map(len, lines))
        elsewhere = self.total_parameters - sum(row.parameters for row in self.rows)
        totals = [
            f"Parameters: {self.total_parameters:,} ({self.trainable_parameters:,} trainable)",
            f"Multiply-adds: {self.multiply_adds:,}",
        ]
        if elsewhere:
            totals.insert(1, f"Parameters in no row above: {elsewhere:,}")
        return "\n".join([lines[0], rule, *lines[1:], rule, *totals])

    __repr__ = __str__


def _lines(row: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    """The text of one row, as high as its highest cell; the last two columns are numbers."""
    for i in range(max(map(len, row))):
        cells = [cell[i] if i < len(cell) else "" for cell in row]
        padded = [text.ljust(width) for text, width in zip(cells[:3], widths, strict=False)]
        padded += [text.rjust(width) for text, width in zip(cells[3:], widths[3:], strict=True)]
        yield "  ".join(padded).rstrip()


class _Watched:
    """The door, with somebody beside it: `seen` gets each call's name, arguments and result."""

    def __init__(self, door: Any, seen: Callable[[str, tuple, dict, Any], None]):
        self._door, self._seen = door, seen

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._door, name)
        if name not in formulas.KERNELS:
            return function

        def watched(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self._seen(name, args, kwargs, result)
            return result

        return watched


_one_at_a_time = threading.RLock()  # the tape and the door have room for one


class _Observer:
    """Writes a row for every call of a layer and, outside of layers, for every operation."""

    def __init__(self, net: Module):
        self.rows: list[Row] = []
        self._open: list[Row] = []  # the layers that are being called, innermost last
        self._counted: set[int] = set()  # parameters that a row has shown
        self._names = {id(module): name for name, module in net.named_modules()}
        self._explained: tuple[str, formulas.Explained] | None = None  # the last kernel call
        self._thread: int | None = None  # whose calls are written down

    def _mine(self, listener: Callable[..., None]) -> Callable[..., None]:
        """`listener`, deaf to what other threads do."""

        def listen(*args: Any) -> None:
            if self._thread == threading.get_ident():
                listener(*args)

        return listen

    def layer_starts(self, module: Module, args: tuple) -> None:
        row = Row(self._names[id(module)], type(module).__name__)
        for parameter in module.parameters():
            if id(parameter) not in self._counted:
                self._counted.add(id(parameter))
                row.parameters += parameter.numel()
        self.rows.append(row)
        self._open.append(row)

    def layer_ends(self, module: Module, args: tuple, result: Any) -> None:
        row = self._open.pop()
        first = result[0] if isinstance(result, tuple | list) and result else result
        if isinstance(first, Tensor):
            row.output_shape = tuple(first.shape)

    def kernel_called(self, name: str, args: tuple, kwargs: dict, result: Any) -> None:
        y = result[0] if isinstance(result, tuple) else result
        explained = formulas.KERNELS[name](y, *args, **kwargs)
        self._explained = name.removesuffix("_forward"), explained

    def recorded(self, op: str, result: Tensor, inputs: Sequence[Tensor]) -> None:
        shapes = [tuple(tensor.shape) for tensor in inputs]
        shape = tuple(result.shape)
        name, explained = self._explained or formulas.operation(op, shape, shapes)
        self._explained = None
        if self._open:
            row = self._open[-1]
        else:
            row = Row("", name, shape)
            self.rows.append(row)
        row.formulas += explained.lines
        row.multiply_adds += explained.multiply_adds

    @contextlib.contextmanager
    def attached(self, net: Module) -> Iterator[None]:
        """Watch `net`, in evaluation mode and without a tape; afterwards all is as it was."""
        modes = [(module, module.training) for module in net.modules()]
        leaves = [module for module, _ in modes if not module._modules]
        before, handles = (autograd.observer, functional.kernels), []
        try:
            for leaf in leaves:
                handles.append(leaf.register_forward_pre_hook(self._mine(self.layer_starts)))
                handles.append(leaf.register_forward_hook(self._mine(self.layer_ends)))
            # The tape tells the operations; only the calls at the door tell strides and paddings.
            autograd.observer = self._mine(self.recorded)
            functional.kernels = _Watched(functional.kernels, self._mine(self.kernel_called))
            net.eval()
            self._thread = threading.get_ident()
            with no_grad():
                yield
        finally:
            self._thread = None  # a hook that an interrupt leaves behind does nothing
            autograd.observer, functional.kernels = before
            for handle in handles:
                handle.remove()
            for module, mode in modes:
                module.training = mode


def _sizes(input_size: Any) -> list[tuple[int, ...]]:
    """The shapes of the inputs: one shape, or a sequence of shapes."""
    try:
        given = list(input_size)
        many = bool(given) and all(isinstance(size, Sequence) for size in given)
        sizes = [tuple(map(index, size)) for size in (given if many else [given])]
    except TypeError:
        raise TypeError(
            f"input_size must be a shape such as (1, 1, 32, 32), got {input_size!r}"
        ) from None
    if any(extent < 0 for size in sizes for extent in size):
        raise ValueError(f"input_size must not be negative, got {input_size!r}")
    return sizes


def summary(
    net: Module,
    input_size: Sequence[int] | Sequence[Sequence[int]],
    *,
    dtype: np.dtype | None = None,
) -> Summary:
    """A table of the network's steps for inputs of one size: shape, formula, parameters, work.

    input_size: the input's shape with the batch, such as (1, 1, 32, 32), or one shape per input.
    dtype: of the inputs; the parameters' own when left out. A multiply-add is one ``a * b + c`` of
    a convolution or matrix product; biases, activations and pooling are not counted. Each call of
    a layer has a row, in the order of execution, and so has each function or view between layers.
    `net` is left as it was found, and no random numbers are drawn.
    Raises TypeError or ValueError for a wrong argument; what `net` raises passes through.
    """
    if not isinstance(net, Module):
        raise TypeError(f"summary takes a Module, got {type(net).__name__}")
    parameters = list(net.parameters())
    if dtype is None:
        dtype = next((p.dtype for p in parameters), np.dtype("float32"))
    observer = _Observer(net)
    with _one_at_a_time, observer.attached(net):
        net(*(Tensor(np.zeros(size, dtype)) for size in _sizes(input_size)))
    return Summary(
        rows=observer.rows,
        total_parameters=sum(p.numel() for p in parameters),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        multiply_adds=sum(row.multiply_adds for row in observer.rows),
    )
