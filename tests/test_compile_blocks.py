"""Chains: calls that are replayed block of images by block, to the same bits, where no call sees other images."""

import itertools
import threading

import numpy as np
import pytest
from test_conv2d import CASES
from twins import Twin, bits, compare, state_of, training_step

import fastconv
from fastconv import kernels, nn, optim
from fastconv.autograd import Tensor
from fastconv.compiler import blocks
from fastconv.models import Net

ALGORITHMS = [name for name in kernels.ALGORITHMS if name != "auto"]


@pytest.fixture
def small(monkeypatch):
    """Blocks of as few images as can be, for batches of any size."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    monkeypatch.setattr(blocks, "MOST_BYTES", 2**40)
    monkeypatch.setattr(blocks, "LEAST_BYTES", 0)
    monkeypatch.setattr(blocks, "BESIDES", np.inf)


def random(rng, shape, dtype=np.float32):
    return Tensor(np.asarray(rng.standard_normal(shape), dtype))


def compiled_chains(function, *args):
    """The kernels of each chain of the plan that the calls end with; their results have the bits of eager execution."""
    expected = bits(function(*args))
    replayed = fastconv.compile(function)
    for _ in range(4):
        assert bits(replayed(*args)) == expected
    return [[cut.call.kernel for cut in chain.cuts] for chain in replayed._last.chains]


# ---- what chains rely on -----------------------------------------------------------------------------------


def pieces(images, together):
    """Ways to cut so many images into blocks: multiples of `together`, and the rest."""
    for block in {together, 2 * together, 5 * together}:
        starts = range(0, images, block)
        yield [slice(start, start + block) for start in starts]


def check_pieces(function, arrays, together, label):
    """The results for blocks of the arrays' images are those for all of them."""
    whole = function(*arrays)
    for cut in pieces(len(arrays[0]), together):
        parts = np.concatenate([function(*(a[part] for a in arrays)) for part in cut])
        assert parts.tobytes() == whole.tobytes(), (label, cut[0])


def with_extremes(x):
    """Some images with an infinity, a NaN, and negative zeros."""
    x = x.copy()
    x[1, ..., 0, 0], x[-1, ..., -1, -1] = np.inf, np.nan
    x[2] = -0.0
    return x


def convolution(which, w, shape, window, algorithm):
    """A function of x, or of dy."""
    if which == "forward":
        return lambda x: kernels.conv2d_forward(x, w, None, *window, algorithm=algorithm)
    return lambda dy: kernels.conv2d_backward_input(
        dy, w, (len(dy), *shape[1:]), *window, algorithm=algorithm
    )


