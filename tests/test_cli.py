"""The command line and the examples."""

import os
import re
import signal
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from idx_files import write_idx_folder

import fastconv as fc
from fastconv import cli
from fastconv.data import load_digits
from fastconv.models import Net

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
COMMAND = [sys.executable, "-m", "fastconv"]
start = partial(subprocess.Popen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def run(capsys, threads):
    """run(argument, ...) -> (exit status, lines on stdout, lines on stderr)"""

    def run(*arguments):
        try:
            status = cli.main([str(a) for a in arguments])
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


# Training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--optimizer", "adam", "--seed", "1")])
def test_train_reads_digits(run, tmp_path, options):
    path = tmp_path / "net.safetensors"
    status, out, err = run("train", "--save", path, *options)
    assert (status, err) == (0, [])
    assert out[0] == "digits: 1,437 images to train with, 360 to test with"
    epoch = r"epoch \d+/20  loss \d+\.\d{4}  train accuracy [\d.]+%  test accuracy ([\d.]+)%"
    assert all(re.fullmatch(epoch, line) for line in out[1:21])
    assert out[21] == f"saved {path}"
    accuracy = float(re.fullmatch(r"test accuracy ([\d.]+)%", out[22])[1])
    assert accuracy >= 97
    assert re.fullmatch(r"[\d,]+ images per second \(28,740 in [\d.]+ s\)", out[23])
    assert len(out) == 24

    net = Net()
    net.load_state_dict(fc.load(path))
    assert cli.evaluate(net, load_digits()[1]) == pytest.approx(accuracy / 100, abs=1e-4)


def test_a_seed_gives_the_same_bits_with_any_number_of_threads(run, tmp_path):
    def trained(name, *options):
        status, out, _ = run("train", "--epochs", 2, "--save", tmp_path / name, *options)
        assert status == 0
        return out[1:3], (tmp_path / name).read_bytes()

    first = trained("a", "--seed", 5, "--threads", 1)
    assert trained("b", "--seed", 5, "--threads", 2) == first
    assert trained("c", "--seed", 5, "--threads", 3) == first
    assert trained("d", "--seed", 6)[1] != first[1]


def test_train_reads_a_folder(run, tmp_path):
    write_idx_folder(tmp_path, train=200, test=50)
    status, out, err = run("train", "--data", tmp_path, "--epochs", 15)
    assert (status, err) == (0, [])
    assert out[0] == f"{tmp_path}: 200 images to train with, 50 to test with"
    assert out[-2] == "test accuracy 100.00%"


def test_options_reach_the_training(run):
    base = run("train", "--epochs", 1)[1][1]
    for options in (
        ("--lr", 0.01),
        ("--batch-size", 32),
        ("--momentum", 0),
        ("--optimizer", "adam"),
        ("--seed", 1),
    ):
        status, out, _ = run("train", "--epochs", 1, *options)
        assert status == 0 and out[1] != base, options
    run("train", "--epochs", 1, "--threads", 2)
    assert fc.get_num_threads() == 2


# Mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required: COMMAND"),
        ("trian", "invalid choice: 'trian'"),
        ("train --epoch-count 3", "unrecognized arguments: --epoch-count"),
        ("train --epochs 0", "--epochs: must be a whole number of at least 1, got '0'"),
        ("train --epochs 1.5", "--epochs: must be a whole number"),
        ("train --batch-size -4", "--batch-size: must be a whole number of at least 1, got '-4'"),
        ("train --lr nan", "--lr: must be a number above 0, got 'nan'"),
        ("train --lr 0", "--lr: must be a number above 0"),
        ("train --lr inf", "--lr: must be a number above 0"),
        ("train --momentum 1", "--momentum: must be a number from 0 to less than 1"),
        ("train --optimizer rmsprop", "invalid choice: 'rmsprop'"),
        ("train --seed -1", "--seed: must be a whole number of at least 0"),
        ("train --threads 0", "number of threads must be from 1 to 256, got 0"),
        ("train --threads 1000", "number of threads must be from 1 to 256, got 1000"),
        ("train --threads two", "--threads: invalid int value: 'two'"),
        ("train --data {tmp}/none", "none: no such folder (looked for train-images-idx3-ubyte"),
        ("train --data {tmp}", ": no train-images-idx3-ubyte, train-labels-idx1-ubyte"),
        ("train --data {tmp}/file", "Not a directory"),
        ("train --data {tmp}/broken", "broken/train-images-idx3-ubyte.gz: truncated gzip file"),
        ("train --save {tmp}/none/net", "none/net: there is no folder"),
        ("train --save {tmp}", "it is not a regular file"),
        ("train --save {tmp}/file/net", "there is no folder"),
        ("train --save /dev/null", "cannot save to /dev/null: it is not a regular file"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run, tmp_path, arguments, message):
    (tmp_path / "file").touch()
    (tmp_path / "broken").mkdir()
    images = write_idx_folder(tmp_path / "broken") / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-100])
    status, out, err = run(*arguments.format(tmp=tmp_path).split())
    assert status == 2 and out == [] and len(err) == 1
    assert err[0].startswith("fastconv") and message in err[0]


