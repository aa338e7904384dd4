"""fastconv beside other libraries: python benchmarks/run.py --write benchmarks/RESULTS.md"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import readme

BUDGET = {False: 1.0, True: 0.05}  # seconds a row, full and quick
OWN_BUDGET = {False: 0.6, True: 0.05}  # of the rows of fastconv beside itself
ROUNDS = {False: 9, True: 2}  # at least
LARGEST_DIFFERENCE = 1e-3  # from fastconv, as a part of the largest number
ROUGH = {"MNN": 5e-3}  # its Winograd, where images are large: a thousand times the others' errors


def parse(arguments=None):
    parser = argparse.ArgumentParser(description="fastconv beside others, in one process")
    parser.add_argument("--threads", type=int, default=1, help="for all libraries (default 1)")
    parser.add_argument("--quick", action="store_true", help="a check of the script, in a minute")
    parser.add_argument("--only", default="", metavar="PATTERN", help="rows that match this regex")
    parser.add_argument(
        "--rows",
        metavar="FILE.json",
        help="only those that are measured on several numbers of threads, written there",
    )
    parser.add_argument("--write", metavar="FILE.md", help="write the tables, and FILE.svg")
    parser.add_argument(
        "--readme",
        action="store_true",
        help="copy RESULTS.md's summary into README.md (at the end)",
    )
    options = parser.parse_args(arguments)
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    return options


def fix_threads(threads):
    """Before the libraries are imported; NumPy's BLAS reads the environment."""
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    os.environ["FASTCONV_NUM_THREADS"] = str(threads)
    os.environ["NPROC"] = str(threads)  # for JAX
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no processes that stay


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
        limit = ROUGH.get(name, LARGEST_DIFFERENCE)
        for a, b in zip(expected, found, strict=True):
            scale = np.abs(b).max(initial=0) or 1
            # a NaN is not below the limit either
            if a.shape != b.shape or not np.abs(a - b).max(initial=0) <= limit * scale:
                raise SystemExit(f"{case.group}, {case.name}: fastconv and {name} disagree")


def ratios(times, contenders):
    """By match: the fastest peer beside fastconv's contender. Three digits, as they are shown."""
    from goals import MATCHES, Ratio

    found = {}
    for name, match in MATCHES.items():
        peers = [peer for peer in match.peers if peer in contenders]
        if match.ours in contenders and peers:
            peer = times.best(peers, match.ours)
            spread = (float(f"{value:.3g}") for value in times.ratio(peer, match.ours))
            found[name] = Ratio(peer, *spread)
    return found


@contextlib.contextmanager
def without_gradients():
    import torch

    import fastconv

    with torch.inference_mode(), fastconv.no_grad():
        yield


def contest_of(case, peak, options):
    """The timing.Contest of a case, beside the peak, or None if the case does not apply."""
    import goals
    import timing

    contenders = case.contenders()
    if not contenders:
        return None

    within = contextlib.nullcontext if case.training else without_gradients
    with within():
        check(case, contenders)
        contenders |= case.beside()
    budget = (BUDGET if goals.OURS in contenders else OWN_BUDGET)[options.quick]
    threaded = case.threaded or options.threads > 1
    calls = {**contenders, "peak": peak} if case.flops else contenders
    return timing.Contest(calls, budget, threaded, within)


def row_of(case, contest, peak):
    """The Row of a case after its contest, and the peak that was measured beside it, or None."""
    import goals

    times, names = contest.times, [name for name in contest.contenders if name != "peak"]
    percents = {}
    if case.flops:
        for name in names:  # (flops / seconds) / (peak.flops / peak's seconds)
            percents[name] = 100 * case.flops / peak.flops * times.ratio("peak", name).median
    seconds = {name: times.seconds(name) for name in names}
    row = goals.Row(case.group, case.name, case.algorithm, seconds, percents, ratios(times, names))
    return row, peak.flops / times.seconds("peak") if case.flops else None


def run_rows(wanted, options, peak):
    """The rows whose group and name match, and the peaks in FLOP/s."""
    import cases
    import machine
    import report
    import timing

    import fastconv

    rows, rates, isa = [], [], fastconv.isa()
    if options.rows:
        chosen = cases.threads_cases(options.threads)
    else:
        chosen = cases.all_cases(options.threads, machine.usable_cores())
    chosen = [case for case in chosen if wanted.search(f"{case.group}, {case.name}")]
    for group, its_cases in itertools.groupby(chosen, lambda case: case.group):
        print(f"\n{group}", flush=True)
        contests = [(case, contest_of(case, peak, options)) for case in its_cases]
        contests = [(case, contest) for case, contest in contests if contest is not None]
        timing.measure([contest for _, contest in contests], ROUNDS[options.quick])
        fastconv.set_num_threads(options.threads)
        fastconv.kernels.set_isa(isa)
        for case, contest in contests:
            row, rate = row_of(case, contest, peak)
            rows.append(row)
            print(report.text_line(row), flush=True)
            if rate is not None:
                rates.append(rate)
    return rows, rates