@pytest.mark.parametrize("images", [13, 37])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolutions_of_blocks(rng, isa, dtype, case, images):
    shape, window = (images, *case.x[1:]), (*case.args, *(1, 0, 1, 1)[len(case.args) :])
    x, w = (np.asarray(rng.standard_normal(s), dtype) for s in (shape, case.w))
    y = kernels.conv2d_forward(x, w, None, *window)
    if x.size == 0 or y.size == 0 or w.size == 0:
        return
    for algorithm, (which, given) in itertools.product(
        ALGORITHMS, {"forward": x, "backward_input": y}.items()
    ):
        function = convolution(which, w, shape, window, algorithm)
        try:
            with kernels.Recording() as recording:
                function(given)
        except ValueError:  # not an algorithm of this shape
            continue
        kernel, _, words, _ = recording.calls[0]
        name, together = kernels.recorded_algorithm(kernel, words, dtype == np.float64)
        assert name == algorithm
        if together:
            given = with_extremes(given)
            turned = np.ascontiguousarray(given.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
            check_pieces(function, [given], together, (algorithm, which))
            check_pieces(function, [turned], together, (algorithm, which, "turned"))


WINDOWS = [
    # H, W, kernel, stride, padding
    (30, 30, 2, 2, 0), (13, 13, 2, 2, 0), (15, 17, 3, 2, 1), (9, 5, 3, 1, 1), (7, 7, 7, 1, 0), (4, 4, 3, 3, 0),
    (40, 6, 5, 2, 2), (9, 17, 4, 2, 1),
]  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_pools_of_blocks(rng, isa, dtype, window):
    H, W, *args = window
    x = with_extremes(np.asarray(np.maximum(rng.standard_normal((11, 3, H, W)), 0), dtype))
    y, indices = kernels.max_pool2d_forward(x, *args)
    dy = with_extremes(np.asarray(rng.standard_normal(y.shape), dtype))
    P, Q = y.shape[2:]
    for place in (0, 1):
        check_pieces(lambda x, p=place: kernels.max_pool2d_forward(x, *args)[p], [x], 1, "max")
    check_pieces(
        lambda d, i: kernels.max_pool2d_backward(d, i, (len(d), *x.shape[1:]), *args),
        [dy, indices], 1, "gradient of max",
    )  # fmt: skip
    check_pieces(lambda x: kernels.avg_pool2d_forward(x, *args), [x], 1, "average")
    check_pieces(
        lambda d: kernels.avg_pool2d_backward(d, (len(d), *x.shape[1:]), *args), [dy], 1, "average"
    )
    check_pieces(lambda x: kernels.adaptive_avg_pool2d_forward(x, (P, Q)), [x], 1, "adaptive")
    check_pieces(
        lambda d: kernels.adaptive_avg_pool2d_backward(d, (len(d), *x.shape[1:])), [dy], 1, "adaptive"
    )  # fmt: skip


# ---- chains that are made -----------------------------------------------------------------------------------


def pooling_net():
    """As the tutorial's, with pools that a convolution does not do itself: calls of their own."""
    pool = nn.MaxPool2d(3, 2, 1)
    layers = nn.Conv2d(1, 6, 3), nn.ReLU(), pool, nn.Conv2d(6, 16, 3), nn.ReLU(), pool, nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(784, 10))


def test_the_chains_of_a_step(rng, threads):
    threads(2)
    net, criterion = pooling_net(), nn.MSELoss()
    optimizer = optim.SGD(net.parameters(), lr=0.01)

    step = fastconv.compile(training_step(net, optimizer, criterion))
    for _ in range(3):
        step(random(rng, (64, 1, 32, 32)), random(rng, (64, 10)))
    (forward,) = (
        step._last.chains
    )  # the gradients of the weights read what a chain of gradients would write
    names = [cut.call.kernel for cut in forward.cuts]
    assert names == ["conv2d_forward", "max_pool2d_forward"] * 2
    assert forward.blocks % 2 == 0 and forward.block * forward.blocks >= 64
    assert len(forward.own) == 2, "what the pools read; the gradients read what they write"


def test_inference_needs_the_memory_of_a_block(rng, threads):
    threads(1)
    net = Net()
    replayed = fastconv.compile(net)
    x = random(rng, (128, 1, 32, 32))
    with fastconv.no_grad():
        for _ in range(3):
            replayed(x)
    (chain,) = replayed._compiled._last.chains
    assert len(chain.own) == 1, "the last result is read outside"
    assert replayed._compiled._last.arena.nbytes + chain.own_bytes < 128 * 6 * 15 * 15 * 4
    explanation = replayed._compiled.explain()
    assert [row.blocks for row in explanation.rows][:3] == [chain.blocks] * 2 + [1]
    assert all(row.microseconds > 0 for row in explanation.rows)


def test_on_one_thread_a_step_is_not_cut_in_vain(rng, threads):
    """Its gradients need as much memory as the forward."""
    threads(1)
    net = Net()

    @fastconv.compile
    def gradients(x):
        net.zero_grad()
        net(x).sum().backward()

    for _ in range(3):
        gradients(random(rng, (64, 1, 32, 32)))
    assert gradients._last.chains == []


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 7, 16, 31, 48, 53])
def test_bits(rng, isa, threads, small, n, count):
    threads(count)
    for dtype in (np.float32, np.float64):
        net = Net().double() if dtype is np.float64 else Net()
        x, wanted = random(rng, (n, 1, 32, 32), dtype), random(rng, (n, 10), dtype)

        def forward(x, net=net):
            return net(x)

        def step(x, wanted, net=net):
            net.zero_grad()
            loss = ((net(x) - wanted) ** 2).sum()
            loss.backward()
            return loss

        with fastconv.no_grad():
            assert (
                compiled_chains(forward, x) or n <= 16
            )  # which may be one block: images are lanes
        step(x, wanted)
        expected = state_of(net)
        compiled_chains(step, x, wanted)
        assert state_of(net) == expected


