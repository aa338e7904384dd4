"""Printed forms, to the letter: the tutorial's own outputs, and texts that PyTorch 2.13 gave."""

import re
from math import inf, nan

import numpy as np
import pytest

from fastconv import printing
from fastconv.nn import Parameter
from fastconv.printing import tensor_repr

WEIGHT = """\
tensor([[[[-0.0933,  0.2394, -0.0573],
          [-0.3326,  0.2173, -0.2807],
          [-0.2363, -0.1357, -0.3250]]],


        [[[ 0.0865,  0.2505, -0.0520],
          [-0.3266,  0.0914,  0.0318],
          [-0.0620, -0.0419, -0.1124]]],


        [[[-0.0704,  0.0988,  0.0958],
          [ 0.1062,  0.2237, -0.1996],
          [-0.2870,  0.1163,  0.2503]]],


        [[[ 0.2017,  0.2823,  0.3023],
          [-0.2970, -0.1573,  0.0235],
          [ 0.3097, -0.1511,  0.0654]]],


        [[[-0.2015, -0.1036, -0.1227],
          [-0.2294, -0.2890,  0.2507],
          [-0.2039, -0.1032, -0.0261]]],


        [[[ 0.2552,  0.2075,  0.2799],
          [ 0.0709, -0.2208,  0.2277],
          [-0.1452, -0.1961,  0.1781]]]], requires_grad=True)"""
BIAS = """\
tensor([ 0.0031,  0.3142, -0.2670,  0.2170, -0.2200,  0.2434],
       requires_grad=True)"""
INPUT = """\
tensor([[[[-1.1831,  0.5253,  0.0705,  ..., -0.5904, -0.1145, -0.7488],
          [-0.9510,  0.2303, -0.6416,  ...,  0.7960,  1.6276,  0.3620],
          [-0.1249,  0.4901, -0.0790,  ..., -0.8723, -0.2881,  0.4356],
          ...,
          [ 0.6352,  0.3252, -0.0446,  ..., -1.8833, -0.0868, -0.2000],
          [ 0.9172,  0.4551,  0.8795,  ...,  0.1327, -0.9136, -0.0452],
          [-0.2299,  0.1815, -1.2079,  ..., -1.3954,  1.2479,  1.0279]]]])"""
OUTPUT = """\
tensor([[ 0.0197,  0.0280, -0.0223, -0.0835, -0.0448,  0.1229, -0.0594, -0.1072,
          0.0999, -0.0607]], grad_fn=<AddmmBackward>)"""
GRADIENT = "tensor([-0.0014,  0.0065,  0.0212, -0.0037, -0.0007, -0.0094])"


@pytest.fixture(autouse=True)
def default_options():
    with printing.printoptions(profile="default"):
        yield


def f32(values):
    return np.array(values, np.float32)


def numbers(text, shape):
    """The numbers that stand in a printed tensor."""
    return f32(re.findall(r"-?\d+\.\d+", text)).reshape(shape)


@pytest.mark.parametrize(
    ("text", "shape", "options"),
    [
        (WEIGHT, (6, 1, 3, 3), {"requires_grad": True}),
        (BIAS, (6,), {"requires_grad": True}),
        (OUTPUT, (1, 10), {"requires_grad": True, "grad_fn_name": "AddmmBackward"}),
        (GRADIENT, (6,), {}),
    ],
)
def test_the_tutorials_outputs(text, shape, options):
    assert tensor_repr(numbers(text, shape), **options) == text


def test_the_tutorials_summarised_input():
    image = np.full((1, 1, 32, 32), 1e9, np.float32)  # what is not shown does not count
    ends = [0, 1, 2, -3, -2, -1]
    image[0, 0][np.ix_(ends, ends)] = numbers(INPUT, (6, 6))
    assert tensor_repr(image) == INPUT


def test_the_tutorials_scalar_and_zeros():
    loss = tensor_repr(np.array(0.6772, np.float32), grad_fn_name="MseLossBackward")
    assert loss == "tensor(0.6772, grad_fn=<MseLossBackward>)"
    assert tensor_repr(np.zeros(6, np.float32)) == "tensor([0., 0., 0., 0., 0., 0.])"


