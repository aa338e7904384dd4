"""One program, two libraries: run it under fastconv and under PyTorch, compare all that comes out.

A program is a function program(torch, *tensors): `torch` is one library or the other. What it
returns is compared in value, shape, dtype and requires_grad, then every floating-point input in its
gradient. Where PyTorch raises, fastconv must raise, and where it does not, it must not.
"""

import re
import warnings

import numpy as np
import torch

import fastconv

LIBRARIES = (fastconv, torch)


class Raised:
    """What a program did instead of returning."""

    def __init__(self, error):
        self.text = f"{type(error).__name__}: {error}".split("\n")[0]


def is_tensor(value):
    return isinstance(value, fastconv.Tensor | torch.Tensor)


def dtype_name(tensor):
    return str(tensor.dtype).removeprefix("torch.")


def dtype_of(lib, name):
    return getattr(lib, name)


def flat(result):
    """The Tensors and plain values in a result, in order."""
    if isinstance(result, tuple | list):
        return [leaf for item in result for leaf in flat(item)]
    return [result]


def to_numpy(tensor):
    return np.array(tensor.detach().numpy())


def leaves(lib, arrays):
    """A Tensor per array, requiring grad if it is floating-point; other arguments as they are."""
    made = []
    for a in arrays:
        if isinstance(a, np.ndarray):
            floating = a.dtype.kind == "f"
            a = lib.tensor(a, requires_grad=True) if floating else lib.tensor(a)
        made.append(a)
    return made


def gradients(lib, results, tensors):
    """The gradients of all Tensors among `tensors`, for reproducible gradients of the results."""
    rng = np.random.default_rng(7)
    for t in results:
        if is_tensor(t) and t.requires_grad:
            dy = rng.standard_normal(tuple(t.shape)).astype(dtype_name(t))
            t.backward(lib.tensor(np.asarray(dy)), retain_graph=True)
    return [t.grad for t in tensors if is_tensor(t)]


def outcome(lib, program, arrays, backward=True):
    """(results, gradients), or Raised."""
    tensors = leaves(lib, arrays)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = flat(program(lib, *tensors))
            grads = gradients(lib, results, tensors) if backward else []
    except Exception as error:
        return Raised(error)
    return results, grads


def bound_of(expected, ulps, relative, coarsest):
    """ulps * eps * (|expected| + the largest of it): of each element alone where `relative`."""
    eps, tiny = np.finfo(expected.dtype).eps, np.finfo(expected.dtype).tiny
    eps = max(eps, coarsest)
    size = np.abs(np.where(np.isfinite(expected), expected, 0)).astype(float)
    scale = 0 if relative else size.max(initial=0)
    return ulps * (eps * (size + scale) + tiny)


def check_array(actual, expected, ulps, label, relative=False, coarsest=0.0):
    """Same shape, dtype, NaNs and infinities, and |actual - expected| <= bound_of(expected).

    coarsest: the eps of the coarsest dtype that took part, if that is not expected's.
    """
    assert actual.dtype == expected.dtype, (
        f"{label}: dtype {actual.dtype}, PyTorch has {expected.dtype}"
    )
    assert actual.shape == expected.shape, (
        f"{label}: shape {actual.shape}, PyTorch has {expected.shape}"
    )
    same = (actual == expected) | ((actual != actual) & (expected != expected))
    if expected.dtype.kind == "f":
        with np.errstate(all="ignore"):
            off = np.abs(actual.astype(float) - expected.astype(float))
        same |= off <= bound_of(expected, ulps, relative, coarsest)
    wrong = np.argwhere(~same)
    if len(wrong):
        at = tuple(map(int, wrong[0]))
        raise AssertionError(
            f"{label}: {len(wrong)} of {expected.size} differ, first at {at}: "
            f"{actual[at]!r}, PyTorch has {expected[at]!r}"
        )


