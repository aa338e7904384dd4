"""The IDX files in which MNIST and its relatives (Fashion-MNIST, EMNIST, KMNIST) are handed out.

A file is: two zero bytes, the code of the type (8: unsigned byte), the number of dimensions, each
dimension as a big-endian 32-bit number, then the values; plain or gzipped. The format is described
at http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import io
import math
import os
import re
import zlib
from pathlib import Path

import numpy as np

from .dataset import TensorDataset

UBYTE = 8
GZIP_RATIO = 1032  # deflate makes at most 1032 bytes out of one
CHUNK = 1 << 20  # bytes
SIDE = 32  # pixels, what `models.Net` takes
NAME = re.compile(r"((?:.*-)?)(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")
WANTED = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}


def read_idx(path: str | os.PathLike, ndim: int | None = None) -> np.ndarray:
    """The array of unsigned bytes in an IDX file, gzipped or plain (seen from the content).

    Nothing is allocated before the size that the header states has been compared with the size of
    the file. Raises ValueError, naming the file, when it is no IDX file of unsigned bytes, is
    truncated, corrupt or too long, or has not `ndim` dimensions; OSError when it cannot be read.
    """
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        zipped = file.peek(2)[:2] == b"\x1f\x8b"
        stream = gzip.GzipFile(fileobj=file) if zipped else file
        try:
            shape, header = _read_header(stream)
            if ndim is not None and len(shape) != ndim:
                raise ValueError(f"{len(shape)} dimensions, expected {ndim}")
            size = math.prod(shape)
            if zipped and size > length * GZIP_RATIO or not zipped and header + size > length:
                raise ValueError(f"truncated: {length} bytes cannot hold {_times(shape)} values")
            data = _read_exactly(stream, size)
            if stream.read(1):
                raise ValueError(f"something follows the {_times(shape)} values")
            return np.frombuffer(data, dtype=np.uint8).reshape(shape)
        except EOFError:
            raise ValueError(f"{path}: truncated gzip file") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: corrupt gzip file ({error})") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _read_header(stream: io.BufferedIOBase) -> tuple[tuple[int, ...], int]:
    """-> (shape, length of the header in bytes)"""
    magic = _read_exactly(stream, 4)
    if magic[:2] != b"\0\0" or magic[3] == 0:
        raise ValueError(f"not an IDX file: it begins with {bytes(magic).hex(' ')}")
    if magic[2] != UBYTE:
        raise ValueError(f"IDX type code {magic[2]:#04x}, expected 0x08 (unsigned byte)")
    sizes = np.frombuffer(_read_exactly(stream, 4 * magic[3]), dtype=">u4")
    return tuple(map(int, sizes)), 4 + 4 * magic[3]


def _read_exactly(stream: io.BufferedIOBase, size: int) -> bytearray:
    data = bytearray()
    while len(data) < size:
        chunk = stream.read(min(CHUNK, size - len(data)))
        if not chunk:
            raise ValueError(f"truncated: ends {size - len(data)} bytes early")
        data += chunk
    return data


def find_idx(folder: str | os.PathLike) -> dict[tuple[str, str], Path]:
    """The four files of a folder: {("train" | "test", "images" | "labels"): path}.

    Their names are as in `WANTED`, also with `.idx3` for `-idx3`, `test` for `t10k`, `.gz` behind
    and a prefix in front (`emnist-digits-train-…`). Files without a prefix come first, then plain
    ones. FileNotFoundError when one is missing, ValueError when the folder has several sets.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(
            f"{folder}: no such folder (looked for {', '.join(WANTED.values())})"
        )
    sets: dict[str, dict] = {}
    for path in sorted(folder.iterdir()):  # plain before .gz
        if match := NAME.fullmatch(path.name):
            prefix, split, kind, _ = match.groups()
            key = ("train" if split == "train" else "test", kind)
            sets.setdefault(prefix, {}).setdefault(key, path)
    if "" not in sets and len(sets) > 1:
        raise ValueError(f"{folder}: several data sets ({', '.join(sets)}), expected one a folder")
    prefix = "" if "" in sets else next(iter(sets), "")
    found = sets.get(prefix, {})
    if missing := [prefix + name for key, name in WANTED.items() if key not in found]:
        raise FileNotFoundError(f"{folder}: no {', '.join(missing)} (or the same with .gz)")
    return found


def load_idx(folder: str | os.PathLike, classes: int = 10) -> tuple[TensorDataset, TensorDataset]:
    """The MNIST-like data set in a folder as (train, test).

    Images are float32 (n, 1, 32, 32): smaller ones get an even border of zeros, then all of them
    are shifted and scaled to the mean 0 and variance 1 of the training images. Labels are int64
    (n,). Raises FileNotFoundError (`find_idx`) and ValueError: a bad file (`read_idx`), images not
    square or above 32 pixels, other labels than images, a label outside 0..classes-1.
    """
    paths = find_idx(folder)
    train = _load_split(paths["train", "images"], paths["train", "labels"], classes)
    test = _load_split(paths["test", "images"], paths["test", "labels"], classes)
    mean, std = _mean_std(train[0])
    return tuple(TensorDataset(_scale(x, mean, std), labels) for x, labels in (train, test))


def _mean_std(images: np.ndarray) -> tuple[float, float]:
    """Of all pixels, from whole numbers, so that every machine gets the same bits."""
    counts = sum(np.bincount(image.ravel(), minlength=256) for image in images).tolist()
    n = images.size
    total = sum(v * count for v, count in enumerate(counts))
    squares = sum(v * v * count for v, count in enumerate(counts))
    return total / n, math.sqrt(n * squares - total**2) / n


def _scale(images: np.ndarray, mean: float, std: float) -> np.ndarray:
    scaled = images.astype(np.float32)
    scaled -= np.float32(mean)
    scaled /= np.float32(std or 1)  # all pixels equal
    return scaled


def _load_split(images_path: Path, labels_path: Path, classes: int) -> tuple:
    """-> images uint8 (n, 1, 32, 32), labels int64 (n,)"""
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    n, height, width = images.shape
    if n == 0 or height != width or not 1 <= height <= SIDE:
        raise ValueError(
            f"{images_path}: {n} images of {height}x{width} pixels, expected one or more, square, "
            f"of at most {SIDE}x{SIDE}"
        )
    if len(labels) != n:
        raise ValueError(f"{labels_path}: {len(labels)} labels for {n} images in {images_path}")
    if labels.max() >= classes:
        raise ValueError(f"{labels_path}: label {labels.max()}, expected 0..{classes - 1}")
    before = (SIDE - height) // 2
    after = SIDE - height - before
    padded = np.pad(images, ((0, 0), (before, after), (before, after)))
    return padded[:, None], labels.astype(np.int64)
