"""What fastconv is compared with, what it has promised, and what is known to stand in the way."""

import itertools
import math
import re
from typing import NamedTuple

import machine

OURS, PREPARED, COMPILED = "fastconv", "fastconv prepared", "fastconv compiled"
MORE = 2  # threads, on which layers and networks are measured too


def on_threads(name, threads):
    """The name of a row that was measured on so many threads."""
    return f"{name}, {threads} threads" if threads > 1 else name


def split_name(name):
    """What is measured, and on how many threads."""
    found = re.fullmatch(r"(.*), (\d+) threads", name)
    return (found[1], int(found[2])) if found else (name, 1)


class Match(NamedTuple):
    """A ratio: the time of the fastest of `peers` over that of `ours`."""

    ours: str
    peers: tuple[str, ...]

    def is_outside(self):
        """Beside others, not beside fastconv itself with other settings."""
        return self.ours in (OURS, PREPARED, COMPILED)


# Like beside like: who transforms the weights in the call, and who has done it before.
MATCHES = {
    "PyTorch": Match(OURS, ("PyTorch", "PyTorch channels_last", "PyTorch fused")),
    "ORT, OpenVINO": Match(PREPARED, ("ONNX Runtime", "OpenVINO")),
    "ncnn, MNN": Match(PREPARED, ("ncnn", "MNN")),
    "any PyTorch": Match(
        COMPILED, ("PyTorch", "PyTorch channels_last", "PyTorch fused", "torch.compile")
    ),
    "JAX": Match(COMPILED, ("JAX", "JAX NHWC")),
    "loaded models": Match(COMPILED, ("ONNX Runtime", "OpenVINO", "MNN")),
    "MKL, OpenBLAS": Match(OURS, ("MKL (torch.mm)", "OpenBLAS (NumPy)")),
    "1 thread": Match("2 threads", ("1 thread",)),
    "FMAs, 1 thread": Match("FMAs, 2 threads", ("FMAs, 1 thread",)),
    "x86_v4": Match("x86_v3", ("x86_v4",)),
}


class Ratio(NamedTuple):
    """Above 1, fastconv is faster. The median over the rounds, and the quartiles."""

    peer: str
    median: float
    low: float
    high: float


class Row(NamedTuple):
    """One measured case. seconds, percents of peak: by contender; ratios: by match."""

    group: str
    name: str
    algorithm: str
    seconds: dict[str, float]
    percents: dict[str, float]
    ratios: dict[str, Ratio]

    def slower(self):
        """Than a peer; not than fastconv itself with other settings."""
        return any(
            ratio.median < 1 for match, ratio in self.ratios.items() if MATCHES[match].is_outside()
        )


def row_of(fields):
    """The Row that became a list in a JSON file."""
    *first, ratios = fields
    return Row(*first, {match: Ratio(*values) for match, values in ratios.items()})


class Goal(NamedTuple):
    """For the rows of `group` whose names match `only`; each number of threads by itself.

    against: the matches of which the smallest ratio counts, row by row. At least `mean` as their
    geometric mean, at least `worst` in each row. Without `against`, `worst` is a part of the peak.
    """

    work: str
    group: str
    against: tuple[str, ...]
    mean: float | None = None
    worst: float | None = None
    only: str = ""

    def covers(self, row, threads):
        name, measured_on = split_name(row.name)
        return (row.group, measured_on) == (self.group, threads) and bool(
            re.search(self.only, name)
        )

    def value(self, row):
        """What is compared with `worst`; None when a contender was not there."""
        if not self.against:
            return row.percents[OURS] / 100
        ratios = [row.ratios.get(match) for match in self.against]
        return None if None in ratios else min(ratio.median for ratio in ratios)


