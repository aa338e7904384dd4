"""The command line. `fastconv train` teaches `models.Net` to read digits; copy it and change it."""

import argparse
import math
import os
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

import fastconv as fc
import fastconv.nn as nn
import fastconv.optim as optim
from fastconv.data import DataLoader, load_digits, load_idx
from fastconv.models import Net

LEARNING_RATE = {"sgd": 0.02, "adam": 0.001}


def train(args):
    """Train Net, a line per epoch; the learning rate falls in equal steps, towards 0."""
    train_set, test_set = prepare(args)
    lr = args.lr or LEARNING_RATE[args.optimizer]

    net = Net()
    criterion = nn.CrossEntropyLoss()
    if args.optimizer == "sgd":
        optimizer = optim.SGD(net.parameters(), lr=lr, momentum=args.momentum)
    else:
        optimizer = optim.Adam(net.parameters(), lr=lr)
    loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True)

    def step(images, labels):
        optimizer.zero_grad()
        output = net(images)
        loss = criterion(output, labels)
        loss.backward()
        optimizer.step()
        return loss, output

    if args.compile:
        step = fc.compile(step)

    def title(epoch):
        return f"epoch {epoch + 1}/{args.epochs}"

    seconds = 0.0
    # One bar, where stderr is a terminal. One for each epoch would be collected when the next one
    # begins, and Python swallows a Ctrl-C that comes while it collects.
    with tqdm(desc=title(0), total=len(loader), leave=False, disable=None) as bar:
        for epoch in range(args.epochs):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - epoch / args.epochs)
            bar.set_description(title(epoch), refresh=False)
            bar.reset()
            start = time.perf_counter()
            loss, accuracy = train_epoch(step, loader, bar)
            seconds += time.perf_counter() - start
            test_accuracy = evaluate(net, test_set)
            accuracies = f"train accuracy {accuracy:.2%}  test accuracy {test_accuracy:.2%}"
            bar.clear()
            print(f"{title(epoch)}  loss {loss:.4f}  {accuracies}", flush=True)
            if not math.isfinite(loss):
                raise Failure(f"the loss became {loss}; try a smaller --lr than {lr:g}")

    if args.save is not None:
        fc.save(net.state_dict(), args.save)
        print(f"saved {args.save}")
    count = args.epochs * len(train_set)
    print(f"test accuracy {test_accuracy:.2%}")
    print(f"{count / seconds:,.0f} images per second ({count:,} in {seconds:.1f} s)")


def train_epoch(step, loader, bar):
    """One pass -> (mean loss, accuracy), both as the net was when it met each batch."""
    total_loss = correct = count = 0
    for images, labels in loader:
        loss, output = step(images, labels)
        total_loss += loss.item() * len(labels)
        correct += (output.argmax(1) == labels).sum().item()
        count += len(labels)
        bar.update()
    return total_loss / count, correct / count


def evaluate(net, dataset):
    """-> the share of the images that the net reads right"""
    correct = 0
    with fc.no_grad():
        for images, labels in DataLoader(dataset, batch_size=256):
            correct += (net(images).argmax(1) == labels).sum().item()
    return correct / len(dataset)


def info(args):
    """Print what runs here."""
    print(f"fastconv {fc.__version__}")
    print(f"instruction set  {fc.isa()} (of {', '.join(fc.available_isas())})")
    print(f"threads          {fc.get_num_threads()}")


class Failure(Exception):
    """What a user can mend: told in one line, exit status 2."""


def prepare(args):
    """Settings and data -> (train, test). What is wrong with them shows before the training."""
    try:
        if args.save is not None:
            check_can_save(args.save)
        if args.threads is not None:
            fc.set_num_threads(args.threads)
        fc.manual_seed(args.seed)
        train_set, test_set = load_digits() if args.data is None else load_idx(args.data)
    except (OSError, ValueError, MemoryError) as error:
        raise Failure(str(error) or type(error).__name__) from error
    sizes = f"{len(train_set):,} images to train with, {len(test_set):,} to test with"
    print(f"{args.data or 'digits'}: {sizes}", flush=True)
    return train_set, test_set


def check_can_save(path):
    """Raise OSError unless a file can be made, or replaced, at `path`."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(f"cannot save to {path}: it is not a regular file")
    if not path.parent.is_dir():
        raise OSError(f"cannot save to {path}: there is no folder {path.parent}")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(f"cannot save to {path}: {error.strerror}") from error


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def number(convert, fits, wanted):
    """An argparse type: the text as a number, if it fits."""

    def read(text):
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")
        return value

    return read


def parser():
    count = number(int, lambda n: n >= 1, "a whole number of at least 1")
    seed = number(int, lambda n: n >= 0, "a whole number of at least 0")
    rate = number(float, lambda x: 0 < x < math.inf, "a number above 0")
    share = number(float, lambda x: 0 <= x < 1, "a number from 0 to less than 1")

    main_parser = Parser(prog="fastconv", description="Convolutional networks on a CPU.")
    main_parser.add_argument("--version", action="version", version=f"fastconv {fc.__version__}")
    commands = main_parser.add_subparsers(metavar="COMMAND", required=True)

    p = commands.add_parser(
        "train", help="train models.Net on handwritten digits, or on the images in a folder"
    )
    p.set_defaults(run=train)
    add = p.add_argument
    add("--epochs", type=count, default=20, help="passes over the images (%(default)s)")
    add("--batch-size", type=count, default=16, help="images per step (%(default)s)")
    add("--lr", type=rate, help="first learning rate (0.02 for sgd, 0.001 for adam)")
    add("--optimizer", choices=list(LEARNING_RATE), default="sgd", help="(%(default)s)")
    add("--momentum", type=share, default=0.9, help="of sgd (%(default)s)")
    add("--seed", type=seed, default=0, help="of weights and order of images (%(default)s)")
    add("--threads", type=int, help="how many to compute with (as many as there are processors)")
    add(
        "--no-compile",
        dest="compile",
        action="store_false",
        help="run each step in Python, instead of replaying it in C",
    )
    add("--save", metavar="PATH", help="write the weights to this file at the end (safetensors)")
    add("--data", metavar="DIR", help="a folder with MNIST-like IDX files (the digits)")

    p = commands.add_parser("info", help="print version, instruction set and threads")
    p.set_defaults(run=info)
    return main_parser


def main(argv=None):
    """Run a command -> exit status.

    0; 2 after a mistake of the user's, 130 after Ctrl-C, 141 where nobody reads the output.
    """
    try:
        args = parser().parse_args(argv)
        args.run(args)
        print(end="", flush=True)
        return 0
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt:
        print("fastconv: interrupted", file=sys.stderr)
        return 130
    except (Failure, OSError) as error:
        print("fastconv:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    finally:
        drop_unwritten_output()


def drop_unwritten_output():
    """What could not be written to stdout must not fail again when Python ends."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