def test_parameter():
    assert repr(Parameter(numbers(BIAS, 6))) == "Parameter containing:\n" + BIAS


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (f32(7), "tensor(7.)"),
        (f32([1, 2, -300]), "tensor([   1.,    2., -300.])"),
        (f32([0.1, 20, -3]), "tensor([ 0.1000, 20.0000, -3.0000])"),
        (f32([1e-5, 1]), "tensor([1.0000e-05, 1.0000e+00])"),
        (f32([1e9, 1]), "tensor([1.0000e+09, 1.0000e+00])"),
        (f32([2e8, 3e8]), "tensor([2.0000e+08, 3.0000e+08])"),
        (f32([1e8, 9e7]), "tensor([100000000.,  90000000.])"),
        (f32([0.5, 501]), "tensor([5.0000e-01, 5.0100e+02])"),
        (f32([0.5, 500]), "tensor([  0.5000, 500.0000])"),
        (f32([nan, 1, inf]), "tensor([nan, 1., inf])"),
        (f32([nan, 0.5, -inf]), "tensor([   nan, 0.5000,   -inf])"),
        (f32([nan, -inf]), "tensor([nan, -inf])"),
        (
            f32([[-0.0, 1.5], [nan, -2.25]]),
            "tensor([[-0.0000,  1.5000],\n        [    nan, -2.2500]])",
        ),
        (np.array([1, -20, 3]), "tensor([  1, -20,   3])"),
        (np.array(7), "tensor(7)"),
        (np.array([True, False]), "tensor([ True, False])"),
        (np.array([1, 2], np.int32), "tensor([1, 2], dtype=fastconv.int32)"),
        (np.array([1.5]), "tensor([1.5000], dtype=fastconv.float64)"),
        (np.array([1.5], ">f8"), "tensor([1.5000], dtype=fastconv.float64)"),
        (np.empty(0, np.float32), "tensor([])"),
        (np.empty((2, 0), np.float32), "tensor([], size=(2, 0))"),
        (np.empty((0, 3), np.int64), "tensor([], size=(0, 3), dtype=fastconv.int64)"),
        (
            f32(range(24)).reshape(2, 3, 4),
            "tensor([[[ 0.,  1.,  2.,  3.],\n         [ 4.,  5.,  6.,  7.],\n"
            "         [ 8.,  9., 10., 11.]],\n\n        [[12., 13., 14., 15.],\n"
            "         [16., 17., 18., 19.],\n         [20., 21., 22., 23.]]])",
        ),
        (np.arange(1001), "tensor([   0,    1,    2,  ...,  998,  999, 1000])"),
        (
            np.arange(2000).reshape(2, 1, 1000),
            "tensor([[[   0,    1,    2,  ...,  997,  998,  999]],\n\n"
            "        [[1000, 1001, 1002,  ..., 1997, 1998, 1999]]])",
        ),
        (
            f32(range(1, 13)) / 8,
            "tensor([0.1250, 0.2500, 0.3750, 0.5000, 0.6250, 0.7500, 0.8750, 1.0000, 1.1250,\n"
            "        1.2500, 1.3750, 1.5000])",
        ),
    ],
)
def test_as_pytorch_prints(array, text):
    assert tensor_repr(array) == text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"precision": 2}, "tensor([0.50, 1.25, 3.00])"),
        ({"profile": "short"}, "tensor([0.50, 1.25, 3.00])"),
        ({"sci_mode": True, "precision": 1}, "tensor([5.0e-01, 1.2e+00, 3.0e+00])"),
        ({"linewidth": 20}, "tensor([0.5000,\n        1.2500,\n        3.0000])"),
        ({"threshold": 2, "edgeitems": 1}, "tensor([0.5000,  ..., 3.0000])"),
        ({"threshold": 2, "edgeitems": 0}, "tensor([...], size=(3,))"),
    ],
)
def test_options(options, text):
    values = f32([0.5, 1.25, 3])
    with printing.printoptions(**options):
        assert tensor_repr(values) == text
    assert tensor_repr(values) == "tensor([0.5000, 1.2500, 3.0000])"


def test_full_profile_shows_everything():
    with printing.printoptions(profile="full"):
        assert "..." not in tensor_repr(np.arange(1500))
    assert printing.get_printoptions()["threshold"] == 1000


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"profile": "long"}, ValueError),
        ({"precision": -1}, ValueError),
        ({"edgeitems": 1.5}, TypeError),
        ({"threshold": "many"}, TypeError),
    ],
)
def test_bad_options_change_nothing(options, error):
    before = printing.get_printoptions()
    with pytest.raises(error, match=next(iter(options))):
        printing.set_printoptions(**{"linewidth": 7, **options})
    assert printing.get_printoptions() == before