FOUR = ("PyTorch", "ORT, OpenVINO")
BOTH = ("PyTorch",)
TORCH, MODELS = "any PyTorch", "loaded models"
STEP = (TORCH, "JAX")
AVX2 = "x86_v3 against x86_v4"  # a group
GOALS = [
    Goal("3×3 stride 1, forward", "3×3 stride 1, forward", FOUR, 2.5, 1.2),
    Goal("3×3 stride 1, forward, prepared", "3×3 stride 1, forward", ("ncnn, MNN",), 1.15, 0.95),
    Goal("3×3 stride 1, backward-input", "3×3 stride 1, backward", BOTH, 2.5, only="input$"),
    Goal("3×3 stride 1, backward-weight", "3×3 stride 1, backward", BOTH, 2.0, only="weight$"),
    Goal("1×1, 7×7 and strided, forward", "1×1, 7×7 and strided, forward", FOUR, 1.1, 0.95),
    Goal("1×1, 7×7 and strided, backward", "1×1, 7×7 and strided, backward", BOTH, 1.4, 1.0),
    Goal("C = 1, 3, 6, forward", "First layers, forward", FOUR, 1.5),
    Goal(
        "C = 1, 3, 6, backward-weight; C = 6, backward-input",
        "First layers, backward",
        BOTH,
        2.5,
        only="weight$|conv2.*input$",
    ),
    Goal("depthwise, forward", "Depthwise 3×3, forward", FOUR, 1.3),
    Goal("depthwise, backward", "Depthwise 3×3, backward", BOTH, 2.0),
    Goal("pooling", "Pooling", BOTH, 3.0),
    Goal("GEMM", "GEMM", ("MKL, OpenBLAS",), 1.1, 0.97, only=r"^\d"),
    Goal("GEMM, 512³ and above", "GEMM", (), worst=0.95, only=r"^(512|1024|2048)³"),
    Goal("eager training step, batch 1", "Tutorial", BOTH, worst=4.0, only="step, batch 1$"),
    Goal("eager training step, batch 64", "Tutorial", BOTH, worst=3.0, only="step, batch 64"),
    Goal("training step, batch 1", "Tutorial", STEP, worst=12.0, only="step, batch 1$"),
    Goal("training step, batch 64", "Tutorial", STEP, worst=5.0, only="step, batch 64"),
    Goal("training step, batch 256", "Tutorial", STEP, worst=5.0, only="step, batch 256"),
    Goal("tutorial's Net, forward", "Tutorial", (*STEP, MODELS), worst=1.5, only="^forward"),
    Goal("ResNet-18, training step", "ResNet-18", (TORCH,), worst=2.5, only="step"),
    Goal("ResNet-18, 224², forward", "ResNet-18", (TORCH, MODELS), worst=1.25, only="^forward"),
    Goal("Fashion-MNIST", "Fashion-MNIST", (TORCH,), worst=5.0),
    Goal("2 threads, layers over 1 ms", "2 threads against 1", ("1 thread",), worst=1.8),
    Goal("AVX2 on an AVX-512 machine", AVX2, ("x86_v4",), worst=0.85),
]

DEPTHWISE_ROW = (
    "a row of 8 outputs takes 6.2 cycles, in 29 instructions as in 23, of which multiply-adds are 4.5; "
    "with AVX-512 16 outputs take 10.5, multiply-adds 9"
)
# What bounds a row, or with None every row of a group, that misses its goal: shown beside it. Counted on processors
# of one maker with one instruction set, and said of no others. AMD: a multiply-add of 64 bytes in a cycle.
BOUNDS_ON_AMD: dict[tuple[str, str | None], str] = {
    (
        "1×1, 7×7 and strided, forward",
        None,
    ): "all are at 85 to 93 % of the multiply-add peak, which bounds them",
    (
        "1×1, 7×7 and strided, backward",
        None,
    ): "PyTorch is at 73 to 86 % of the multiply-add peak: 1.4× is past it",
    (
        "First layers, backward",
        "tutorial conv2, batch 64, backward-weight",
    ): "13 pixels are 16 in tiles: products are 43 % of the time, at one load for each",
    (
        "First layers, backward",
        "3→32 3×3 on 32², batch 32, backward-weight",
    ): "of some 360 cycles for a tile of 16 filters, products take 155, turning and transforming dy 150",
    ("3×3 stride 1, backward", "512→512 3×3 on 7², backward-input"): "reads 9.4 MB of weights",
    (
        "Depthwise 3×3, backward",
        "depthwise 144 3×3 on 56², backward-input",
    ): "multiply-adds take 69 of its 82 µs, in L2 as in L3",
    (
        "GEMM",
        None,
    ): (
        "tiles reach 98 to 99 % of the peak; packing a and b, whose lines come from the L3 cache before they are "
        "written, takes 4 to 6 % of the time; MKL is at 82 to 88 % of the peak, OpenBLAS at 89 to 91 %"
    ),
    ("Tutorial", "training step, batch 1"): (
        "counted: 1 MB between the L2 and L1 caches at 32 bytes a cycle are 8 µs, "
        "0.3 million multiply-adds at 16 a cycle 5 µs"
    ),
    ("Tutorial", "forward, batch 1"): (
        "of 10.7 µs, 7.8 are in C (276 KB of weights at 32 bytes a cycle are 2.3 of them), 2.9 in Python"
    ),
    ("ResNet-18", "training step, 32², batch 32"): (
        "counted: 0.98 billion multiply-adds of 64 bytes, nearly all Winograd's, take 0.27 s at the peak of one "
        "core; normalisation, sums and updates, which read and write memory, 0.04 s; the rest is transforms"
    ),
    (AVX2, "2048→512 1×1 on 7², backward-input"): (
        "4.2 MB of weights, whose rows lie 8 KB apart, are packed first, 0.2 ms, which tiles of 14 rows read in place; "
        "the products alone take 0.88 ms, at the peak"
    ),
    (AVX2, "3→64 7×7/2 on 224², forward"): (
        "products are 16 of 19 million instructions, of which 9 are multiply-adds, two of them in a cycle"
    ),
    (
        AVX2,
        "3→64 7×7/2 on 224², backward-input",
    ): "29 million instructions, four of them in a cycle",
    (AVX2, "3→32 3×3 on 32², batch 32, backward-weight"): (
        "7.4 million instructions, four of them in a cycle"
    ),
    (AVX2, "64→128 2×2/2 on 28², batch 8, backward-weight"): (
        "20 million instructions, four in a cycle: for each of 6.4 million multiply-adds an element is read into "
        "all lanes first, which those of AVX-512 do themselves"
    ),
    (AVX2, "512→512 3×3 on 7², forward"): (
        "37.7 MB of transformed weights are stored, at 32 bytes a cycle 0.33 ms, and 9.4 MB turned, 0.4 ms: "
        "twice the instructions"
    ),
    (AVX2, "512→512 3×3 on 7², backward-weight"): (
        "sums over 4 tiles: by Winograd as slow as by gemm, whose multiply-adds take 2.0 ms at the peak"
    ),
    (AVX2, "tutorial conv2, batch 64, forward"): (
        "rows of 13 pixels are 6 pairs of spots and one alone, whose 5 sums wait 4 cycles for 2.5"
    ),
    (AVX2, "depthwise 144 3×3 on 56², forward"): DEPTHWISE_ROW,
    (AVX2, "depthwise 144 3×3 on 56², backward-input"): DEPTHWISE_ROW,
    (AVX2, "depthwise 96 3×3/2 on 112², backward-weight"): (
        "6 sums in registers, a multiply-add each in 4 cycles of latency: 4 cycles for 8 columns, where "
        "multiply-adds take 3"
    ),
}


