"""Find the edges of a digit with one convolution on NumPy arrays: no Tensor, no network."""

import numpy as np

from fastconv import kernels
from fastconv.data import load_digits

SHADES = " .:-=+*#%@"


def show(title: str, image: np.ndarray) -> None:
    """Print an image (H, W): the darkest shade is its largest value."""
    print(
        f"\n{title}, {image.shape[0]}x{image.shape[1]}, values {image.min():g} to {image.max():g}"
    )
    levels = (image - image.min()) / (image.max() - image.min()) * (len(SHADES) - 1)
    for row in levels.round().astype(int):
        print("".join(2 * SHADES[level] for level in row))


scans = load_digits(raw=True)[0].tensors[0].numpy()  # uint8 (1437, 1, 8, 8)
x = scans[:1].astype(np.float32)  # (N, C, H, W) = (1, 1, 8, 8)

# Sobel's two filters, w (K, C, R, S) = (2, 1, 3, 3): change from left to right, top to bottom
across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=np.float32)
w = np.stack([across, across.T])[:, None]

y = kernels.conv2d_forward(x, w, padding=1)  # (1, 2, 8, 8)
edges = kernels.sqrt(kernels.add(kernels.mul(y[:, :1], y[:, :1]), kernels.mul(y[:, 1:], y[:, 1:])))
largest, where = kernels.max_pool2d_forward(edges, 2)  # (1, 1, 4, 4)

show("digit", x[0, 0])
show("edges", edges[0, 0])
show("edges, max-pooled", largest[0, 0])
print(f"\nthe strongest edge is in row {where.flat[largest.argmax()] // 8}")
