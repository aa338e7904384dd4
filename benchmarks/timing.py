"""Timing of several contenders side by side, in one process, on a machine that may drift.

Every round times each contender once, in an order that turns round each time (A B C, C B A, ...). A
ratio is taken within a round, so that both sides saw the same machine; its median over the rounds
counts. A slow spell of the machine then shows in the times, but hardly in the ratios. And the rounds
of several rows take turns: a second in which another machine takes one of the cores costs each row a
round, and not one of them all of its rounds.
"""

import contextlib
import gc
import statistics
import time
from typing import NamedTuple

SHORTEST = 2e-3  # seconds of one measurement: short calls are repeated until they fill it
WARM_UP = 4e-3  # seconds of calls before it: threads that slept are slow for three
MOST_ROUNDS = 101
NAP = 0.005  # seconds; a process that works less than a tenth of them is asleep
MOST_NAPS = 100  # for threads that never sleep


class Spread(NamedTuple):
    """The median, and the quartiles around it."""

    median: float
    low: float
    high: float


def spread(values):
    values = sorted(values)
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


class Times:
    """Seconds per call of each contender, round by round."""

    def __init__(self, rounds):
        self.rounds = rounds

    def seconds(self, name):
        """The median time of one call."""
        return statistics.median(self.rounds[name])

    def ratio(self, peer, ours):
        """The spread of peer's time over ours, round by round: above 1, ours is the faster."""
        pairs = zip(self.rounds[peer], self.rounds[ours], strict=True)
        return spread([a / b for a, b in pairs])

    def best(self, peers, ours):
        """The one of `peers` that is the fastest, beside `ours`."""
        return min(peers, key=lambda peer: self.ratio(peer, ours).median)


def one_measurement(call, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def warm_up(call):
    end = time.perf_counter() + WARM_UP
    call()
    while time.perf_counter() < end:
        call()


def repeats_of(call):
    """How many calls fill SHORTEST."""
    warm_up(call)
    repeats = 1
    while True:
        seconds = one_measurement(call, repeats)
        if seconds * repeats >= SHORTEST / 2:
            return max(1, round(SHORTEST / seconds + 0.5))
        repeats *= 4


def settle():
    """Wait until idle threads have gone to sleep: those of PyTorch and ncnn spin for 10 ms after a call, ONNX
    Runtime's for 35, OpenBLAS's for 55 or, on another processor, for 105."""
    for _ in range(MOST_NAPS):
        start = time.process_time()  # of all threads
        time.sleep(NAP)
        if time.process_time() - start < NAP / 10:
            return


class Contest:
    """The contenders of one row, a dict of names to calls: rounds for about `budget` seconds.

    Before each measurement: where `threaded`, a pause in which the idle threads of the contender before
    it go to sleep; and calls that are not counted, which fill the caches again and wake its own. All of
    it happens within a context that `within` makes.
    """

    def __init__(self, contenders, budget, threaded=False, within=contextlib.nullcontext):
        self.contenders, self.budget = contenders, budget
        self.threaded, self.within = threaded, within
        self.times = Times({name: [] for name in contenders})
        self.rounds, self.spent = 0, 0.0
        with within():
            self.repeats = {name: repeats_of(call) for name, call in contenders.items()}

    def round(self):
        start, order = time.perf_counter(), list(self.contenders)
        with self.within():
            for name in order if self.rounds % 2 == 0 else reversed(order):
                call, repeats = self.contenders[name], self.repeats[name]
                if self.threaded:
                    settle()
                warm_up(call)
                self.times.rounds[name].append(one_measurement(call, repeats))
        self.rounds += 1
        self.spent += time.perf_counter() - start

    def is_over(self, fewest):
        enough = self.rounds >= fewest and self.spent > self.budget
        return enough or self.rounds == MOST_ROUNDS


def measure(contests, fewest=5):
    """The rounds of all contests, in turns: of each `fewest` or more."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        while open_ones := [contest for contest in contests if not contest.is_over(fewest)]:
            for contest in open_ones:
                contest.round()
    finally:
        if collecting:
            gc.enable()
