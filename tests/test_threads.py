import multiprocessing
import os
import threading
import time

import numpy as np
import pytest
from example_calls import NAMES, example, examples
from helpers import check, check_bits, integers, normal, run_python

from fastconv import kernels

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def seconds_to(condition, limit=60):
    """Wait until the condition holds, no longer than the limit."""
    end = time.monotonic() + limit
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def rounded(e, dtype):
    """The example with numbers whose sums are rounded, so that the order of a sum would show."""
    rng = np.random.default_rng(3)
    for array in e.arrays:
        if array.dtype == dtype:
            array += rng.random(array.shape).astype(dtype)
    return e


@pytest.mark.parametrize("name", NAMES)
def test_bits_do_not_depend_on_threads(isa, dtype, threads, name):
    """Large enough for the pool to be used, and odd."""
    for size in (1, 37):
        e = rounded(example(name, dtype, size), dtype)
        threads(1)
        expected = e()
        for count in (2, 3, 4, 7):
            threads(count)
            for result, wanted in zip(e(), expected, strict=True):
                check_bits(result, wanted)


@pytest.mark.parametrize(
    "m,n,k", [(283, 120, 105), (73, 85, 54), (198, 241, 70), (139, 17, 289), (61, 28, 96)]
)
def test_products_of_any_height(isa, dtype, threads, rng, m, n, k):
    """Rows left over would be summed in another order, were they left over in the block of a thread alone."""
    x, w, dy = (normal(rng, shape, dtype) for shape in ((m, k), (n, k), (m, n)))
    products = [
        lambda: kernels.gemm(x, w, transpose_b=True),
        lambda: kernels.gemm(w, x, transpose_b=True),
        lambda: kernels.gemm(dy, w),
        lambda: kernels.linear_forward(x, w),
        lambda: kernels.linear_backward_input(dy, w),
        lambda: kernels.linear_backward_weight(dy, x)[0],
    ]
    for product in products:
        threads(1)
        expected = product()
        for count in (2, 3, 4, 7):
            threads(count)
            check_bits(product(), expected)


@pytest.mark.parametrize("m,n", [(1027, 1040), (1040, 1027)])
def test_large_products(isa, dtype, threads, rng, m, n):
    """A thread that has all of a large product to itself packs block by block; several share what is packed.

    Large: a matrix of more than eight times an L2 cache of 2 MiB.
    """
    k = (16 << 20) // (1027 * np.dtype(dtype).itemsize) + 1
    a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
    expected = a.astype(np.float64) @ b
    for count in (1, 2):
        threads(count)
        check(kernels.gemm(a, b), expected)


CONVOLUTIONS = [
    ((16, 1, 32, 32), (6, 1, 3, 3), (1, 0, 1, 1)),
    ((16, 6, 15, 15), (16, 6, 3, 3), (1, 0, 1, 1)),
    ((1, 40, 17, 19), (33, 40, 3, 3), (1, 1, 1, 1)),
    ((9, 8, 20, 21), (12, 4, 3, 3), (2, 1, 1, 2)),
    ((5, 20, 36, 36), (20, 20, 3, 3), (1, 1, 1, 1)),
    ((20, 12, 30, 30), (9, 12, 3, 3), (2, 1, 1, 1)),
    ((3, 64, 14, 14), (70, 64, 1, 1), (1, 0, 1, 1)),
    ((1, 3, 50, 51), (5, 3, 7, 7), (2, 3, 1, 1)),
    ((1, 3, 90, 51), (40, 3, 7, 7), (2, 3, 1, 1)),
    ((2, 24, 20, 20), (24, 1, 3, 3), (1, 1, 1, 24)),
]


@pytest.mark.parametrize("shape,filters,args", CONVOLUTIONS)
def test_bits_of_convolutions(isa, dtype, rng, threads, shape, filters, args):
    x, w, b = (normal(rng, s, dtype) for s in (shape, filters, filters[0]))
    threads(1)
    y = kernels.conv2d_forward(x, w, b, *args)
    dx = kernels.conv2d_backward_input(y, w, shape, *args)
    dw, db = kernels.conv2d_backward_weight(y, x, filters[2:], *args)
    for count in (2, 3, 4):
        threads(count)
        check_bits(kernels.conv2d_forward(x, w, b, *args), y)
        check_bits(kernels.conv2d_backward_input(y, w, shape, *args), dx)
        results = kernels.conv2d_backward_weight(y, x, filters[2:], *args)
        check_bits(results[0], dw)
        check_bits(results[1], db)


WINOGRAD = [  # the ways in which threads share it: C, K, rows and columns of the image, stride
    (64, 64, 56, 1),  # blocks of tiles
    (70, 150, 14, 1),  # panels of filters
    (128, 140, 56, 2),  # a part of the tiles for each thread
    (512, 290, 28, 1),  # all make and read the points of the tiles
]