def forward_and_input(layers):
    """Of 3×3 layers: what bounds the forward pass bounds the gradient of the input, which is the same work."""
    forward = {("3×3 stride 1, forward", layer): why for layer, why in layers.items()}
    back = {
        ("3×3 stride 1, backward", f"{layer}, backward-input"): why for layer, why in layers.items()
    }
    return forward | back


# Intel: two multiply-adds of 64 bytes in a cycle. No core was seen to read more than 22 GB/s from the L3 cache, in
# several streams, or to copy more than 12 GB/s there.
BOUNDS_ON_INTEL: dict[tuple[str, str | None], str] = {
    **forward_and_input(
        {
            "256→256 3×3 on 14²": (
                "products take 0.43 ms at the peak (14² being 16² in tiles of 4²), turning and transforming "
                "0.6 million weights 0.2 ms"
            ),
            "512→512 3×3 on 7²": (
                "reads 9.4 MB of weights from the L3 cache, 0.43 ms at 22 GB/s; products, 7² being 8² in tiles of 4², "
                "take 0.43 ms at the peak"
            ),
            "64→64 3×3 on 224²": "products take 5.3 ms at the peak, copying x to y 1.1 ms",
        }
    ),
    ("Depthwise 3×3, forward", "depthwise 144 3×3 on 56²"): "copying x to y takes 0.13 ms",
    (
        "Depthwise 3×3, backward",
        "depthwise 144 3×3 on 56², backward-input",
    ): "copying dy to dx takes 0.13 ms",
    ("Depthwise 3×3, backward", "depthwise 144 3×3 on 56², backward-weight"): (
        "reads 3.6 MB from the L3 cache, 0.16 ms at 22 GB/s"
    ),
    ("Depthwise 3×3, backward", "depthwise 96 3×3/2 on 112², backward-input"): (
        "writes 4.8 MB, which would be copied in 0.36 ms"
    ),
    (
        AVX2,
        None,
    ): "with AVX2 two multiply-adds of 32 bytes start in a cycle, with AVX-512 two of 64",
}
# AMD without AVX-512: two multiply-adds of 32 bytes in a cycle, at some 3 GHz. One core read 50 GB/s from the L3 cache
# and 13 GB/s from memory, and copied half as much.
BOUNDS_ON_AMD_AVX2: dict[tuple[str, str | None], str] = {
    **forward_and_input(
        {
            "32→64 3×3 on 16², batch 32": (
                "products take 0.8 ms at the peak, turning and transforming x and y 3.4 million instructions"
            ),
            "64→64 3×3 on 56²": (
                "products take 0.61 ms at the peak, turning and transforming x and y 1.8 million instructions"
            ),
            "256→256 3×3 on 14²": (
                "products take 0.8 ms at the peak (14² being 16² in tiles of 4²), turning and transforming "
                "0.6 million weights 2 million instructions"
            ),
            "512→512 3×3 on 7²": (
                "products take 0.8 ms at the peak (7² being 8² in tiles of 4²), turning and transforming 2.4 million "
                "weights 8 million instructions, and 38 MB of what they become go to the L2 cache and back at "
                "32 bytes in a cycle, 0.8 ms"
            ),
            "64→64 3×3 on 224²": (
                "products take 9.8 ms at the peak, copying x to y 1.5 ms, turning and transforming them 28 million"
            ),
        }
    ),
    ("1×1, 7×7 and strided, backward", "256→1024 1×1 on 14², backward-input"): (
        "products take 1.1 ms at the peak, packing 8 to 14 % of the time; PyTorch is at 82 % of the peak"
    ),
    ("GEMM", None): (
        "tiles that read the L1 cache reach 95 % of the peak, those that read the L2 cache 93 %; "
        "packing takes 5 % of the time, c 2 %"
    ),
    ("Tutorial", "training step, batch 1"): (
        "counted: 0.83 MB of fc1's weights between the L2 and L1 caches at 32 bytes a cycle are 9 µs, "
        "0.3 million multiply-adds at 16 a cycle 6 µs"
    ),
}
COUNTED = {
    ("AMD", "x86_v4"): BOUNDS_ON_AMD,
    ("Intel", "x86_v4"): BOUNDS_ON_INTEL,
    ("AMD", "x86_v3"): BOUNDS_ON_AMD_AVX2,
}


