"""Trains two networks on the digits, with gemm and with Winograd from the same seeds; draws their
losses over each other, and writes the numbers into accuracy.md. `make docs` runs it: two minutes."""

import json
import os
import subprocess
import sys

import numpy as np
from accuracy import FOLDER, table, write_part

import fastconv as fc
import fastconv.nn as nn
import fastconv.optim as optim
from fastconv.cli import evaluate
from fastconv.data import DataLoader, load_digits
from fastconv.models import Net

PICTURE = FOLDER / "training_with_winograd.svg"
ALGORITHMS = ("gemm", "winograd")


def stage(channels, filters):
    return [
        nn.Conv2d(channels, filters, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(filters, filters, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]


def deep_net():
    """Six 3x3 convolutions: 32² x 32, 16² x 64, 8² x 128."""
    features = stage(1, 32) + stage(32, 64) + stage(64, 128)
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(128 * 4 * 4, 10))


# name: title, network, learning rate, epochs
NETWORKS = {
    "tutorial": ("the tutorial's Net", Net, 0.02, 20),
    "deep": ("six 3×3 convolutions", deep_net, 0.01, 4),
}


def train(name):
    """-> the loss of each step, and the test accuracy; under FASTCONV_ALGORITHM."""
    _, network, lr, epochs = NETWORKS[name]
    fc.manual_seed(0)
    train_set, test_set = load_digits()
    net, criterion = network(), nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    loader = DataLoader(train_set, batch_size=16, shuffle=True)
    losses = []
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return {"losses": losses, "accuracy": evaluate(net, test_set)}


def train_apart(name, algorithm):
    """In a process of its own, where the environment chooses the algorithm."""
    run = subprocess.run(
        [sys.executable, __file__, name],
        env={**os.environ, "FASTCONV_ALGORITHM": algorithm},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(run.stdout)


def smooth(losses, steps=20):
    """The mean of the last few."""
    sums = np.cumsum(np.insert(losses, 0, 0.0))
    first = np.maximum(np.arange(len(losses)) + 1 - steps, 0)
    last = np.arange(len(losses)) + 1
    return (sums[last] - sums[first]) / (last - first)


def draw(found):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "fastconv"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex="col", layout="constrained")
    for (above, below), (name, results) in zip(axes.T, found.items(), strict=True):
        gemm, winograd = (np.array(results[a]["losses"]) for a in ALGORITHMS)
        above.set_title(NETWORKS[name][0])
        above.plot(smooth(gemm), label="gemm", color="tab:blue", linewidth=3, alpha=0.5)
        above.plot(smooth(winograd), label="winograd", color="tab:red", linewidth=1)
        above.set_yscale("log")
        above.set_ylabel("loss, mean of 20 steps")
        above.legend()
        below.plot(np.maximum(abs(winograd - gemm), 1e-9), color="black", linewidth=0.5)
        below.set_yscale("log")
        below.set_ylabel("|difference| of each step")
        below.set_xlabel("step")
    figure.savefig(PICTURE, metadata={"Date": None})


def numbers(found):
    rows = [
        (
            "network",
            "algorithm",
            "first loss",
            "loss, last 50 steps",
            "test accuracy",
            "largest difference, steps 1 to 50",
        )
    ]
    for name, results in found.items():
        gemm, winograd = (np.array(results[a]["losses"]) for a in ALGORITHMS)
        early = abs(winograd - gemm)[:50].max()
        for algorithm in ALGORITHMS:
            losses = results[algorithm]["losses"]
            row = NETWORKS[name][0], algorithm, f"{losses[0]:.7f}", f"{np.mean(losses[-50:]):.5f}"
            accuracy = f"{results[algorithm]['accuracy']:.2%}"
            rows.append((*row, accuracy, "–" if algorithm == "gemm" else f"{early:.2g}"))
    return table(rows)


def main():
    found = {name: {a: train_apart(name, a) for a in ALGORITHMS} for name in NETWORKS}
    draw(found)
    write_part("training", numbers(found))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(train(sys.argv[1])))
    else:
        main()
