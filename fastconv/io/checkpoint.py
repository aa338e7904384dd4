"""Checkpoints: named Tensors in one safetensors file, which many other tools read as well."""

import json
import os
import secrets
import stat
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from fastconv import kernels
from fastconv.autograd import Tensor
from fastconv.missing import kind

INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
DTYPES = ("float32", "float64", "bool", *INTEGERS)
# A safetensors file sorts its entries; the order in which they were given is a line of metadata.
ORDER = "fastconv.names"
RESERVED = "__metadata__"
PYTORCH = (b"PK", b"\x80\x02")  # how the files of torch.save begin: a zip archive, or a pickle

Path = str | os.PathLike[str]


def _checked_array(name: object, value: object) -> np.ndarray:
    """`value` as an array that lies in memory as the file wants it: dense, little-endian."""
    if not isinstance(name, str):
        raise TypeError(f"the names in a state dict must be strings, got {name!r}")
    if name == RESERVED:
        raise ValueError(f"{RESERVED!r} is not a possible name in a safetensors file")
    if isinstance(value, Mapping | list | tuple):
        raise TypeError(
            f"save takes names and Tensors, as from net.state_dict(), but {name!r} is a "
            f"{type(value).__name__}: nested state, such as an optimizer's, must be flattened first, or go "
            "into a file of its own"
        )
    array = value._array if isinstance(value, Tensor) else value
    if not isinstance(array, np.ndarray | np.generic):
        raise TypeError(f"{name!r} must be a Tensor or a NumPy array, got {kind(value)}")
    if array.dtype.name not in DTYPES:
        raise TypeError(f"{name!r} has dtype {array.dtype}, which a checkpoint cannot hold")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name!r} is a masked array, and a checkpoint cannot hold its mask")
    return np.require(array, array.dtype.newbyteorder("<"), "C")


def _replace_file(path: str, data: bytes) -> None:
    """Write `data` beside `path`, wait until the disk has it, then move it to `path`."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(f"{path} is not a file that could be replaced")
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:
            if os.path.exists(path):
                os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))  # who may read it stays
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def save(state_dict: Mapping[str, Tensor | np.ndarray], path: Path) -> None:
    """Write named Tensors or arrays to the file `path`.

    The file is replaced in one step: whatever fails, what was there before stays whole. Raises
    TypeError for entries that are not Tensors or arrays of numbers, OSError when the file cannot be
    written.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"save takes a state dict, got {type(state_dict).__name__}")
    kernels.not_recorded("saving")
    arrays = {name: _checked_array(name, value) for name, value in state_dict.items()}
    data = to_safetensors(arrays, metadata={ORDER: json.dumps(list(arrays))})
    _replace_file(os.path.realpath(os.fsdecode(path)), data)


def load(
    path: Path, map_location: object = None, *, weights_only: bool = True
) -> OrderedDict[str, Tensor]:
    """The Tensors in the safetensors file `path`, by name, in the order in which they were saved.

    map_location, weights_only: PyTorch's, without effect: Tensors are all that a file holds, and lie in memory.
    Raises FileNotFoundError when there is no such file, ValueError when it is truncated, corrupt or
    of another format; the message names the path.
    """
    path = os.fsdecode(path)
    # where it cannot be opened, the operating system's own error names the path
    with open(path, "rb") as file:
        begins = file.read(2)
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            order = json.loads((file.metadata() or {}).get(ORDER, "[]"))
            arrays = {name: file.get_tensor(name) for name in names}
    except (
        SafetensorError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        cause = f": {error}"
        if begins in PYTORCH:
            cause = (
                ", but seems to be one of torch.save; where PyTorch is, "
                "safetensors.torch.save_file(torch.load(path), new_path) writes its Tensors as a file for load()"
            )
        raise ValueError(f"{path} is not a whole safetensors file{cause}") from error
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise ValueError(
                f"{path}: {name!r} has dtype {array.dtype}, which fastconv does not have"
            )
    if isinstance(order, list) and sorted(map(str, order)) == sorted(names):
        names = order
    return OrderedDict((name, Tensor(kernels.new_copy(arrays[name]))) for name in names)
