"""The list of kernels, src/kernels.def, against the tests."""

import importlib
import re
from pathlib import Path

import pytest
from example_calls import NAMES
from helpers import COVERED

from fastconv import kernels

TESTS = Path(__file__).parent
DEFINITIONS = TESTS.parent / "src" / "kernels.def"


def test_the_list_is_that_of_the_definitions():
    defined = re.findall(r"^KERNEL\((\w+)", DEFINITIONS.read_text(), re.M)
    assert tuple(defined) == kernels.KERNELS
    assert len(set(defined)) == len(defined)


def test_every_kernel_meets_the_oracle():
    """Each name carries a @covers mark on some test: a new kernel without an oracle fails here."""
    for path in TESTS.glob("test_*.py"):
        if "@covers(" in path.read_text() and path != Path(__file__):
            importlib.import_module(path.stem)
    assert set(kernels.KERNELS) - set(COVERED) == set()
    assert set(COVERED) - set(kernels.KERNELS) == set(), "marks of kernels that do not exist"


# Functions that example_calls.py leaves out, and which have tests of their own.
SETTINGS = {"set_num_threads", "get_num_threads", "isa", "set_isa", "available_isas"}
RECORDING = {
    "dictionary_of_class",
    "form_of",
    "prepare_recorded",
    "recorded_algorithm",
    "takes_pooled",
    "multiply_add_peak",
    "empty_array",
    "new_copy",
    "not_recorded",
    "settle",
    "is_recording",
    "same_value",
}
IN_PLACE = {"fill", "zero", "sgd_steps", "assign", "index_add", "sgd_step", "adam_step"}
RANDOM = {"random_uniform", "random_normal", "random_normal_pair", "random_permutation", "dropout"}
OTHERS = RANDOM | {"random_integers", "cast", "integer", "conv2d_plan", "conv2d_prepare"}


def test_every_function_of_the_door_is_in_the_examples():
    """What holds for all of them is tested on those: layouts, dtypes, threads, memory."""
    public = {
        name
        for name, value in vars(kernels).items()
        if callable(value) and not name.startswith("_") and not isinstance(value, type)
    }
    assert public - set(NAMES) - (SETTINGS | RECORDING | IN_PLACE | OTHERS) == set()


def test_isa_names():
    assert kernels.isa() in kernels.available_isas()
    assert kernels.available_isas()[-1] == "baseline"
    assert len(set(kernels.available_isas())) == len(kernels.available_isas())


@pytest.mark.parametrize("wrong", ["", "x86_v9", "BASELINE", None, 1, b"baseline", "é", "a\0b"])
def test_set_isa_refuses(wrong):
    before = kernels.isa()
    with pytest.raises((ValueError, TypeError), match="baseline"):
        kernels.set_isa(wrong)
    assert kernels.isa() == before


def test_every_function_of_the_door_explains_itself():
    """A docstring beyond the signature that Cython puts first."""
    for name, value in vars(kernels).items():
        if callable(value) and not name.startswith("_") and not isinstance(value, type):
            assert len(value.__doc__.splitlines()) > 1, name
