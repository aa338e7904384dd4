"""Rows of results as text for the terminal and as Markdown."""

import goals
import memory
from goals import COMPILED, MATCHES, MORE, OURS, PREPARED


def duration(seconds):
    for unit, scale in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1 or unit == "µs":
            digits = (
                f"{seconds * scale:.3g}" if seconds * scale < 999.5 else f"{seconds * scale:.0f}"
            )
            return f"{digits} {unit}"
    return ""


def size(count):
    return f"{count / 1e6:.3g} MB" if count >= 1e5 else f"{count / 1e3:.3g} kB"


def ratio_text(ratio):
    return f"{ratio.median:.3g} ({ratio.low:.3g} – {ratio.high:.3g})"


def contender_text(row, name):
    text = duration(row.seconds[name])
    return f"{text}, {row.percents[name]:.0f} %" if name in row.percents else text


def text_line(row):
    """One line for the terminal."""
    ratios = " | ".join(f"{ratio_text(r)} beside {r.peer}" for r in row.ratios.values())
    sides = " | ".join(f"{name} {contender_text(row, name)}" for name in row.seconds)
    mark = "  <-- slower" if row.slower() else ""
    return f"{row.name:40} {row.algorithm:9} {ratios} || {sides}{mark}"


def memory_line(use):
    mark = "" if use.met() else "  <-- too much"
    return (
        f"{use.name:44} {use.algorithm:9} {size(use.extra)}, "
        f"{100 * use.extra / use.images:.0f} % of input and output{mark}"
    )


def peak_line(peak):
    mark = "" if peak.met() else "  <-- too much"
    sides = " | ".join(f"{name} {size(count)}" for name, count in peak.bytes.items())
    return f"{peak.name:40} {peak.part():.2f} of the least || {sides}{mark}"


# ---- Markdown -----------------------------------------------------------------------------------


def table(head, lines):
    text = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return text + ["| " + " | ".join(cells) + " |" for cells in lines]


def in_order(names):
    """Without repetition; fastconv's own first."""
    return sorted(dict.fromkeys(names), key=lambda name: name not in (OURS, PREPARED, COMPILED))


def rows_table(rows, missed):
    """The table of one group; columns that no row of it needs are left out."""
    names = in_order(name for row in rows for name in row.seconds)
    matches = [match for match in MATCHES if any(match in row.ratios for row in rows)]
    algorithms = any(row.algorithm for row in rows)
    head = ["", *(["algorithm"] * algorithms), *names]
    head += [f"ratio to {match}" for match in matches] + [""]
    lines = []
    for row in rows:
        fastest = {ratio.peer for ratio in row.ratios.values()}
        cells = [row.name, *([row.algorithm] * algorithms)]
        for name in names:
            text = contender_text(row, name) if name in row.seconds else "–"
            cells.append(f"*{text}*" if name in fastest else text)
        cells += [ratio_text(row.ratios[m]) if m in row.ratios else "–" for m in matches]
        lines.append([*cells, remark(row, missed.get((row.group, row.name), ""))])
    return table(head, lines)


def remark(row, failure):
    """What is to be pointed out: a row that is slower or misses a goal, and what bounds it."""
    words = ", ".join(word for word in ("SLOWER" if row.slower() else "", failure) if word)
    why = goals.bound(row) if failure else ""
    return ": ".join(part for part in (f"**{words}**" if words else "", why) if part)


def memory_table(uses):
    head = ["", "algorithm", "input and output", "plan's workspace", "measured", "part", ""]
    return table(
        head,
        [
            [
                use.name,
                use.algorithm,
                size(use.images),
                size(use.planned),
                size(use.extra),
                f"{100 * use.extra / use.images:.0f} %",
                "" if use.met() else "**MISSED**",
            ]
            for use in uses
        ],
    )


def peaks_table(peaks):
    head = ["", *peaks[0].bytes, "part of the least", ""]
    return table(
        head,
        [
            [
                peak.name,
                *map(size, peak.bytes.values()),
                f"{peak.part():.2f}",
                "" if peak.met() else f"**MISSED**: {memory.STEP_BOUND}",
            ]
            for peak in peaks
        ],
    )


def verdicts(rows, uses, peaks):
    """For each goal that something was measured for: on one thread and on more, None for neither."""
    found = [[goals.verdict(goal, rows, n) for n in (1, MORE)] for goal in goals.GOALS]
    found += [[memory.verdict(uses), None]] if uses else []
    found += [[memory.step_verdict(peaks), None]] if peaks else []
    return [pair for pair in found if any(pair)]


def is_met(pair):
    """Whether a goal is met wherever it was measured; None if a part of it was not."""
    parts = [verdict.met for verdict in pair if verdict is not None]
    return None if None in parts else all(parts)


def verdict_cells(pair):
    """A line of the table of goals."""
    words = {True: "met", False: "**MISSED**", None: "–"}
    about = next(verdict for verdict in pair if verdict is not None)
    cells = [about.work, about.beside, about.goal]
    for verdict in pair:
        mark = "**" if verdict is not None and verdict.met is False else ""
        shown = (verdict.mean, verdict.worst) if verdict is not None else ("", "")
        cells += [f"{mark}{text}{mark}" if text else "" for text in shown]
    return [*cells, words[is_met(pair)]]


