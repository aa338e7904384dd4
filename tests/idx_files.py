"""Small data sets in the IDX format, for tests."""

import gzip

import numpy as np


def idx(array, code=8):
    """The bytes of an IDX file."""
    header = bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def write_idx_folder(folder, train=40, test=20, side=28, prefix="", zipped=True):
    """Bright squares whose position is their label, under the names of MNIST's files."""
    rng = np.random.default_rng(0)
    for split, n in (("train", train), ("t10k", test)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        images = rng.integers(0, 50, (n, side, side), dtype=np.uint8)
        step = side // 5
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 5)
            image[row * step :, column * step :][:step, :step] = 250
        for kind, array in (("images", images), ("labels", labels)):
            name = f"{prefix}{split}-{kind}-idx{array.ndim}-ubyte"
            data = idx(array)
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)
    return folder
