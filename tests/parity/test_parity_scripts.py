"""Whole scripts, of which only the import lines change, print the same under both libraries."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from libraries import renamed, unbroken

SCRIPTS = Path(__file__).parent / "scripts"
NUMBER = re.compile(r"(-?\d+\.\d*(?:e[+-]?\d+)?)")


def with_our_imports(source):
    """The only lines that change: import torch..., from torch..."""
    source = re.sub(r"^(import|from) torch\b", r"\1 fastconv", source, flags=re.M)
    return re.sub(r"^import fastconv$", "import fastconv as torch", source, flags=re.M)


def printed(source, name):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(source, name, "exec"), {"__name__": "__main__"})
    return out.getvalue()


def decimals(number):
    mantissa, _, exponent = number.partition("e")
    return len(mantissa.partition(".")[2]) - int(exponent or 0)


def same_text(ours, theirs):
    """Equal, but numbers with a point only within 1e-4 and 2 units of the last printed digit."""
    a, b = NUMBER.split(ours), NUMBER.split(theirs)
    pad = re.compile(r"\s+")  # a column is as wide as its numbers
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        if i % 2 == 0:
            assert pad.sub(" ", x) == pad.sub(" ", y)
        elif x != y:
            digits = min(decimals(x), decimals(y), 10)
            assert abs(float(x) - float(y)) <= 1e-4 * abs(float(y)) + 2 * 10.0**-digits


@pytest.mark.parametrize("name", ["digits_loop", "by_hand", "sequential"])
def test_script(name):
    source = (SCRIPTS / f"{name}.py").read_text()
    theirs = renamed(printed(source, name))
    same_text(unbroken(printed(with_our_imports(source), name)), unbroken(theirs))
    assert len(theirs.splitlines()) > 10


def test_tutorial_cells():
    """PyTorch's zero_grad() forgets gradients; ours, as in the tutorial, leaves zeros."""
    source = (SCRIPTS / "tutorial.py").read_text()
    theirs = renamed(printed(source, "tutorial"))
    assert theirs.count("\nNone\n") == 1
    theirs = theirs.replace("\nNone\n", "\ntensor([0., 0., 0., 0., 0., 0.])\n")
    theirs = re.sub(r"<(\w+) object at 0x\w+>", r"<\1>", theirs)
    same_text(unbroken(printed(with_our_imports(source), "tutorial")), unbroken(theirs))
