"""Fashion-MNIST: an epoch of training the tutorial's network, and the time until it reads 88 %.

Both sides begin with the same weights, get the same batches, cut out of the same arrays, and train
in turns, an epoch each, so that both see the same machine.
"""

import os
import time
from statistics import median

import numpy as np
import torch
import tutorial
from goals import COMPILED, Ratio, Row, on_threads
from steps import training
from timing import spread

import fastconv
from fastconv.data import load_idx

GROUP = "Fashion-MNIST"
FOLDER = os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist")
BATCH, RATE, MOMENTUM = 64, 0.01, 0.9
WANTED, MOST = 0.88, 10  # of the test images; epochs at most
PEER = "PyTorch fused"


def has_images():
    return os.path.isdir(FOLDER)


def names(threads):
    """Of the rows; of both, if there are images, else an epoch on noise of the same shape."""
    found = ["one epoch, on noise in its place"]
    if has_images():
        found = ["one epoch", f"until {100 * WANTED:g} % of the test images"]
    return [on_threads(name, threads) for name in found]


def load():
    """(images, labels) to train with, and to test with."""
    if has_images():
        return [tuple(t.numpy() for t in part.tensors) for part in load_idx(FOLDER)]
    rng = np.random.default_rng(0)
    return [
        (rng.standard_normal((n, 1, 32, 32), np.float32), rng.integers(0, 10, n))
        for n in (60_000, 10_000)
    ]


class Learner:
    """One of the two sides. seconds: of each epoch; until: of all up to the first one that reads
    enough of the test images, with the tests; None before."""

    def __init__(self, name):
        lib = self.lib = fastconv if name == COMPILED else torch
        net, criterion = tutorial.tutorial_net(lib), lib.nn.CrossEntropyLoss()
        options = {"fused": True} if lib is torch else {}
        optimizer = lib.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM, **options)
        self.step = training(lambda x, t: criterion(net(x), t), optimizer, lib is torch)
        self.read, self.without_gradients = net, torch.inference_mode
        if lib is fastconv:
            self.step, self.read = fastconv.compile(self.step), fastconv.compile(net)
            self.without_gradients = fastconv.no_grad
        self.seconds, self.total, self.until = [], 0.0, None

    def train(self, images, labels, order):
        start = time.perf_counter()
        for i in range(0, len(order), BATCH):
            batch = order[i : i + BATCH]
            self.step(self.lib.from_numpy(images[batch]), self.lib.from_numpy(labels[batch]))
        self.seconds.append(time.perf_counter() - start)
        self.total += self.seconds[-1]

    def test(self, images, labels):
        """The part that is read right."""
        start, right = time.perf_counter(), 0
        with self.without_gradients():
            for i in range(0, len(labels), 250):
                scores = self.read(self.lib.from_numpy(images[i : i + 250]))
                right += (scores.numpy().argmax(1) == labels[i : i + 250]).sum()
        self.total += time.perf_counter() - start
        accuracy = right / len(labels)
        if accuracy >= WANTED and self.until is None:
            self.until = self.total
        return accuracy


def measure(names, quick):
    """The rows of these names. quick: some batches in the place of an epoch, one of them."""
    train, test = load()
    count = 40 * BATCH if quick else len(train[1])
    rng = np.random.default_rng(0)
    learners = {name: Learner(name) for name in (COMPILED, PEER)}
    for epoch in range(1 if quick else MOST if has_images() else 3):
        order = rng.permutation(len(train[1]))[:count]
        turns = list(learners.items())[:: 1 if epoch % 2 == 0 else -1]
        for learner in (learner for _, learner in turns):
            learner.train(*train, order)
        read = {name: f"{learner.test(*test):.1%}" for name, learner in turns}
        print(f"after epoch {epoch + 1}, of the test images: {read}", flush=True)
        if has_images() and all(learner.until is not None for learner in learners.values()):
            break
    ours, theirs = learners.values()
    seconds = {name: median(learner.seconds) for name, learner in learners.items()}
    ratios = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    rows = [row(names[0], seconds, ratios)]
    if has_images() and not quick:
        until = {name: v.until for name, v in learners.items() if v.until is not None}
        rows.append(row(names[1], until, [theirs.until / ours.until] if len(until) == 2 else []))
    return rows


def row(name, seconds, ratios):
    """Without a ratio, a goal is not judged."""
    found = Ratio(PEER, *(float(f"{value:.3g}") for value in spread(ratios))) if ratios else None
    return Row(GROUP, name, "", seconds, {}, {"any PyTorch": found} if found else {})
