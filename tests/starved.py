"""Calls whose workspace there is no memory for; see test_memory.py.

A program of its own, so that the limit holds nobody else up. Each call is made in a new thread, whose
workspace is still to be asked for; its result fits into what malloc keeps for small blocks.
"""

import ctypes
import resource
import threading

import numpy as np

import fastconv
from fastconv import kernels, nn

PAGE = resource.getpagesize()
BLOCK = 64 << 10  # less than any workspace of these calls
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
X = np.ones((2, 64, 28, 28), np.float32)
W = np.ones((64, 64, 3, 3), np.float32)
Y = np.empty((2, 64, 28, 28), np.float32)


def starved(call):
    """What a call raises where no more memory is to be had, or None."""
    raised, taken = [], []

    def run():
        before = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * PAGE
        resource.setrlimit(resource.RLIMIT_AS, (used + 8 * PAGE, before[1]))
        while block := libc.malloc(BLOCK):  # what was freed before, in which a workspace might fit
            taken.append(block)
        try:
            call()
        except MemoryError as error:
            raised.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
            for block in taken:
                libc.free(block)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def convolution(algorithm):
    return lambda: kernels.conv2d_forward(X, W, padding=1, algorithm=algorithm, out=Y)


def product():
    kernels.gemm(X.reshape(128, -1), X.reshape(128, -1).T, out=C)


def compiled():
    """A network whose first calls are a chain."""
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 3), nn.AdaptiveAvgPool2d(1)
    )
    replayed, x = fastconv.compile(net), fastconv.ones(64, 1, 32, 32)
    with fastconv.no_grad():
        for _ in range(3):
            expected = replayed(x).numpy()
    assert replayed._compiled._last.chains

    def call():
        with fastconv.no_grad():
            assert (replayed(x).numpy() == expected).all()

    return call


C = np.empty((128, 128), np.float32)
fastconv.set_num_threads(1)
calls = {name: convolution(name) for name in ("gemm", "winograd", "direct")}
calls |= {"product": product, "chain": compiled()}
for name, call in calls.items():
    call()
    message = starved(call)
    assert message and "workspace" in message, (name, message)
    call()
    print(name)
print("done")
