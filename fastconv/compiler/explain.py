"""What a plan does: a table of its calls, and a picture."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fastconv import kernels

HEADINGS = ("", "call", "algorithm", "blocks", "writes", "reads", "KiB", "µs", "% of peak")
CONVOLUTIONS = ("conv2d_forward", "conv2d_backward_input", "conv2d_backward_weight")


@dataclass
class Row:
    """One call. multiply_adds: 0 where it is not made of them; microseconds: of the last replay.

    algorithm: of a convolution; "late" where no replay runs the call, but whoever looks at what it writes. blocks:
    where it is more than 1, a block of images goes through this call and its neighbours before the next one does.
    microseconds are then the time of them all, shared out as the first blocks spent it.
    """

    kernel: str
    algorithm: str
    blocks: int
    writes: list[tuple[int, ...]]
    reads: list[tuple[int, ...]]
    bytes: int
    microseconds: float
    multiply_adds: int
    share_of_peak: float

    def cells(self) -> list[str]:
        share = f"{self.share_of_peak:.0%}" if self.multiply_adds else ""
        shapes = [
            " ".join("x".join(map(str, s)) or "1" for s in side)
            for side in (self.writes, self.reads)
        ]
        return [
            self.kernel,
            self.algorithm,
            str(self.blocks) if self.blocks > 1 else "",
            *shapes,
            f"{self.bytes / 1024:,.1f}",
            f"{self.microseconds:,.2f}",
            share,
        ]


@dataclass
class Explanation:
    """What `explain` returns; printing it prints the table."""

    rows: list[Row]
    arena: int

    def __str__(self) -> str:
        lines = list(self._lines())
        rule = "-" * max(map(len, lines))
        total = sum(row.microseconds for row in self.rows)
        end = f"{len(self.rows)} calls, {total:,.1f} µs in the last replay, {self.arena / 1024:,.0f} KiB of arena"
        return "\n".join([lines[0], rule, *lines[1:], rule, end])

    __repr__ = __str__

    def _lines(self) -> Iterator[str]:
        cells = [list(HEADINGS), *([str(i), *row.cells()] for i, row in enumerate(self.rows))]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            left = [c.ljust(w) for c, w in zip(row[1:6], widths[1:6], strict=True)]
            right = [c.rjust(w) for c, w in zip(row[6:], widths[6:], strict=True)]
            yield "  ".join([row[0].rjust(widths[0]), *left, *right]).rstrip()

    def plot(self, where) -> None:
        """Draw the time of each call: on matplotlib Axes, or into a file of that name."""
        import matplotlib.pyplot as plt

        axes = where
        if not hasattr(where, "barh"):
            axes = plt.figure(
                figsize=(8, 1 + 0.2 * len(self.rows)), layout="constrained"
            ).subplots()
        names = [f"{i} {row.kernel} {row.algorithm}".strip() for i, row in enumerate(self.rows)]
        kinds = sorted({row.kernel for row in self.rows})
        colors = [f"C{kinds.index(row.kernel) % 10}" for row in self.rows]
        bars = axes.barh(names, [row.microseconds for row in self.rows], color=colors)
        axes.bar_label(bars, [row.cells()[-1] for row in self.rows], padding=3, fontsize="small")
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize="small")
        axes.set(xlabel="µs of the last replay; % of the multiply-add peak at the bars")
        if axes is not where:
            axes.figure.savefig(where)
            plt.close(axes.figure)


def multiply_adds(call):
    """How many multiply-adds the formula of a call has; 0 for those that are not sums of products."""
    if call.kernel in CONVOLUTIONS:
        sizes = (call.number(f) for f in ("N", "K", "P", "Q", "R", "S"))
        return math.prod(sizes) * (call.number("C") // call.number("groups"))
    if call.kernel in ("gemm", "linear"):
        return math.prod(call.number(f) for f in ("m", "n", "k"))
    return 0


def measured_peak(dtype):
    """Multiply-adds per microsecond of all threads in use: the best of a few measurements of one core, by their
    number."""
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        _, count = kernels.multiply_add_peak(20_000, dtype)
        best = max(best, count / (time.perf_counter() - start) / 1e6)
    return best * kernels.get_num_threads()


def explain(plan):
    """The Explanation of a plan, after a replay."""
    peaks = {}
    rows = []
    blocks = [1] * len(plan.calls)
    for chain in plan.chains:
        blocks[chain.first : chain.last + 1] = [chain.blocks] * len(chain.cuts)
    first_late = len(plan.calls) - len(plan.late)
    for i, (call, nanoseconds, count_of_blocks) in enumerate(
        zip(plan.calls, plan.nanoseconds(), blocks, strict=True)
    ):
        dtype = (np.float32, np.float64)[call.dtype]
        late = i >= first_late
        count = 0 if late else multiply_adds(call)
        microseconds = 0.0 if late else max(nanoseconds / 1e3, 1e-3)
        if count and dtype not in peaks:
            peaks[dtype] = measured_peak(dtype)
        operands = call.operands.values()
        algorithm = "late" if late else ""
        if call.kernel in CONVOLUTIONS:
            algorithm, _ = kernels.recorded_algorithm(call.kernel, call.words, call.dtype == 1)
            if "backward" in call.kernel and "indices" in call.operands:
                algorithm = "pooled"
        rows.append(
            Row(
                call.kernel,
                algorithm,
                count_of_blocks,
                [o.array.shape for o in operands if o.writes],
                [o.array.shape for o in operands if o.reads],
                sum(o.array.nbytes for o in operands),
                microseconds,
                count,
                count / microseconds / peaks[dtype] if count else 0.0,
            )
        )
    return Explanation(rows, plan.arena.nbytes)