def run_epochs(wanted, options):
    """The rows of Fashion-MNIST."""
    import epochs
    import report

    names = epochs.names(options.threads)
    if not any(wanted.search(f"{epochs.GROUP}, {name}") for name in names):
        return []
    print(f"\n{epochs.GROUP}", flush=True)
    rows = epochs.measure(names, options.quick)
    for row in rows:
        print(report.text_line(row), flush=True)
    return rows


def run_on_more_threads(wanted, options):
    """The rows on two threads, from a process of its own: JAX reads how many it may have when it
    is imported."""
    import cases
    import epochs
    import goals
    import machine

    names = [f"{case.group}, {case.name}" for case in cases.threads_cases(goals.MORE)]
    names += [f"{epochs.GROUP}, {name}" for name in epochs.names(goals.MORE)]
    too_many = machine.usable_cores() < goals.MORE or options.threads >= goals.MORE
    if too_many or options.rows or not any(map(wanted.search, names)):
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        command = [sys.executable, __file__, "--threads", str(goals.MORE), "--rows", str(path)]
        command += ["--only", options.only, *["--quick"] * options.quick]
        subprocess.run(command, check=True)
        return [goals.row_of(fields) for fields in json.loads(path.read_text())]


def run_memory(wanted, options):
    import cases
    import goals
    import memory
    import report

    uses, peaks = [], []
    if not memory.can_measure():
        return uses, peaks
    for use in memory.measure(wanted, cases.PASSES):
        print(f"\n{memory.GROUP}\n" * (not uses) + report.memory_line(use), flush=True)
        uses.append(use)
    for peak in memory.measure_steps(wanted, [options.threads, goals.MORE]):
        print(f"\n{memory.STEPS}\n" * (not peaks) + report.peak_line(peak), flush=True)
        peaks.append(peak)
    return uses, peaks


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


def run_around(wanted, options):
    """Import time and size on disk, as the extras of report.markdown."""
    import report

    if not wanted.search("import, installed size"):
        return []
    seconds = import_seconds(2 if options.quick else 7)
    sizes = {name: installed_bytes(name) for name in ("fastconv", "torch")}
    extras = []
    for title, show, values in (
        ("import, in a new process", report.duration, seconds),
        ("installed size, without dependencies", report.size, sizes),
    ):
        ours, theirs = values.values()
        texts = {"fastconv": show(ours), "PyTorch": show(theirs)}
        extras.append((title, texts, theirs / ours))
        print(f"{title}: {texts}, {theirs / ours:.3g} times")
    return extras


def write(path, results, options, facts, peaks):
    """RESULTS.md and, if there is something to draw, the picture beside it."""
    import picture
    import report

    drawing = path.with_name(path.stem.lower() + ".svg")
    drawn = picture.draw(results[0], drawing)
    name = drawing.name if drawn else None
    parts = ["a quick run"] * options.quick + [f"only rows of /{options.only}/"] * bool(
        options.only
    )
    path.write_text(report.markdown(*results, facts, ", ".join(parts), name, peaks))


def main(arguments=None):
    options = parse(arguments)
    if options.readme and not options.write:
        readme.write()
        return 0
    if importlib.util.find_spec("torch") is None:
        print("the benchmark compares with PyTorch: pip install '.[bench]'", file=sys.stderr)
        return 2
    fix_threads(options.threads)
    import machine
    import peers
    import steps
    import torch
    from peak import Peak

    import fastconv

    load = os.getloadavg()[0]
    fastconv.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    missing = peers.missing()
    for name in missing:
        print(f"{name} is not installed and is left out: pip install '.[bench]'")
    if load > machine.BUSY:
        print(f"the machine is busy (load average {load:.2f}): these numbers are in doubt")
    peak, wanted = Peak(options.threads), re.compile(options.only)
    rows, rates = run_rows(wanted, options, peak)
    rows += run_epochs(wanted, options)
    if options.rows:
        Path(options.rows).write_text(json.dumps(rows))
        return 0
    rows += run_on_more_threads(wanted, options)
    uses, peaks = run_memory(wanted, options)
    results = rows, uses, run_around(wanted, options)
    if not any((*results, peaks)):
        print(f"no row matches {options.only!r}")
    elif options.write:
        facts = machine.facts(options.threads, peak, rates, load, missing + list(steps.left_out))
        write(Path(options.write), results, options, facts, peaks)
        if options.readme:
            readme.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