def check_result(actual, expected, ulps, label, relative=False, coarsest=0.0):
    """Two results of one program."""
    assert is_tensor(actual) == is_tensor(expected), (
        f"{label}: {actual!r}, PyTorch has {expected!r}"
    )
    if not is_tensor(expected):
        if isinstance(expected, float):
            actual, expected = np.float64(actual), np.float64(expected)
            return check_array(np.asarray(actual), np.asarray(expected), ulps, label, relative)
        assert type(actual) is type(expected) or dtype_like(actual), (
            f"{label}: {type(actual)}, {type(expected)}"
        )
        assert str(actual) == str(expected).replace("torch.", ""), (
            f"{label}: {actual!r}, {expected!r}"
        )
        return None
    assert actual.requires_grad == expected.requires_grad, (
        f"{label}: requires_grad {actual.requires_grad}"
    )
    return check_array(to_numpy(actual), to_numpy(expected), ulps, label, relative, coarsest)


def dtype_like(value):
    return isinstance(value, np.dtype)


def eps_of(value):
    name = dtype_name(value) if hasattr(value, "dtype") else ""
    return float(np.finfo(name).eps) if name.startswith("float") else 0.0


def compare(program, *arrays, ulps=8, relative=False, backward=True):
    """Run the program under both libraries, and raise AssertionError where they differ."""
    ours, theirs = (outcome(lib, program, arrays, backward) for lib in LIBRARIES)
    if isinstance(theirs, Raised):
        assert isinstance(ours, Raised), f"no error, but PyTorch raises {theirs.text}"
        return
    assert not isinstance(ours, Raised), f"PyTorch does it, fastconv raises {ours.text}"
    assert len(ours[0]) == len(theirs[0]), f"{len(ours[0])} results, PyTorch has {len(theirs[0])}"
    coarsest = max(map(eps_of, (*arrays, *theirs[0])))
    for i, (actual, expected) in enumerate(zip(ours[0], theirs[0], strict=True)):
        check_result(actual, expected, ulps, f"result {i}", relative, coarsest)
    for i, (actual, expected) in enumerate(zip(ours[1], theirs[1], strict=True)):
        assert (actual is None) == (expected is None), (
            f"gradient {i}: {actual}, PyTorch has {expected}"
        )
        if expected is not None:
            check_result(actual, expected, ulps, f"gradient {i}", relative, coarsest)


def differences(cases, **options):
    """Compare (label, compare's arguments) after one another; one error lists all that differ."""
    found = []
    for label, *arguments in cases:
        try:
            compare(*arguments, **options)
        except AssertionError as error:
            found.append(f"{label}: {error}")
    assert not found, "\n".join(found)


def refused(program, *arrays):
    """PyTorch can do this and fastconv says, with an error, that it cannot."""
    assert not isinstance(outcome(torch, program, arrays), Raised)
    assert isinstance(outcome(fastconv, program, arrays), Raised)


def renamed(text):
    """What PyTorch prints, with our name, and names of nodes without their number."""
    return re.sub(r"(\w+Backward)\d", r"\1", text.replace("torch.", "fastconv."))


def unbroken(text):
    """`text` with what follows a Tensor's numbers (dtype=, grad_fn=) on their line, however long.

    Where it is broken depends on the length of the names, and "fastconv" is longer than "torch".
    """
    return re.sub(
        r",\n +(dtype=|grad_fn=)", r", \1", re.sub(r",\n +(requires_grad=True\))", r", \1", text)
    )


def same_print(program, *arrays):
    """repr and str are equal, but for the library's name and the number behind a node's name."""
    for show in (repr, str):
        ours, theirs = (show(program(lib, *[lib.tensor(a) for a in arrays])) for lib in LIBRARIES)
        theirs = renamed(theirs)
        if "dtype=" in theirs or "grad_fn=" in theirs:
            ours, theirs = unbroken(ours), unbroken(theirs)
        assert ours == theirs, f"{ours}\n-- PyTorch:\n{theirs}"


def normal(*shape, dtype="float32", seed=0):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def distinct(*shape, dtype="float32", seed=0):
    """No two elements equal."""
    size = int(np.prod(shape))
    return (np.random.default_rng(seed).permutation(size) - size / 2).reshape(shape).astype(dtype)
