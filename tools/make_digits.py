"""Make fastconv/data/digits.npz from scikit-learn's digits.csv.gz.

    python tools/make_digits.py path/to/sklearn/datasets/data/digits.csv.gz

The csv has a scan per line: 64 pixels 0..16, row by row, then the digit 0..9. What is written holds
`images` (1797, 8, 8) uint8 and `labels` (1797,) uint8. Their order is the split: first the 1,437
scans to train with, then the 360 to test with, 36 of every digit. Within both, the scans keep the
order of the csv.
"""

import argparse
from pathlib import Path

import numpy as np

TARGET = Path(__file__).resolve().parent.parent / "fastconv" / "data" / "digits.npz"
TEST_PER_DIGIT = 36


def test_rows(labels: np.ndarray) -> np.ndarray:
    """A mask that marks 36 scans of each digit, drawn by a fixed permutation (MT19937, seed 0)."""
    drawn = np.random.RandomState(0).permutation(len(labels))
    mask = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        mask[drawn[labels[drawn] == digit][:TEST_PER_DIGIT]] = True
    return mask


def main() -> None:
    parser = argparse.ArgumentParser(description="Make fastconv/data/digits.npz.")
    parser.add_argument("csv", type=Path, help="scikit-learn's digits.csv.gz (or the plain csv)")
    rows = np.loadtxt(parser.parse_args().csv, delimiter=",").astype(np.uint8)
    labels = rows[:, 64]
    order = np.argsort(test_rows(labels), kind="stable")
    images = rows[order, :64].reshape(-1, 8, 8)
    np.savez_compressed(TARGET, images=images, labels=labels[order])
    print(f"{TARGET}: {len(order)} scans, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
