"""Timing of several contenders side by side, in one process, on a machine that may drift.

Every round times each contender once, in an order that turns round each time (A B C, C B A, ...). A
ratio is taken within a round, so that both sides saw the same machine; its median over the rounds
counts. A slow spell of the machine then shows in the times, but hardly in the ratios.
"""

import gc
import statistics
import time
from typing import NamedTuple

SHORTEST = 2e-3  # seconds of one measurement: short calls are repeated until they fill it
MOST_ROUNDS = 101


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


def repeats_of(call):
    """Warm up, and find how many calls fill SHORTEST."""
    call()
    repeats = 1
    while True:
        seconds = one_measurement(call, repeats)
        if seconds * repeats >= SHORTEST / 2:
            return max(1, round(SHORTEST / seconds + 0.5))
        repeats *= 4


def measure(contenders, budget, settle=0.0, fewest=5):
    """Times of the contenders, a dict of names to calls, for about `budget` seconds, and
    for `fewest` rounds or more.

    Before each measurement: `settle` seconds, in which the idle threads of the contender before it
    stop spinning, and as many calls that are not counted, which fill the caches again.
    """
    repeats = {name: repeats_of(call) for name, call in contenders.items()}
    rounds = {name: [] for name in contenders}
    order = list(contenders)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + budget
        for i in range(MOST_ROUNDS):
            if i >= fewest and time.perf_counter() > end:
                break
            for name in order if i % 2 == 0 else reversed(order):
                time.sleep(settle)
                one_measurement(contenders[name], repeats[name])
                rounds[name].append(one_measurement(contenders[name], repeats[name]))
    finally:
        if collecting:
            gc.enable()
    return Times(rounds)