def test_a_folder_that_may_not_be_written(run, tmp_path, monkeypatch):
    """The super user may write anywhere: the refusal is played."""

    def refuse(dir):
        raise PermissionError(13, "Permission denied", f"{dir}/tmp1234")

    monkeypatch.setattr(cli.tempfile, "TemporaryFile", refuse)
    status, out, err = run("train", "--save", tmp_path / "net")
    assert (status, out) == (2, [])
    assert err == [f"fastconv: cannot save to {tmp_path / 'net'}: Permission denied"]


def test_a_save_that_fails_in_the_end(run, tmp_path, monkeypatch):
    def full(state_dict, path):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(fc, "save", full)
    status, _, err = run("train", "--epochs", 1, "--save", tmp_path / "net")
    assert status == 2 and len(err) == 1 and "No space left on device" in err[0]


def test_a_training_that_diverges(run, tmp_path):
    path = tmp_path / "net"
    status, out, err = run("train", "--lr", "1e9", "--epochs", 3, "--save", path)
    assert status == 2 and not path.exists()
    assert err == ["fastconv: the loss became nan; try a smaller --lr than 1e+09"]


# The process --------------------------------------------------------------------------------------


def test_version_and_info(run):
    status, out, err = run("--version")
    assert (status, out, err) == (0, [f"fastconv {fc.__version__}"], [])
    status, out, err = run("info")
    assert (status, err) == (0, []) and out[0] == f"fastconv {fc.__version__}"
    assert fc.isa() in out[1]


def test_python_m_fastconv_is_the_command():
    done = subprocess.run([*COMMAND, "train", "--epochs", "0"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("fastconv train: ")


@pytest.fixture
def interruptible():
    """A program that ignores SIGINT, such as a shell's background job, hands that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_control_c(interruptible):
    with start([*COMMAND, "train", "--epochs", "100000"]) as process:
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "fastconv: interrupted\n")


@pytest.mark.parametrize("arguments", [["train", "--epochs", "100000"], ["--help"]])
def test_nobody_reads_the_output(arguments):
    with start([*COMMAND, *arguments]) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        tells = "train" in arguments or sys.version_info < (3, 11)  # later argparse does not
        assert process.wait(timeout=60) == (141 if tells else 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_to_a_full_disk():
    with open("/dev/full", "w") as full, start([*COMMAND, "info"], stdout=full) as process:
        assert process.stderr.read() == "fastconv: [Errno 28] No space left on device\n"
        assert process.wait(timeout=60) == 2


def test_the_progress_bar_needs_a_terminal():
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with start([*COMMAND, "train", "--epochs", "1"], stderr=theirs) as process:
        os.close(theirs)
        bar = os.read(ours, 4096).decode()
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0 and "epoch 1/1:   0%|" in bar
    assert len(out.splitlines()) == 4 and "|" not in out


# Examples -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("train_digits", r"epoch 10/10  loss 0\.\d+  test accuracy (9[5-9]|100)\.\d\d%\n$"),
        ("custom_net", r"Sequential\(.*Multiply-adds: .*test accuracy (9[5-9]|100)\.\d\d%\n$"),
        ("kernels_only", r"edges, 8x8, values 0 to 60\.8769\n.*the strongest edge is in row 2\n$"),
    ],
)
def test_examples(name, pattern):
    command = [sys.executable, EXAMPLES / f"{name}.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "" and re.search(pattern, done.stdout, re.S)