@pytest.mark.parametrize("channels,filters,size,stride", WINOGRAD)
def test_bits_of_winograd(isa, rng, threads, channels, filters, size, stride):
    x = normal(rng, (1, channels, size, size), np.float32)
    w = normal(rng, (filters, channels, 3, 3), np.float32)
    handle = kernels.conv2d_prepare(w, x.shape, stride, 1, algorithm="winograd")
    threads(1)
    y = kernels.conv2d_forward(x, w, None, stride, 1, algorithm="winograd")
    dx = kernels.conv2d_backward_input(y, w, x.shape, stride, 1, algorithm="winograd")
    for count in (1, 2, 3, 4):
        threads(count)
        check_bits(kernels.conv2d_forward(x, w, None, stride, 1, algorithm="winograd"), y)
        check_bits(kernels.conv2d_forward(x, handle, None, stride, 1), y)
        again = kernels.conv2d_backward_input(y, w, x.shape, stride, 1, algorithm="winograd")
        check_bits(again, dx)


WEIGHT_GRADIENTS = [  # of several blocks of channels and filters, which threads divide in other ways
    ((70, 130, 4, 4), 130, 1),  # all tiles are one chunk
    ((1, 70, 60, 60), 150, 1),
    ((2, 130, 64, 40), 70, 1),  # pieces
    ((1, 140, 48, 64), 70, 2),  # several chunks, whose sums are kept
    ((3, 70, 62, 64), 140, 2),
]