def in_short(rows, uses, facts, peaks):
    """The goals, each with what was reached."""
    fact = dict(facts)
    found = verdicts(rows, uses, peaks)
    peers = [row for row in rows if any(MATCHES[m].is_outside() for m in row.ratios)]
    faster = sum(not row.slower() for row in peers)
    head = ["work", "beside", "goal", "geometric mean", "lowest"]
    head += [f"mean, {MORE} threads", f"lowest, {MORE} threads", ""]
    lines = table(head, [verdict_cells(pair) for pair in found])
    met = sum(is_met(pair) is True for pair in found)
    return [
        f"{fact['processor']}, threads: {fact['threads']}, fastconv {fact['fastconv']}, "
        f"{fact['date']}. Above 1×, fastconv is faster than the fastest of those beside it.",
        "",
        *lines,
        "",
        f"Goals met: {met} of {len(found)}. Faster than all that it is compared with in "
        f"{faster} of {len(peers)} rows.",
    ]


METHOD = """\
All contenders of a row run in one process, on the same numbers, one after another in rounds of
alternating order (A B C, C B A, ...). The rows of a table take turns, a round each: a spell in which
the machine is slow, or has one core less, touches a few rounds of many rows. A measurement is of as
many calls as last two milliseconds, after four milliseconds of calls that do not count: they fill the
caches again, and wake idle threads. Times are medians over the rounds. **A ratio is the time of the
fastest peer (in italics) over fastconv's, taken within each round: above 1, fastconv is faster.** Given
are its median and its quartiles. The percentage behind a time is the arithmetic of the direct method
(two operations for each multiply-add) over the time, as a part of the float32 multiply-add peak that a
loop of independent FMAs reached in the same rounds; algorithms that need fewer multiplications exceed
100 %. Results of the contenders are checked against each other first, to 0.1 % of the largest number
(MNN: 0.5 %; its Winograd on large images is no more precise). All arrays that are shared begin on a
cache line (64 bytes), as each library's own do, and NumPy's do not.

Rows whose names say so ran on two threads of each library, in a process of their own, with a pause
before each measurement in which idle threads go to sleep. A goal is met if it is met on one thread and
on two, where both were measured.

Like is compared with like. *fastconv* and PyTorch get their weights in each call; *fastconv prepared*
has transformed them before, as ONNX Runtime, OpenVINO, ncnn and MNN do when a model is loaded. Where
several ratios belong to a goal, the smallest counts. fastconv always runs on contiguous NCHW arrays,
with the layout changes it needs in the call; PyTorch on NCHW and on channels_last, and the better of
the two counts.

The four that load models run a model of one convolution with its bias, in float32, from NCHW to NCHW.
Copying the input into their memory is not counted: ONNX Runtime (I/O binding) and OpenVINO (bound
tensors, no CPU pinning) read and write NumPy's memory directly, as does *fastconv prepared* with
`out=`; ncnn reads it, and keeps its outputs in pools; MNN's input is in its session before, and its
output stays there. ncnn takes batches of 1 only.

Forward passes: PyTorch in `inference_mode`, fastconv in `no_grad`. Backward passes:
`torch.ops.aten.convolution_backward` with the output mask of what is asked for, and
`fastconv.kernels`.

Whole networks: *fastconv* is eager, *fastconv compiled* is `fastconv.compile`, of the step or of the network.
Eager is compared with PyTorch's eager alone; compiled with *any PyTorch* (eager, `SGD(fused=True)`,
channels_last where the network allows it, `torch.compile` with the fused optimizer, and with its
weights frozen for a forward pass), with JAX (`jit` of the whole step, old weights donated, the
faster of NCHW and NHWC; a call ends when all results are there) and with the *loaded models*. Before a
step gradients are forgotten, as is PyTorch's default; in a compiled step of fastconv they are set to
zero, its own default, and overwritten, but for those that it leaves to whoever looks (linear layers at
batch 1: nobody looks here); JAX's step returns the loss and the weights alone. Compiling and all else
that a first call does is not in the times. Fashion-MNIST: both sides begin with the same weights, get
the same batches (slices of arrays; no DataLoader), and train in turns, an epoch each; the time until
88 % counts the tests after each epoch.
Memory of a training step is the growth of the peak of the resident set of a process of its own over
what it had after its imports, in three steps.

Threads and instruction sets of fastconv are compared with each other in the same way: the settings
alternate. Beside two threads stand two loops of FMAs that share nothing, in the same rounds: where they
are not twice as fast as one, the second core of the machine was not there for anybody. Extra memory
is what a call adds to the memory of a new process, beside its result and the pages of fastconv's own
code that it is the first to run."""


def markdown(rows, uses, extras, facts, warning="", picture=None, peaks=()):
    """RESULTS.md. extras: [(title, {contender: text}, ratio)]; facts: [(name, value)]; warning: in
    what the run was not a whole one; picture: its file's name; peaks: of memory, in training."""
    lines = ["# fastconv beside the others", ""]
    if warning:
        lines += [f"**{warning}: not for quoting.**", ""]
    lines += [f"- {name}: {value}" for name, value in facts]
    lines += ["", METHOD, "", "## In short", ""]
    if picture:
        lines += [f"![Speed of every layer as a part of the processor's peak]({picture})", ""]
    lines += in_short(rows, uses, facts, peaks)
    missed = goals.failures(rows)
    for group in dict.fromkeys(row.group for row in rows):
        lines += ["", f"## {group}", ""]
        lines += rows_table([row for row in rows if row.group == group], missed)
    if uses:
        lines += ["", f"## {memory.GROUP}", "", *memory_table(uses)]
    if peaks:
        lines += ["", f"## {memory.STEPS}", "", *peaks_table(peaks)]
    if extras:
        cells = [[title, *values.values(), f"{ratio:.3g}"] for title, values, ratio in extras]
        lines += ["", "## Around it", "", *table(["", *extras[0][1], "ratio"], cells)]
    return "\n".join(lines) + "\n"
