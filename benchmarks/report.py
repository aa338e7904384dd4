"""Rows of results as text for the terminal and as Markdown."""

import datetime
import os
import platform
import re
from pathlib import Path
from typing import NamedTuple

OURS = "fastconv"
WORST = 5  # so many of the lowest ratios are marked


class Row(NamedTuple):
    """One measured case. seconds, percents: by contender; ratio: the best peer's time over ours."""

    group: str
    name: str
    seconds: dict[str, float]
    percents: dict[str, float]
    peer: str
    ratio: tuple[float, float, float]
    goal: tuple[str, float] | None

    def achieved(self):
        """What the goal is compared with."""
        return self.ratio[0] if self.goal[0] == "ratio" else self.percents[OURS] / 100

    def met(self):
        return self.achieved() >= self.goal[1]


def duration(seconds):
    for unit, scale in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1 or unit == "µs":
            return (
                f"{seconds * scale:.3g} {unit}"
                if seconds * scale < 999.5
                else f"{seconds * scale:.0f} {unit}"
            )
    return ""


def size(count):
    return f"{count / 1e6:.3g} MB" if count >= 1e5 else f"{count / 1e3:.3g} kB"


def goal_text(row):
    if row.goal is None:
        return ""
    kind, value = row.goal
    wanted = f"≥ {value:g}×" if kind == "ratio" else f"≥ {100 * value:g} % of peak"
    return f"{wanted}: {'met' if row.met() else 'MISSED'}"


def ratio_text(row):
    middle, low, high = row.ratio
    return f"{middle:.3g} ({low:.3g} – {high:.3g})"


def marks(rows):
    """By row: what to point out. The WORST lowest ratios below 1.05 are among it."""
    lowest = sorted(rows, key=lambda row: row.ratio[0])[:WORST]
    found = {}
    for row in rows:
        words = []
        if row.ratio[0] < 1:
            words.append("SLOWER")
        if row in lowest and row.ratio[0] < 1.05:
            words.append("worst")
        if row.goal is not None and not row.met():
            words.append("GOAL MISSED")
        found[row.group, row.name] = ", ".join(words)
    return found


def contender_text(row, name):
    text = duration(row.seconds[name])
    return f"{text}, {row.percents[name]:.0f} %" if name in row.percents else text


def text_line(row):
    """One line for the terminal."""
    sides = " | ".join(f"{name} {contender_text(row, name)}" for name in row.seconds)
    mark = "  <-- slower" if row.ratio[0] < 1 else ""
    goal = f"  [{goal_text(row)}]" if row.goal else ""
    return f"{row.name:32} {ratio_text(row):22} {sides}{goal}{mark}"


def table(rows, found):
    """The Markdown table of one group."""
    names = list(dict.fromkeys(name for row in rows for name in row.seconds))
    head = ["", *names, "ratio (quartiles)", "goal", ""]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        times = {name: contender_text(row, name) for name in row.seconds}
        times[row.peer] = f"*{times[row.peer]}*"
        mark = found[row.group, row.name]
        cells = [row.name, *(times.get(name, "–") for name in names), ratio_text(row)]
        cells += [goal_text(row), f"**{mark}**" if mark else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


# ---- the machine --------------------------------------------------------------------------------


def processor():
    """The model's name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        return re.search(r"^model name\s*:\s*(.+)$", text, re.M).group(1).strip()
    except (OSError, AttributeError):
        return platform.processor() or platform.machine()


def caches():
    """For example "L1 32K, L2 1024K, L3 32768K", of the first core."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, cache = (
                (folder / f).read_text().strip() for f in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}"] = cache
    return ", ".join(f"{level} {cache}" for level, cache in found.items()) or "unknown"


def usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


METHOD = """\
All contenders of a row run in one process, on the same numbers, one after another in rounds of
alternating order (A B C, C B A, ...), each measurement after a call that does not count, and
repeated until it lasts a millisecond or more. Times are medians over the rounds. **A ratio is the
time of the fastest peer (in italics) over fastconv's, taken within each round: above 1, fastconv is
faster.** Given are its median and its quartiles. The percentage behind a time is the arithmetic of
the direct method (two operations for each multiply-add) over the time, as a part of the float32
multiply-add peak that a loop of independent FMAs reached in the same rounds.

fastconv always runs on contiguous NCHW arrays; PyTorch on NCHW and on channels_last, and the better
of the two counts. Forward passes: PyTorch in `inference_mode`, fastconv in `no_grad`. Backward
passes: `torch.ops.aten.convolution_backward` with the output mask of what is asked for, and
`fastconv.kernels`. PyTorch has oneDNN on. Training steps are eager on both sides; "fused" is
PyTorch's `SGD(fused=True)`. Results of the contenders are checked against each other first."""


def markdown(rows, extras, facts, quick):
    """RESULTS.md. extras: [(title, {contender: text}, ratio)]; facts: [(name, value)]."""
    found = marks(rows)
    slower = [row for row in rows if row.ratio[0] < 1]
    goals = [row for row in rows if row.goal is not None]
    missed = [row for row in goals if not row.met()]
    lines = ["# fastconv beside PyTorch", ""]
    if quick:
        lines += ["**A quick run, to check the script: not for quoting.**", ""]
    lines += [f"- {name}: {value}" for name, value in facts]
    lines += ["", METHOD, "", "## In short", ""]
    lines.append(f"fastconv is faster in {len(rows) - len(slower)} of {len(rows)} rows.")
    if slower:
        worst = sorted(slower, key=lambda row: row.ratio[0])[:WORST]
        listed = "; ".join(f"{r.group}, {r.name}: {r.ratio[0]:.3g}" for r in worst)
        lines.append(f"It is slower in {len(slower)}, marked below; the worst: {listed}.")
    if goals:
        lines.append(f"Goals met: {len(goals) - len(missed)} of {len(goals)}.")
    if missed:
        lines.append(f"Missed: {'; '.join(f'{r.group}, {r.name}' for r in missed)}.")
    for group in dict.fromkeys(row.group for row in rows):
        lines += ["", f"## {group[0].upper()}{group[1:]}", ""]
        lines += table([row for row in rows if row.group == group], found)
    if extras:
        names = list(extras[0][1])
        lines += ["", "## Around it", "", "| | " + " | ".join(names) + " | ratio |"]
        lines.append("|" + "---|" * (len(names) + 2))
        for title, values, ratio in extras:
            lines.append(f"| {title} | {' | '.join(values.values())} | {ratio:.3g} |")
    return "\n".join(lines) + "\n"


def today():
    return datetime.date.today().isoformat()
