"""What a convolution takes beside its arrays, and a training step over all: the growth of the peak
of a new process's memory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from goals import COMPILED, Verdict, on_threads
from layers import LAYERS

GROUP, STEPS = "Extra memory", "Memory of a training step"
HALF = 0.5  # of PyTorch's: the goal of a training step
STEP_BOUND = (
    "counted: weights, gradients and momentum 134 MB, results of convolutions, of which gradients are made, 71 MB, "
    "without those of the first, which are computed twice"
)
PART, FREE = 0.25, 4 << 20  # of input and output; bytes that are always allowed


class Use(NamedTuple):
    """Bytes: planned, what the plan says on one thread; extra, measured beside the result; images,
    input and output."""

    name: str
    algorithm: str
    images: int
    planned: int
    extra: int

    def allowed(self):
        return max(PART * self.images, FREE)

    def met(self):
        return self.extra <= self.allowed()


class Peak(NamedTuple):
    """Bytes, by contender, of a process that trains: its peak over what it had after its imports."""

    name: str
    bytes: dict[str, int]

    def part(self):
        """fastconv's as a part of the least of the others."""
        return self.bytes[COMPILED] / min(v for k, v in self.bytes.items() if k != COMPILED)

    def met(self):
        return self.part() <= HALF


def kilobytes(file, field):
    text = Path("/proc/self", file).read_text()
    return int(re.search(rf"^{field}:\s*(\d+) kB", text, re.M).group(1))


def resident():
    """Bytes that this process has in memory, counted page by page, and that it has had at most.

    The peak is exact to some pages; fastconv keeps its scratch memory, so that the first says it too.
    """
    return 1024 * kilobytes("smaps_rollup", "Rss"), 1024 * kilobytes("status", "VmHWM")


def of_files():
    """Bytes in memory that are pages of files: code of libraries, which is read when it first runs."""
    return 1024 * kilobytes("status", "RssFile")


def measure_here(index, which):
    """One call of one layer, in a process that has made no other of its size."""
    from fastconv import kernels

    layer = LAYERS[index]
    x, w, b, dy = (
        np.ones(size, np.float32)
        for size in (layer.input_size(), layer.weight_size(), layer.K, layer.output_size())
    )
    tiny = np.ones((layer.groups, 1, 3, 3), np.float32)
    images = np.ones((1, layer.groups, 4, 4), np.float32)
    kernels.conv2d_forward(images, tiny, groups=layer.groups)  # code and threads are there now
    options = layer.options()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now
    before, code = resident(), of_files()
    if which == "forward":
        results = (kernels.conv2d_forward(x, w, b, *options),)
    elif which == "backward-input":
        results = (kernels.conv2d_backward_input(dy, w, x.shape, *options),)
    else:
        results = kernels.conv2d_backward_weight(dy, x, layer.R, *options)
    growth = [after - b for after, b in zip(resident(), before, strict=True)]
    beside = sum(result.nbytes for result in results) + of_files() - code
    extra = max(0, max(growth) - beside)
    plan = kernels.conv2d_plan(x.shape, w.shape, *options, which=which.replace("-", "_"))
    name = f"{layer.name}, {which}"
    return Use(name, plan.algorithm, x.nbytes + dy.nbytes, plan.workspace, extra)


def step_here(name):
    """The bytes of some steps of ResNet-18, with all that belongs to them, in a new process."""
    import steps

    Path("/proc/self/clear_refs").write_text("5")  # the peak is now
    before, _ = resident()
    step = steps.resnet_step(name)
    for _ in range(3):
        step()
    return resident()[1] - before


def can_measure():
    return all(os.path.exists(f"/proc/self/{name}") for name in ("smaps_rollup", "clear_refs"))


def measure(wanted, passes):
    """The Use of every layer and pass whose name matches the compiled regex `wanted`."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # blocks are new pages
    for index, layer in enumerate(LAYERS):
        for which in passes:
            if not wanted.search(f"{GROUP}, {layer.name}, {which}"):
                continue
            command = [sys.executable, __file__, str(index), which]
            output = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
            yield Use(*json.loads(output.stdout))


def measure_steps(wanted, numbers_of_threads):
    """A Peak for each number of threads. Each contender has a process of its own."""
    from peers import LAYOUTS

    for threads in dict.fromkeys(numbers_of_threads):
        name = on_threads("ResNet-18, 32², batch 32", threads)
        if not wanted.search(f"{STEPS}, {name}"):
            continue
        settings = {f"{lib}_NUM_THREADS": str(threads) for lib in ("OMP", "MKL", "FASTCONV")}
        found = {}
        for contender in (COMPILED, *LAYOUTS):
            command = [sys.executable, __file__, contender]
            environment = os.environ | settings
            output = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
            found[contender] = json.loads(output.stdout)
        yield Peak(name, found)


def step_verdict(peaks):
    worst = max(peaks, key=Peak.part)
    return Verdict(
        "peak memory of ResNet-18's training step",
        "PyTorch, resident set over its import",
        f"{HALF:g} of it",
        "",
        f"{worst.part():.2f} of it ({worst.name})",
        all(peak.met() for peak in peaks),
    )


def verdict(uses):
    worst = max(uses, key=lambda use: use.extra / use.allowed())
    return Verdict(
        "extra memory of a convolution",
        "its input and output",
        f"{100 * PART:g} % of them or {FREE >> 20} MiB",
        "",
        f"{worst.extra / 2**20:.2f} MiB, {100 * worst.extra / worst.images:.0f} % ({worst.name})",
        all(use.met() for use in uses),
    )


if __name__ == "__main__":
    here = (
        step_here(sys.argv[1])
        if len(sys.argv) == 2
        else measure_here(int(sys.argv[1]), sys.argv[2])
    )
    print(json.dumps(here))
