"""Trains two networks on the digits, with gemm and with Winograd from the same seeds; draws their
losses over each other, and writes the numbers into accuracy.md. `make docs` runs it: two minutes.

A third run is the yardstick: gemm on another instruction set, whose sums are rounded otherwise.
"""

import json
import os
import subprocess
import sys

import numpy as np
from accuracy import FOLDER, table, write_part

import fastconv as fc
import fastconv.nn as nn
import fastconv.optim as optim
from fastconv import kernels
from fastconv.cli import evaluate
from fastconv.data import DataLoader, load_digits
from fastconv.models import Net

PICTURE = FOLDER / "training_with_winograd.svg"
OTHER = kernels.available_isas()[1:2] or kernels.available_isas()
RUNS = {  # name: environment
    "gemm": {"FASTCONV_ALGORITHM": "gemm"},
    "winograd": {"FASTCONV_ALGORITHM": "winograd"},
    f"gemm on {OTHER[0]}": {"FASTCONV_ALGORITHM": "gemm", "FASTCONV_ISA": OTHER[0]},
}
COLOURS = ("tab:blue", "tab:red", "0.6")


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
    "deep": ("six 3×3 convolutions", deep_net, 0.01, 8),
}


def train(name):
    """-> the loss of each step, and the test accuracy. The learning rate falls, towards 0."""
    _, network, lr, epochs = NETWORKS[name]
    fc.manual_seed(0)
    train_set, test_set = load_digits()
    net, criterion = network(), nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    loader = DataLoader(train_set, batch_size=16, shuffle=True)
    losses = []
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - epoch / epochs)
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return {"losses": losses, "accuracy": evaluate(net, test_set)}


def train_apart(name, environment):
    """In a process of its own, where the environment chooses the algorithm."""
    run = subprocess.run(
        [sys.executable, __file__, name],
        env={**os.environ, **environment},
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
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex="col", layout="constrained")
    for (above, below), (name, results) in zip(axes.T, found.items(), strict=True):
        above.set_title(NETWORKS[name][0])
        for run, colour, width in zip(RUNS, COLOURS, (3, 1, 1), strict=True):
            losses = np.array(results[run]["losses"])
            steps = np.arange(0, len(losses), 5)
            above.plot(steps, smooth(losses)[::5], label=run, color=colour, linewidth=width)
            if run != "gemm":
                distance = smooth(abs(losses - results["gemm"]["losses"]))[::5]
                below.plot(steps, np.maximum(distance, 1e-9), color=colour, linewidth=width)
        above.set_ylabel("loss")
        above.legend()
        below.set_ylabel("|difference| from gemm")
        below.set_xlabel("step")
        for axis in (above, below):
            axis.set_yscale("log")
    figure.suptitle("means of 20 steps")
    figure.savefig(PICTURE, metadata={"Date": None})


HEAD = ("network", "run", "first loss", "last 50 steps", "test accuracy", "difference, steps 1–50")


def numbers(found):
    rows = [HEAD]
    for name, results in found.items():
        gemm = np.array(results["gemm"]["losses"])
        for run, result in results.items():
            losses = np.array(result["losses"])
            early = f"{abs(losses - gemm)[:50].max():.1g}"
            loss = f"{losses[0]:.6f}", f"{losses[-50:].mean():.5f}"
            rows.append((NETWORKS[name][0], run, *loss, f"{result['accuracy']:.2%}", early))
    return table(rows)


def main():
    found = {name: {run: train_apart(name, RUNS[run]) for run in RUNS} for name in NETWORKS}
    draw(found)
    write_part("training", numbers(found))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(train(sys.argv[1])))
    else:
        main()
