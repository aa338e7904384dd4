"""How much memory a convolution takes beside its arrays; see test_memory.py.

A program of its own: each call is measured in a forked child, whose scratch memory is fresh, after
a small call that makes the same code present.
"""

import math
import os

import numpy as np
from test_algorithms import PASSES, algorithms, operands, plan, run
from test_conv2d import Case

from fastconv import kernels

LAYERS = [
    Case((32, 3, 32, 32), 32, (3, 3), padding=1),
    Case((1, 3, 224, 224), 64, (7, 7), stride=2, padding=3),
    Case((1, 64, 56, 56), 64, (3, 3), padding=1),
    Case((1, 128, 28, 28), 128, (3, 3), padding=1),
    Case((1, 256, 14, 14), 256, (3, 3), padding=1),
    Case((1, 512, 7, 7), 512, (3, 3), padding=1),
    Case((1, 512, 28, 28), 512, (3, 3), padding=1),
    Case((1, 144, 56, 56), 144, (3, 3), padding=1, groups=144),
    Case((1, 96, 112, 112), 96, (3, 3), stride=2, padding=1, groups=96),
]
FLOAT = np.dtype(np.float32)


def peak():
    """Bytes: the most that this process has ever had in memory."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def ones(case):
    return [np.full(shape, 1, FLOAT) for shape in (case.x, case.w, case.K, case.y)]


def growth(case, which, algorithm):
    """Bytes by which the peak of a child rises, less its result."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        few = 4 if case.groups == 1 else case.groups
        small = Case((1, few, 8, 8), few, case.kernel, *case.args)
        run(small, which, operands(small, which, *ones(small)), algorithm)
        arrays = ones(case)
        given = operands(case, which, *arrays)
        before = peak()
        result = run(case, which, given, algorithm)
        os.write(write, str(peak() - before - result.nbytes).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    os.waitpid(child, 0)
    return int(text)


def main():
    """Of each call: threads, bytes measured, planned and allowed, and what it was."""
    for threads in (1, 2):
        kernels.set_num_threads(threads)
        for case in LAYERS:
            for which in PASSES:
                allowed = sum(math.prod(size) for size in (case.x, case.y))  # a quarter, in bytes
                for name in algorithms(case, which, FLOAT):
                    planned = plan(case, which, FLOAT, algorithm=name).workspace
                    grown = growth(case, which, name)
                    print(threads, grown, planned, max(allowed, 2**22), name, which, case)


if __name__ == "__main__":
    main()