def test_twins(rng, threads, small):
    threads(2)
    pair = [
        Twin(flag, pooling_net(), lambda p: optim.SGD(p, lr=0.05, momentum=0.9), nn.MSELoss())
        for flag in (False, True)
    ]
    pair[1].net.load_state_dict(pair[0].net.state_dict())
    for n in (33, 33, 33, 48, 48, 33):
        compare(*pair, (random(rng, (n, 1, 32, 32)), random(rng, (n, 10))))
    assert pair[1].step._last.chains


CHAINED = {
    "pointwise": lambda x: (x.relu() + x).tanh(),
    "between": lambda x: nn.functional.avg_pool2d(x.relu() * 2, 2).exp(),
    "a view": lambda x: nn.functional.max_pool2d(x.exp(), 2).view(len(x), -1).relu(),
    "compared": lambda x: x.exp() > x.relu(),
    "adaptive": lambda x: nn.functional.adaptive_avg_pool2d(nn.functional.avg_pool2d(x, 3, 1, 1), 3),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINED)
def test_functions_of_images(rng, isa, dtype, threads, small, name):
    threads(2)
    for n in (2, 5, 32):
        compiled_chains(CHAINED[name], random(rng, (n, 3, 12, 12), dtype))


def test_a_result_inside_of_a_chain_is_whole(rng, threads, small):
    threads(2)
    net = nn.Conv2d(1, 4, 3)

    def function(x):
        y = net(x)
        rectified = y.relu()
        return nn.functional.max_pool2d(rectified.exp(), 2), y, rectified[1:3]

    with fastconv.no_grad():
        assert compiled_chains(function, random(rng, (9, 1, 12, 12)))


def test_an_input_of_any_strides(rng, threads, small):
    threads(2)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2))
    whole = rng.standard_normal((24, 10, 3, 11)).astype(np.float32).transpose(0, 2, 1, 3)
    with fastconv.no_grad():
        for x in (whole, whole[::-1], whole[::2], np.broadcast_to(whole[:1], (24, 3, 10, 11))):
            assert compiled_chains(lambda x: net(x), Tensor(x))


def test_weights_that_are_ready(rng, threads, small):
    """A convolution of a chain reads prepared weights, and new ones when they were changed."""
    threads(2)
    net = nn.Sequential(nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 7, padding=3), nn.ReLU())
    replayed = fastconv.compile(net)
    with fastconv.no_grad():
        for turn in range(6):
            x = random(rng, (20, 8, 20, 20))
            assert bits(replayed(x)) == bits(net(x))
            if turn == 3:
                net[0].weight *= 2
    assert replayed._compiled._last.chains


# ---- chains that are not made ---------------------------------------------------------------------------------


def chained(kernel, found):
    return any(kernel in names for names in found)


def test_no_sums_over_the_batch(rng, threads, small):
    threads(2)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    x = random(rng, (20, 1, 12, 12))
    replayed = fastconv.compile(net)
    for _ in range(4):
        with fastconv.no_grad():
            replayed(x)
    found = [[cut.call.kernel for cut in c.cuts] for c in replayed._compiled._last.chains]
    assert not chained("batch_norm_forward", found) and not chained("conv2d_forward", found)


