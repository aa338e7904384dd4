"""How a Tensor prints: PyTorch's layout, to the letter.

One width is shared by all numbers of a tensor. It is measured on the numbers that will be shown
(three at each end of every axis once the tensor has more than 1000 elements), leaving out zeros,
infinities and NaN. The rules and their defaults are those of PyTorch's ``torch/_tensor_str.py``.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

PREFIX = "tensor("


@dataclass(frozen=True)
class PrintOptions:
    """What `set_printoptions` sets; the meanings and defaults are PyTorch's."""

    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


PROFILES = {
    "default": PrintOptions(),
    "short": PrintOptions(precision=2, edgeitems=2),
    "full": PrintOptions(threshold=math.inf),
}

_options = PrintOptions()


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Change how Tensors print; what is left out stays as it is, but for sci_mode (automatic).

    precision: digits after the point. threshold: elements above which a tensor is summarised.
    edgeitems: items shown at each end of a summarised axis. linewidth: characters per line.
    profile: "default", "short" or "full", applied before the others. sci_mode: True or False to
    force or forbid scientific notation.

    Raises ValueError for an unknown profile or a negative number, TypeError for what is not a
    number.
    """
    global _options
    if profile is not None and profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    given = {
        "precision": precision,
        "threshold": threshold,
        "edgeitems": edgeitems,
        "linewidth": linewidth,
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        wanted = (int, float) if name == "threshold" else int
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    base = _options if profile is None else PROFILES[profile]
    _options = replace(base, **given, sci_mode=sci_mode)


def get_printoptions() -> dict[str, object]:
    """The options in force, as keyword arguments of `set_printoptions`."""
    return asdict(_options)


@contextlib.contextmanager
def printoptions(**options: object) -> Iterator[None]:
    """`set_printoptions` for the length of a ``with`` block."""
    before = get_printoptions()
    set_printoptions(**options)
    try:
        yield
    finally:
        set_printoptions(**before)


class _Formatter:
    """Turns the numbers of one tensor into strings of one width."""

    def __init__(self, shown: np.ndarray):
        self.floating = shown.dtype.kind == "f"
        self.precision = _options.precision
        self.int_mode = True
        self.sci_mode = False
        self.width = 1
        if not self.floating:
            self.width = max((len(str(value)) for value in shown.ravel().tolist()), default=1)
            return
        values = shown[np.isfinite(shown) & (shown != 0)]
        if values.size == 0:
            return
        sizes = np.abs(values).astype(np.float64)
        smallest, largest = float(sizes.min()), float(sizes.max())
        self.int_mode = bool(np.all(values == np.ceil(values)))
        self.sci_mode = (
            largest / smallest > 1000.0 or largest > 1.0e8 or smallest < 1.0e-4
            if _options.sci_mode is None
            else _options.sci_mode
        )
        self.width = max(len(self._number(value)) for value in values.tolist())

    def _number(self, value: float) -> str:
        if not self.floating:
            return str(value)
        if self.sci_mode:
            return f"{value:.{self.precision}e}"
        if self.int_mode:
            return f"{value:.0f}." if math.isfinite(value) else f"{value:.0f}"
        return f"{value:.{self.precision}f}"

    def __call__(self, value: float) -> str:
        return self._number(value).rjust(self.width)


def _summarized(array: np.ndarray) -> np.ndarray:
    """The `edgeitems` first and last items along every axis that is longer than twice that."""
    edge = _options.edgeitems
    kept = [
        np.r_[0:edge, size - edge : size] if size > 2 * edge else np.arange(size)
        for size in array.shape
    ]
    return array[np.ix_(*kept)]


def _vector(array: np.ndarray, indent: int, summarize: bool, number: _Formatter) -> str:
    edge = _options.edgeitems
    if summarize and edge == 0:
        items = ["..."]
    elif summarize and len(array) > 2 * edge:
        items = [number(value) for value in array[:edge].tolist()]
        items += [" ..."]
        items += [number(value) for value in array[-edge:].tolist()]
    else:
        items = [number(value) for value in array.tolist()]
    per_line = max(1, (_options.linewidth - indent) // (number.width + 2))
    lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def _nested(array: np.ndarray, indent: int, summarize: bool, number: _Formatter) -> str:
    """The numbers in brackets; blocks of an N-d tensor are N - 1 line ends apart."""
    if array.ndim == 0:
        return number(array.item())
    if array.ndim == 1:
        return _vector(array, indent, summarize, number)
    edge = _options.edgeitems
    size = len(array)
    cut = summarize and size > 2 * edge
    kept = [*range(edge), *range(size - edge, size)] if cut else range(size)
    blocks = [_nested(array[i], indent + 1, summarize, number) for i in kept]
    if cut:
        blocks.insert(edge, "...")
    separator = "," + "\n" * (array.ndim - 1) + " " * (indent + 1)
    return "[" + separator.join(blocks) + "]"


def _with_suffixes(text: str, suffixes: list[str], indent: int) -> str:
    """Append each suffix on the last line where it fits, else on a line of its own."""
    # PyTorch counts the line end and the comma into a line's length.
    length = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if length + len(suffix) + 2 > _options.linewidth:
            text += ",\n" + " " * indent + suffix
            length = indent + len(suffix)
        else:
            text += ", " + suffix
            length += len(suffix) + 2
    return text + ")"


def tensor_repr(
    array: np.ndarray, *, grad_fn_name: str | None = None, requires_grad: bool = False
) -> str:
    """The text of ``print(tensor)`` for the numbers `array` (floating, integer or bool, any shape).

    A dtype other than float32, int64 and bool is named (``dtype=fastconv.float64``), as are the
    size of an empty tensor, and the node that computed the tensor (``grad_fn=<AddmmBackward>``) or
    ``requires_grad=True``.
    """
    indent = len(PREFIX)
    name = array.dtype.name
    suffixes = []
    if (array.size == 0 and array.ndim != 1) or (array.size > 0 and _options.edgeitems == 0):
        suffixes.append(f"size={tuple(array.shape)}")
    if name not in (("float32",) if array.size == 0 else ("float32", "int64", "bool")):
        suffixes.append(f"dtype=fastconv.{name}")
    if grad_fn_name is not None:
        suffixes.append(f"grad_fn=<{grad_fn_name}>")
    elif requires_grad:
        suffixes.append("requires_grad=True")
    if array.size == 0:
        body = "[]"
    else:
        summarize = array.size > _options.threshold
        number = _Formatter(_summarized(array) if summarize and array.ndim else array)
        body = _nested(array, indent, summarize, number)
    return _with_suffixes(PREFIX + body, suffixes, indent)
