"""fastconv beside PyTorch: python benchmarks/run.py --write benchmarks/RESULTS.md"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

BUDGET = {False: 2.5, True: 0.1}  # seconds a row, full and quick
SETTLE = 0.004  # seconds, with more than one thread
BUSY = 0.5  # a load average, before the run, that puts the numbers in doubt
LARGEST_DIFFERENCE = 1e-3  # between contenders, as a part of the largest number


def parse(arguments=None):
    parser = argparse.ArgumentParser(description="fastconv beside PyTorch, in one process")
    parser.add_argument("--threads", type=int, default=1, help="for both libraries (default 1)")
    parser.add_argument("--quick", action="store_true", help="a check of the script, in a minute")
    parser.add_argument("--only", default="", metavar="PATTERN", help="rows that match this regex")
    parser.add_argument("--write", metavar="FILE", help="write the tables as Markdown")
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    return options


def fix_threads(threads):
    """Before the libraries are imported; NumPy's BLAS reads the environment."""
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    os.environ["FASTCONV_NUM_THREADS"] = str(threads)


def flat(result):
    """The arrays in a contender's result."""
    import numpy as np

    parts = result if isinstance(result, tuple | list) else [result]
    return [np.asarray(getattr(p, "_array", p)) for p in parts if p is not None]


def check(case, contenders):
    """Raise SystemExit when the contenders do not compute the same thing."""
    import numpy as np

    expected, *others = (flat(call()) for call in contenders.values())
    for name, found in zip(list(contenders)[1:], others, strict=True):
        for a, b in zip(expected, found, strict=True):
            scale = np.abs(b).max(initial=0) or 1
            if a.shape != b.shape or np.abs(a - b).max(initial=0) > LARGEST_DIFFERENCE * scale:
                raise SystemExit(f"{case.group}, {case.name}: fastconv and {name} disagree")


def run_case(case, peak, budget, settle):
    """The Row of a case."""
    import report
    import timing
    import torch

    import fastconv

    contenders = case.contenders()
    modes = () if case.training else (torch.inference_mode(), fastconv.no_grad())
    with contextlib.ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        check(case, contenders)
        times = timing.measure({**contenders, "peak": peak}, budget, settle)
    names = list(contenders)
    percents = {}
    if case.flops:
        for name in names:  # (flops / seconds) / (peak.flops / peak's seconds)
            percents[name] = 100 * case.flops / peak.flops * times.ratio("peak", name).median
    peer = times.best([name for name in names if name != report.OURS], report.OURS)
    seconds = {name: times.seconds(name) for name in names}
    ratio = tuple(times.ratio(peer, report.OURS))
    row = report.Row(case.group, case.name, seconds, percents, peer, ratio, case.goal)
    return row, peak.flops / times.seconds("peak")


def import_seconds(rounds):
    """Median seconds of `import` in a new process, for fastconv and PyTorch, alternating."""
    code = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    found = {"fastconv": [], "torch": []}
    for _ in range(rounds):
        for name, seconds in found.items():
            command = [sys.executable, "-c", code.format(name)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            seconds.append(float(output.split()[-1]))
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def installed_bytes(name):
    """Of a package's own folder: what its wheel installs, NumPy and other dependencies apart."""
    folder = Path(importlib.util.find_spec(name).origin).parent
    skipped = {".pyc", ".pyx", ".pxi"}
    return sum(
        f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.suffix not in skipped
    )


def around(quick):
    """Import time and size on disk, as the extras of report.markdown."""
    import report

    seconds = import_seconds(2 if quick else 7)
    sizes = {name: installed_bytes(name) for name in ("fastconv", "torch")}
    titles = ("import, in a new process", "installed size, without dependencies")
    return [
        (title, dict(zip(("fastconv", "PyTorch"), map(show, v.values()), strict=True)), b / a)
        for title, show, v in zip(
            titles, (report.duration, report.size), (seconds, sizes), strict=True
        )
        for a, b in [tuple(v.values())]
    ]


def facts(options, peak, peaks, load):
    """What a reader must know of the machine and the versions."""
    import numpy
    import peak as peak_module
    import report
    import torch

    import fastconv

    command = [*peak_module.compiler(), "--version"]
    compiler = subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[0]
    low, middle, high = (
        f"{rate / 1e9:.0f}" for rate in (min(peaks), statistics.median(peaks), max(peaks))
    )
    return [
        ("date", report.today()),
        (
            "processor",
            f"{report.processor()}, {report.usable_cores()} cores, caches {report.caches()}",
        ),
        ("threads", f"{options.threads}, for every contender"),
        ("load average before the run", f"{load:.2f}{' (BUSY: in doubt)' if load > BUSY else ''}"),
        (
            "peak",
            f"{middle} GFLOP/s ({low} – {high} during the run), {peak.bits}-bit float32 FMA",
        ),
        ("fastconv", f"{fastconv.__version__}, {fastconv.isa()}"),
        (
            "PyTorch",
            f"{torch.__version__}, oneDNN {'on' if torch.backends.mkldnn.enabled else 'off'}",
        ),
        ("NumPy", numpy.__version__),
        ("Python", platform.python_version()),
        ("compiler", compiler),
        ("system", platform.system()),
    ]


def main(arguments=None):
    options = parse(arguments)
    if importlib.util.find_spec("torch") is None:
        print("the benchmark compares with PyTorch: pip install torch==2.13.0", file=sys.stderr)
        return 2
    fix_threads(options.threads)
    import cases
    import report
    import torch
    from peak import Peak

    import fastconv

    fastconv.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    peak, rows, peaks, group = Peak(options.threads), [], [], None
    wanted = re.compile(options.only)
    load, settle = os.getloadavg()[0], SETTLE if options.threads > 1 else 0.0
    if load > BUSY:
        print(f"the machine is busy (load average {load:.2f}): these numbers are in doubt")
    for case in cases.all_cases():
        if not wanted.search(f"{case.group}, {case.name}"):
            continue
        if case.group != group:
            group = case.group
            print(f"\n{group}", flush=True)
        row, measured = run_case(case, peak, BUDGET[options.quick], settle)
        rows.append(row)
        peaks.append(measured)
        print(report.text_line(row), flush=True)
    extras = around(options.quick) if wanted.search("import, installed size") else []
    for title, values, ratio in extras:
        print(f"{title}: {values}, {ratio:.3g} times")
    if not rows:
        print(f"no row matches {options.only!r}")
    elif options.write:
        text = report.markdown(rows, extras, facts(options, peak, peaks, load), options.quick)
        Path(options.write).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