def test_nothing_is_broadcast_along_the_batch(rng, threads, small):
    threads(2)
    first = random(rng, (1, 3, 12, 12))
    x = random(rng, (8, 3, 12, 12))
    pool = nn.functional.max_pool2d
    assert not compiled_chains(lambda x: pool(x + first, 3), x)
    assert not compiled_chains(lambda x: pool(x + x[:1], 3), x)
    assert not compiled_chains(lambda x: pool(x + 1.0, 3), x)
    assert compiled_chains(lambda x: pool(x + x, 3), x)


def test_no_call_sees_other_images(rng, threads, small):
    """A part of what another call of the chain writes, or the same elements as another number of images."""
    threads(2)
    x = random(rng, (8, 4, 12, 12))
    pool = nn.functional.max_pool2d

    def turned(x):
        y = x.exp()
        return pool(y.view(4, 8, 12, 12), 3), pool(y, 3)

    def shifted(x):
        y = pool(x, 3)
        return y[1:].exp() + y[:-1]

    for function in (turned, shifted):
        compiled_chains(function, x)

    def parts(x):
        y = x.exp()
        return pool(y[4:], 3), pool(y[:4], 3)

    assert not chained("exp", compiled_chains(parts, x))


def test_results_in_place(rng, threads, small):
    """An operand that is written must be whole for every image: in place is as good as elsewhere."""
    threads(2)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    with fastconv.no_grad():
        compiled_chains(lambda x: net(x), random(rng, (17, 1, 12, 12)))


def test_winograd_and_sums_of_other_orders_stay_whole(rng):
    """Their bits depend on the other images: an infinity makes winograd do all of them over."""
    for shape in ((8, 16, 12, 12), (8, 64, 4, 4)):
        x, w = np.ones(shape, np.float32), np.ones((16, shape[1], 3, 3), np.float32)
        with kernels.Recording() as recording:
            kernels.conv2d_forward(x, w, None, 1, 1, algorithm="winograd")
        assert kernels.recorded_algorithm("conv2d_forward", recording.calls[0][2], False) == (
            "winograd",
            0,
        )


# ---- running them ---------------------------------------------------------------------------------------------


def test_plans_in_several_threads_at_once(rng, threads, small):
    threads(2)
    net = Net()
    inputs = [random(rng, (n, 1, 32, 32)) for n in (33, 48)]
    with fastconv.no_grad():
        expected = [bits(net(x)) for x in inputs]
    replayed = [fastconv.compile(lambda x: net(x)) for _ in inputs]
    wrong = []

    def work(i):
        with fastconv.no_grad():
            for _ in range(30):
                if bits(replayed[i](inputs[i])) != expected[i]:
                    wrong.append(i)

    for i in range(2):  # recorded by one thread at a time
        with fastconv.no_grad():
            replayed[i](inputs[i]), replayed[i](inputs[i])
    workers = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert all(f._last.chains for f in replayed)


def test_another_number_of_threads(rng, threads, small):
    """A plan stays right; its blocks are those of the threads that it was made for."""
    threads(4)
    net = Net()
    x = random(rng, (37, 1, 32, 32))
    replayed = fastconv.compile(net)
    with fastconv.no_grad():
        expected = bits(net(x))
        for count in (4, 4, 1, 2, 3, 4):
            threads(count)
            assert bits(replayed(x)) == expected


def test_the_pool_of_inference_writes_no_indices(rng):
    net = fastconv.compile(nn.Sequential(nn.Conv2d(1, 6, 3), nn.MaxPool2d(2)))
    with fastconv.no_grad():
        for _ in range(3):
            net(random(rng, (2, 1, 32, 32)))
    pools = [c for c in net._compiled._last.calls if c.kernel == "max_pool2d_forward"]
    assert pools and not any("indices" in c.operands for c in pools)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_pools_without_indices(rng, isa, dtype, window):
    H, W, *args = window
    x = Tensor(with_extremes(np.asarray(rng.standard_normal((5, 3, H, W)), dtype)))
    for rectify in (False, True):

        def function(x, rectify=rectify):
            return nn.functional.max_pool2d(x.relu() if rectify else x, *args)

        with fastconv.no_grad():
            compiled_chains(function, x)