@pytest.mark.parametrize("shape,filters,stride", WEIGHT_GRADIENTS)
def test_bits_of_weight_gradients(isa, rng, threads, shape, filters, stride):
    x = normal(rng, shape, np.float32)
    dy = normal(rng, (shape[0], filters, shape[2] // stride, shape[3] // stride), np.float32)
    threads(1)
    dw = kernels.conv2d_backward_weight(dy, x, 3, stride, 1, algorithm="winograd")[0]
    for count in (2, 3, 4, 7):
        threads(count)
        result = kernels.conv2d_backward_weight(dy, x, 3, stride, 1, algorithm="winograd")
        check_bits(result[0], dw)


def test_an_infinity_among_many_tiles(isa, rng, threads):
    """Whichever thread meets it: the call is done over without Winograd."""
    x, w = normal(rng, (5, 20, 36, 36), np.float32), normal(rng, (20, 20, 3, 3), np.float32)
    x[3, 7, 20, 30] = np.inf
    expected = kernels.conv2d_forward(x, w, padding=1, algorithm="gemm")
    for count in (1, 2, 3, 4):
        threads(count)
        check_bits(kernels.conv2d_forward(x, w, padding=1, algorithm="winograd"), expected)


@pytest.mark.parametrize(
    "m,n,k", [(200, 300, 70), (700, 100, 130), (1, 5000, 90), (5000, 1, 90), (30, 20, 3000)]
)
def test_bits_of_products(isa, dtype, rng, threads, m, n, k):
    a, b = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype)
    w = np.ascontiguousarray(b.T)
    threads(1)
    expected = (
        kernels.gemm(a, b),
        kernels.linear_forward(a, w),
        kernels.gemm(a, w, transpose_b=True),
    )
    for count in (2, 3, 4):
        threads(count)
        check_bits(kernels.gemm(a, b), expected[0])
        check_bits(kernels.linear_forward(a, w), expected[1])
        check_bits(kernels.gemm(a, w, transpose_b=True), expected[2])


def test_many_python_threads_at_once(threads):
    """One call owns the pool; the others run alone. All are right."""
    threads(3)
    cases = [rounded(e, np.float32) for e in examples(np.float32, 20)]
    expected = [e() for e in cases]
    wrong, barrier = [], threading.Barrier(8)

    def work(start):
        try:
            barrier.wait()
            for turn in range(3 * len(cases)):
                i = (start + turn) % len(cases)
                for result, wanted in zip(cases[i](), expected[i], strict=True):
                    check_bits(result, wanted)
        except BaseException as error:
            wrong.append(error)

    workers = [threading.Thread(target=work, args=(5 * i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert not wrong and not any(worker.is_alive() for worker in workers)


def product():
    a = np.arange(160_000, dtype=np.float32).reshape(400, 400) % 7
    return kernels.gemm(a, a)


def exit_status_of_child(work):
    """Fork, run `work` in the child, and wait for it: a child that hangs is ended."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = []

    def ended():
        found, code = os.waitpid(pid, os.WNOHANG)
        if found:
            status.append(os.waitstatus_to_exitcode(code))
        return bool(status)

    end = time.monotonic() + 60
    while not ended():
        if time.monotonic() > end:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            pytest.fail("the forked child hangs")
        time.sleep(0.01)
    return status[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_after_the_pool_was_used(threads):
    threads(3)
    expected = product()

    def child():
        check_bits(product(), expected)
        kernels.set_num_threads(4)
        check_bits(product(), expected)
        assert exit_status_of_child(lambda: check_bits(product(), expected)) == 0

    for _ in range(3):
        assert exit_status_of_child(child) == 0
        check_bits(product(), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_while_other_threads_compute(threads):
    """The pool may be taken at the moment of the fork: the child starts with a free one."""
    threads(2)
    expected, stop = product(), threading.Event()

    def busy():
        while not stop.is_set():
            product()

    worker = threading.Thread(target=busy)
    worker.start()
    try:
        for _ in range(5):
            assert exit_status_of_child(lambda: check_bits(product(), expected)) == 0
    finally:
        stop.set()
        worker.join(60)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_multiprocessing_with_fork(threads):
    threads(2)
    expected = product()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for result in [pool.apply_async(product) for _ in range(4)]:
            check_bits(result.get(60), expected)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_workers_go_where_the_caller_may(threads):
    """Woken on other processors than the caller's, they are not kept from it afterwards."""
    everywhere = os.sched_getaffinity(0)
    threads(3)
    expected = product()

    def places():
        tasks = os.listdir("/proc/self/task")
        return {frozenset(os.sched_getaffinity(int(task))) for task in tasks}

    a = np.ones((700, 700), np.float32)

    def everyone_is_free():
        """A worker that was still awake when the caller's processors changed is freed when it is next woken."""
        if places() == {frozenset(everywhere)}:
            return True
        kernels.gemm(a, a)
        return False

    try:
        for allowed in (everywhere, {min(everywhere)}, everywhere, {max(everywhere)}, everywhere):
            os.sched_setaffinity(0, allowed)
            for _ in range(3):
                time.sleep(0.01)  # the workers sleep
                check_bits(product(), expected)
            if len(allowed) > 1:
                assert seconds_to(everyone_is_free, limit=5)
    finally:
        os.sched_setaffinity(0, everywhere)


def test_the_gil_is_released(threads):
    """A Python thread that naps a millisecond at a time gets on while a product is computed."""
    threads(1)
    a, naps, stop = np.ones((1600, 1600)), [0], threading.Event()

    def nap():
        while not stop.is_set():
            time.sleep(0.001)
            naps[0] += 1

    worker = threading.Thread(target=nap)
    worker.start()
    try:
        most = 0
        for _ in range(5):
            before = naps[0]
            kernels.gemm(a, a)
            most = max(most, naps[0] - before)
    finally:
        stop.set()
        worker.join()
    assert most >= 10


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 17, np.int64(2)])
def test_set_num_threads(threads, count):
    threads(count)
    assert kernels.get_num_threads() == count


@pytest.mark.parametrize(
    "wrong", [0, -1, "a", "2", 2.5, 2.0, None, [2], 10**6, 2**31, 2**63, 10**30]
)
def test_set_num_threads_refuses(wrong):
    before = kernels.get_num_threads()
    with pytest.raises((ValueError, TypeError, OverflowError), match="threads"):
        kernels.set_num_threads(wrong)
    assert kernels.get_num_threads() == before


PRINT = "from fastconv import kernels; print(kernels.get_num_threads(), kernels.isa())"


def test_environment_is_honoured():
    for count in ("1", "3"):
        for isa in kernels.available_isas():
            run = run_python("-c", PRINT, FASTCONV_NUM_THREADS=count, FASTCONV_ISA=isa)
            assert run.stdout.split() == [count, isa], run.stderr
    run = run_python("-c", PRINT, FASTCONV_NUM_THREADS="", FASTCONV_ISA="")
    assert run.stdout.split()[1] == kernels.available_isas()[0], run.stderr


def test_no_more_threads_than_processors_by_default():
    run = run_python("-c", PRINT, OMP_NUM_THREADS="")
    assert 1 <= int(run.stdout.split()[0]) <= os.cpu_count()
    run = run_python("-c", PRINT, OMP_NUM_THREADS="99999999999999999999")
    assert run.stdout.split()[0] == "256", run.stderr


@pytest.mark.parametrize("value", ["0", "-1", "many", "2.5", "1 2", "99999999999999999999"])
def test_bad_number_of_threads_in_the_environment(value):
    run = run_python("-c", PRINT, FASTCONV_NUM_THREADS=value)
    assert run.returncode == 1
    assert "FASTCONV_NUM_THREADS" in run.stderr.splitlines()[-1] and value in run.stderr


@pytest.mark.parametrize("value", ["x86_v9", "AVX", "baseline "])
def test_bad_isa_in_the_environment(value):
    run = run_python("-c", PRINT, FASTCONV_ISA=value)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert "FASTCONV_ISA" in last and all(isa in last for isa in kernels.available_isas())
