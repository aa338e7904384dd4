"""1,797 handwritten digits, in the package: the test set of the UCI optical digits.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49. Licence CC BY 4.0. The copy is scikit-learn's;
`DIGITS.md` beside this file says what was changed.
"""

from pathlib import Path

import numpy as np

from .dataset import TensorDataset

FILE = Path(__file__).with_name("digits.npz")
TRAIN = 1437
SIZE, FACTOR, BORDER = 8, 3, 4  # pixels: 4 + 3 * 8 + 4 = 32
MEAN, STD = 2.75, 4.66  # of the pixels of the training images, rounded


def _enlarged(scans: np.ndarray) -> np.ndarray:
    """uint8 (n, 8, 8) -> float32 (n, 24, 24), by bilinear interpolation.

    Pixel i lies at c = (i + 0.5) / 3 - 0.5 of the scan, beyond whose border the edge is repeated;
    its weights (1 - |c - j|) are thirds. Times 9 everything is a whole number: the result is exact
    up to the one division.
    """
    c = np.clip((np.arange(SIZE * FACTOR) + 0.5) / FACTOR - 0.5, 0, SIZE - 1)
    thirds = np.maximum(0, FACTOR * (1 - np.abs(c[:, None] - np.arange(SIZE)))).round()
    return (thirds @ scans @ thirds.T / FACTOR**2).astype(np.float32)


def load_digits(raw: bool = False) -> tuple[TensorDataset, TensorDataset]:
    """The digits as (train, test), 1,437 and 360 of them, always the same ones.

    Images are float32 (n, 1, 32, 32): each 8x8 scan of values v = 0..16 is enlarged by three,
    surrounded with a border of four empty pixels, and brought to about mean 0 and variance 1 by
    (v - 2.75) / 4.66. Labels are int64 (n,), 0..9. `raw=True` gives the scans as they are: uint8
    (n, 1, 8, 8).
    """
    with np.load(FILE) as file:
        images, labels = file["images"], file["labels"]
    if not raw:
        around = (BORDER, BORDER)
        images = np.pad(_enlarged(images), ((0, 0), around, around))
        images = (images - np.float32(MEAN)) / np.float32(STD)
    images, labels = images[:, None], labels.astype(np.int64)
    return (
        TensorDataset(images[:TRAIN], labels[:TRAIN]),
        TensorDataset(images[TRAIN:], labels[TRAIN:]),
    )
