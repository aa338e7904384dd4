"""Loading a state dict into named Tensors, all or nothing; reading the arguments of ``to``."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastconv.autograd import Tensor, no_grad
from fastconv.missing import kind

FLOATS = (np.dtype("float32"), np.dtype("float64"))


class IncompatibleKeys(NamedTuple):
    """The names that `load_state_dict` wanted and did not get, and got and did not want."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return (
            f"IncompatibleKeys(missing_keys={self.missing_keys}, "
            f"unexpected_keys={self.unexpected_keys})"
        )


def _entry_error(name: str, own: Tensor, value: Any) -> str | None:
    """Why `value` cannot be copied into `own`, or None."""
    if not isinstance(value, Tensor | np.ndarray | np.generic):
        return (
            f'While copying the parameter named "{name}", expected a Tensor or a NumPy array '
            f"but received {kind(value)}"
        )
    if tuple(value.shape) != tuple(own.shape):
        return (
            f"size mismatch for {name}: copying a param with shape "
            f"{type(own.shape)(value.shape)} from checkpoint, the shape in current model is "
            f"{own.shape}."
        )
    if value.dtype.kind not in "fiub":
        return (
            f'While copying the parameter named "{name}", expected floating, integer or bool '
            f"numbers but received dtype {value.dtype}"
        )
    return None


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def copy_state(
    title: str, own: Mapping[str, Tensor], given: Mapping[str, Any], strict: bool
) -> IncompatibleKeys:
    """Copy the entries of `given` into the Tensors of the same names; `title` names the module.

    All entries are checked before the first is copied. Raises as `Module.load_state_dict` says.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(given)}.")
    missing = [name for name in own if name not in given]
    unexpected = [name for name in given if name not in own]
    errors = []
    if strict and missing:
        errors.append(f"Missing key(s) in state_dict: {_quoted(missing)}. ")
    if strict and unexpected:
        errors.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
    shared = [name for name in own if name in given]
    entry_errors = (_entry_error(name, own[name], given[name]) for name in shared)
    errors += [error for error in entry_errors if error is not None]
    if errors:
        lines = "\n\t".join(errors)
        raise RuntimeError(f"Error(s) in loading state_dict for {title}:\n\t{lines}")
    with no_grad():
        for name in shared:
            value = given[name]
            own[name].copy_(value if isinstance(value, Tensor) else Tensor(np.asarray(value)))
    return IncompatibleKeys(missing, unexpected)


def wanted_dtype(*args: Any, **kwargs: Any) -> np.dtype | None:
    """The floating dtype that the arguments of ``Module.to`` ask for, None if only a device."""
    unknown = kwargs.keys() - {"dtype", "device"}
    if unknown:
        raise TypeError(f"to() takes dtype= and device=, got {', '.join(sorted(unknown))}=")
    wanted = None
    for value in (*args, *kwargs.values()):
        if value is None or str(value) == "cpu":
            continue
        if isinstance(value, str) or type(value).__name__ == "device":
            raise ValueError(f'fastconv computes on the CPU: the device must be "cpu", got {value}')
        try:
            wanted = value.dtype if isinstance(value, Tensor) else np.dtype(value)
        except TypeError:
            raise TypeError(f"to() takes a dtype, a device or a Tensor, got {value!r}") from None
        if wanted not in FLOATS:
            raise TypeError(f"a module's dtype must be float32 or float64, got {wanted}")
    return wanted
