"""The benchmark's report: goals are judged by all the rows that they cover, and nothing is hidden."""

import importlib
from pathlib import Path

import pytest

from fastconv import kernels

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
FORWARD, BACKWARD = "3×3 stride 1, forward", "3×3 stride 1, backward"
FACTS = [("processor", "P"), ("threads", "1"), ("fastconv", "F"), ("date", "today")]


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return [importlib.import_module(name) for name in ("goals", "report", "readme", "memory")]


def make_row(goals, group, name, **ratios):
    """ratios: by the first peer of a match."""
    matches = {match: key for key in ratios for match in goals.MATCHES if match.startswith(key)}
    found = {m: goals.Ratio(k, ratios[k], ratios[k], ratios[k]) for m, k in matches.items()}
    seconds = dict.fromkeys(("fastconv", "fastconv prepared", *ratios), 1e-3)
    return goals.Row(group, name, "gemm", seconds, dict.fromkeys(seconds, 50.0), found)


def judged(goals, work, rows, threads=1):
    goal = next(goal for goal in goals.GOALS if goal.work == work)
    return goals.verdict(goal, rows, threads)


def test_the_smaller_ratio_counts(modules):
    goals = modules[0]
    rows = [
        make_row(goals, FORWARD, "a", PyTorch=3.0, ORT=6.0, ncnn=2.0),
        make_row(goals, FORWARD, "b", PyTorch=8.0, ORT=3.0, ncnn=0.9),
    ]
    verdict = judged(goals, FORWARD, rows)
    assert (verdict.mean, verdict.worst, verdict.met) == ("3×", "3× (a)", True)
    verdict = judged(goals, f"{FORWARD}, prepared", rows)  # the mean is enough, the lowest is not
    assert (verdict.mean, verdict.worst, verdict.met) == ("1.34×", "0.9× (b)", False)
    assert goals.failures(rows) == {(FORWARD, "b"): "MISSED: under 0.95×"}


def test_a_mean_is_of_its_own_pass(modules):
    goals = modules[0]
    rows = [
        make_row(goals, BACKWARD, "a, backward-input", PyTorch=5.0),
        make_row(goals, BACKWARD, "b, backward-input", PyTorch=1.0),
        make_row(goals, BACKWARD, "a, backward-weight", PyTorch=9.0),
    ]
    assert judged(goals, f"{BACKWARD}-input", rows).mean == "2.24×"
    assert judged(goals, f"{BACKWARD}-weight", rows).met is True
    assert goals.failures(rows) == {(BACKWARD, "b, backward-input"): "under the mean of 2.5×"}


def test_each_number_of_threads_is_judged_by_itself(modules):
    goals, report, _, _ = modules
    rows = [
        make_row(goals, FORWARD, "a", PyTorch=3.0, ORT=6.0),
        make_row(goals, FORWARD, "a, 2 threads", PyTorch=1.0, ORT=6.0),
    ]
    pair = [judged(goals, FORWARD, rows, threads) for threads in (1, 2)]
    assert [(v.mean, v.worst, v.met) for v in pair] == [
        ("3×", "3× (a)", True),
        ("1×", "1× (a)", False),
    ]
    assert report.verdict_cells(pair)[-3:] == ["**1×**", "**1× (a)**", "**MISSED**"]
    assert [report.is_met(p) for p in (pair, pair[:1])] == [False, True]
    assert goals.failures(rows) == {(FORWARD, "a, 2 threads"): "MISSED: under 1.2×"}


def test_what_was_not_measured_is_not_met(modules):
    goals = modules[0]
    rows = [
        make_row(goals, FORWARD, "a", PyTorch=9.0, ORT=9.0),
        make_row(goals, FORWARD, "b", PyTorch=9.0),
    ]
    verdict = judged(goals, FORWARD, rows)
    assert (verdict.mean, verdict.met) == ("not measured", None)
    assert judged(goals, "pooling", rows) is None


def test_results_and_readme(modules, monkeypatch):
    goals, report, readme, memory = modules
    bounds = {(FORWARD, "b"): "the stores"}
    monkeypatch.setattr(goals, "COUNTED", {("", kernels.isa()): bounds})
    rows = [
        make_row(goals, FORWARD, "a", PyTorch=3.0, ORT=6.0, ncnn=2.0),
        make_row(goals, FORWARD, "b", PyTorch=0.5, ORT=3.0, ncnn=2.0),
    ]
    uses = [memory.Use("a, forward", "gemm", 8 << 20, 0, 5 << 20)]
    text = report.markdown(rows, uses, [], FACTS, "a quick run", "results.svg")
    assert "**a quick run: not for quoting.**" in text
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert lines["b"].endswith("| **SLOWER, MISSED: under 1.2×**: the stores |")
    assert lines["a, forward"].endswith("| **MISSED** |")
    monkeypatch.setattr(goals, "COUNTED", {("another", kernels.isa()): bounds})
    assert "the stores" not in report.markdown(rows, uses, [], FACTS, "", "results.svg")
    block = readme.block(text)
    assert "](benchmarks/results.svg)" in block and "## " not in block
    assert "Goals met: 1 of 3." in block and "in 1 of 2 rows" in block
    assert block.count("**MISSED**") == 2