def bound(row):
    import fastconv  # which reads the environment

    cores = row.ratios.get("FMAs, 1 thread")
    if cores is not None and cores.median < row.ratios["1 thread"].median + 0.1:
        return f"two threads of FMAs, which share nothing, were worth {cores.median:.3g} in these rounds"
    name, _ = split_name(row.name)
    for (maker, isa), bounds in COUNTED.items():
        if fastconv.isa() == isa and machine.processor().startswith(maker):
            return bounds.get((row.group, name)) or bounds.get((row.group, None), "")
    return ""


class Verdict(NamedTuple):
    """A goal and what was reached, as text; met: None when not all of it was measured."""

    work: str
    beside: str
    goal: str
    mean: str
    worst: str
    met: bool | None


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def reached(goal, rows, threads):
    """The rows that a goal covers with their values, and the geometric mean; None if unmeasured."""
    covered = [(row, goal.value(row)) for row in rows if goal.covers(row, threads)]
    if not covered or any(value is None for _, value in covered):
        return covered, None
    return covered, geometric_mean([value for _, value in covered])


def failure(goal, row, mean):
    """In words, how a row takes part in missing a goal; mean is that of all its rows."""
    value = goal.value(row)
    if value is not None and goal.worst is not None and value < goal.worst:
        limit = f"{goal.worst:g}×" if goal.against else f"{100 * goal.worst:g} % of the peak"
        return f"MISSED: under {limit}"
    if mean is not None and goal.mean is not None and mean < goal.mean and value < goal.mean:
        return f"under the mean of {goal.mean:g}×"
    return ""


def verdict(goal, rows, threads=1):
    """None if no row is covered."""
    covered, mean = reached(goal, rows, threads)
    if not covered:
        return None
    show = (lambda v: f"{v:.3g}×") if goal.against else (lambda v: f"{100 * v:.0f} %")
    wanted = [f"{goal.mean:g}× on average"] if goal.mean is not None else []
    if goal.worst is not None:
        wanted.append(
            f"none under {goal.worst:g}×"
            if goal.against
            else f"{100 * goal.worst:g} % of the peak or more"
        )
    beside = ", ".join(goal.against) or "the processor"
    text = goal.work, beside, ", ".join(wanted)
    if mean is None:
        return Verdict(*text, "not measured", "", None)
    row, lowest = min(covered, key=lambda pair: pair[1])
    name, _ = split_name(row.name)
    met = (goal.mean is None or mean >= goal.mean) and (goal.worst is None or lowest >= goal.worst)
    return Verdict(*text, show(mean), f"{show(lowest)} ({name})", met)


def failures(rows):
    """By group and name of a row: what it misses, and why where that is known."""
    found = {}
    for goal, threads in itertools.product(GOALS, (1, MORE)):
        covered, mean = reached(goal, rows, threads)
        for row, _ in covered:
            words = failure(goal, row, mean)
            if words:
                found.setdefault((row.group, row.name), []).append(words)
    return {place: ", ".join(dict.fromkeys(words)) for place, words in found.items()}
