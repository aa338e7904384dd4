"""Measures the errors of the convolutions' algorithms, and writes the tables of accuracy.md. `make docs` runs it."""

import re
import sys
from pathlib import Path

import numpy as np

from fastconv import kernels

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent / "tests"))
import reference as ref  # noqa: E402

DOCUMENT = FOLDER / "accuracy.md"
EPS = float(np.finfo(np.float32).eps)
PASSES = ("forward", "backward_input", "backward_weight")
# N, C, H, K, R, stride, groups: padded to keep the size, or half of it
LAYERS = {
    "3→32 3×3 on 32²": (4, 3, 32, 32, 3, 1, 1),
    "64→64 3×3 on 28²": (1, 64, 28, 64, 3, 1, 1),
    "128→128 3×3 on 28²": (1, 128, 28, 128, 3, 1, 1),
    "512→512 3×3 on 7²": (1, 512, 7, 512, 3, 1, 1),
    "64→64 5×5 on 14²": (1, 64, 14, 64, 5, 1, 1),
    "128→128 3×3/2 on 56²": (1, 128, 56, 128, 3, 2, 1),
    "64→128 4×4/2 on 28²": (1, 64, 28, 128, 4, 2, 1),
    "3→64 7×7/2 on 112²": (1, 3, 112, 64, 7, 2, 1),
    "16 depthwise 3×3 on 28²": (4, 16, 28, 16, 3, 1, 16),
}


def write_part(name, text):
    """Replace what stands between `<!-- name -->` and `<!-- end -->` in accuracy.md."""
    document = DOCUMENT.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
    assert len(pattern.findall(document)) == 1, f"accuracy.md has no part {name}"
    DOCUMENT.write_text(pattern.sub(lambda m: m[1] + text + "\n" + m[2], document), "utf-8")


def table(rows):
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---|---|" + "---:|" * (len(rows[0]) - 2), *rest])


def normal(rng, shape):
    return rng.standard_normal(shape).astype(np.float32)


def relu(rng, shape):
    return np.maximum(normal(rng, shape), 0)


def offset(rng, shape):
    return 1e4 + normal(rng, shape)


def spike(rng, shape):
    a = normal(rng, shape)
    a.flat[a.size // 2] = 1e8
    return a


def padding_of(R):
    return (R - 1) // 2


def run(which, x, w, dy, stride, groups, algorithm):
    args = stride, padding_of(w.shape[2]), 1, groups
    if which == "forward":
        return kernels.conv2d_forward(x, w, None, *args, algorithm=algorithm)
    if which == "backward_input":
        return kernels.conv2d_backward_input(dy, w, x.shape, *args, algorithm=algorithm)
    return kernels.conv2d_backward_weight(dy, x, w.shape[2:], *args, algorithm=algorithm)[0]


def one_by_one(which, x, w, dy, stride):
    """The sums of one group in float32, a product after the other: the yardstick."""
    R, H, W = w.shape[2], *x.shape[2:]
    pad = padding_of(R)
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (R, R), (2, 3))  # n c p q r s
    windows = windows[:, :, ::stride, ::stride]
    if which == "forward":
        y = np.zeros((len(x), len(w), *windows.shape[2:4]), np.float32)
        for c, r, s in np.ndindex(w.shape[1:]):
            y += windows[:, c, None, :, :, r, s] * w[:, c, r, s, None, None]
        return y
    if which == "backward_input":
        dx = np.zeros_like(padded)
        P, Q = (stride * n for n in dy.shape[2:])
        for k, r, s in np.ndindex(len(w), R, R):
            dx[:, :, r : r + P : stride, s : s + Q : stride] += (
                dy[:, k, None] * w[k, :, r, s, None, None]
            )
        return dx[:, :, pad : pad + H, pad : pad + W]
    dw = np.zeros_like(w)
    for n, p, q in np.ndindex(len(x), *dy.shape[2:]):
        dw += dy[n, :, p, q, None, None, None] * windows[n, :, p, q]
    return dw


def bound(which, algorithm, x, w, dy, stride, groups):
    """What accuracy.md promises for each element."""
    wide = [np.abs(a.astype(float)) for a in (x, w, dy)]
    if algorithm != "winograd":
        ones = [np.ones_like(a) for a in wide]
        n = run(which, *ones, stride, groups, "gemm").max()
        return n * EPS * run(which, *wide, stride, groups, "gemm")
    arrays = {"forward": (x, w, 0), "backward_input": (dy, w), "backward_weight": (dy, x)}[which]
    R, sizes = w.shape[2], (x.shape[2:], dy.shape[2:])
    return ref.winograd_bound(which, arrays, R, (padding_of(R),) * 2, stride, sizes, EPS)


def rms(a):
    return float(np.sqrt(np.mean(np.square(a, dtype=float))))


def measure(layer, kind, which):
    """algorithm -> (rms error / (eps rms of the result), max error likewise, max error / bound)."""
    N, C, H, K, R, stride, groups = LAYERS[layer]
    rng, P = np.random.default_rng(0), -(-H // stride)
    x, w, dy = kind(rng, (N, C, H, H)), normal(rng, (K, C // groups, R, R)), None
    dy = kind(rng, (N, K, P, P)) if which == "backward_input" else normal(rng, (N, K, P, P))
    exact = run(which, *(a.astype(float) for a in (x, w, dy)), stride, groups, "gemm")
    found, unit = {}, EPS * rms(exact)
    if groups == 1:
        error = np.abs(one_by_one(which, x, w, dy, stride) - exact)
        found["one by one"] = rms(error) / unit, error.max() / unit, None
    sizes = (N, C, H, H), w.shape, stride, padding_of(R), 1, groups
    for algorithm in kernels.conv2d_plan(*sizes, which=which).cycles:
        error = np.abs(run(which, x, w, dy, stride, groups, algorithm) - exact)
        share = (error / bound(which, algorithm, x, w, dy, stride, groups)).max()
        found[algorithm] = rms(error) / unit, error.max() / unit, share
    return found


def rows_of(title, which, found):
    for algorithm, (mean, most, share) in found.items():
        ratio = f"{mean / found['one by one'][0]:.2g}" if "one by one" in found else "–"
        share = "–" if share is None else f"{share:.2g}"
        yield title, which, algorithm, f"{mean:.2g}", f"{most:.3g}", ratio, share


HEAD = ("", "pass", "algorithm", "rms", "largest", "rms ÷ one by one", "largest ÷ bound")


def main():
    rows = [HEAD]
    for layer in LAYERS:
        for which in PASSES:
            rows += rows_of(layer, which.replace("_", "-"), measure(layer, normal, which))
    write_part("layers", table(rows))
    rows = [HEAD]
    kinds = {"x = max(N(0,1), 0)": relu, "x = 10⁴ + N(0,1)": offset, "one 10⁸ in x": spike}
    for title, kind in kinds.items():
        rows += rows_of(title, "forward", measure("64→64 3×3 on 28²", kind, "forward"))
    write_part("inputs", table(rows))


if __name__ == "__main__":
    main()
