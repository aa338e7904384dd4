"""Results of a plan in the memory of operands that nobody needs any more, and pointwise calls in blocks."""

import numpy as np
import pytest
from twins import OPTIMIZERS, bits, compare, twins, vector

import fastconv
from fastconv import nn


def kept_for_later(x):
    y = x * 2
    return (y + x * 3).relu() * y


def read_twice(x):
    y = x * 2
    return y * y


def through_a_view(x):
    y = x * 2
    return y[1:] + y[:-1]


FUNCTIONS = {  # function, whether each add, mul and relu lies where an operand lay
    "a chain": (lambda x: (x * 2 + x).relu() + x.sum(), [False, True, True, False]),
    "the right one": (lambda x: (x + x * 2).relu() + x.sum(), [False, True, True, False]),
    "kept for later": (kept_for_later, [False, False, True, True, False]),
    "read twice": (lambda x: read_twice(x) + x.sum(), [False, True, False]),
    "through a view": (lambda x: through_a_view(x) + x.sum(), [False, False, False]),
    "broadcast": (lambda x: (x[:1] * 2 + x) + x.sum(), [False, False, False]),
    "an argument": (lambda x: x + x, [False]),
}


def in_place(call):
    result = call.words[call.word("y")]
    return any(call.words[call.word(n)] == result for n in ("a", "b") if n in call.operands)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_result_lies_where_an_operand_lay(rng, name):
    function, wanted = FUNCTIONS[name]
    with fastconv.no_grad():
        run = fastconv.compile(function)
        for _ in range(3):
            x = vector(rng, 4, 5, 6)
            before = bits(x)
            assert bits(run(x)) == bits(function(x))
            assert bits(x) == before
    calls = [call for call in run._last.calls if call.kernel in ("add", "mul", "relu")]
    assert [in_place(call) for call in calls] == wanted


class Block(nn.Module):
    """Its gradients meet in an add, then relu's, then batch normalisation's."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.first, self.norm = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x):
        y = self.first(x).relu()
        for _ in range(2):
            y = (self.norm(self.conv(y)) + y).relu()
        return y


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("size", [(3, 8, 5, 7), (8, 8, 64, 64)], ids=str)
def test_gradients_of_a_residual_block(rng, threads, count, size):
    """Bit by bit; large arrays block by block."""
    threads(count)
    eager, compiled = twins(Block(), OPTIMIZERS["momentum"], lambda y, t: (y * y).sum())
    for special in (False, False, False, True):
        x = vector(rng, *size)
        if special:
            x._array.flat[rng.integers(x._array.size, size=3)] = [np.nan, np.inf, -0.0]
        compare(eager, compiled, (x, vector(rng, 1)))
    plan = compiled.step._last
    reused = {call.kernel for call in plan.calls if "y" in call.operands and _is_reused(call)}
    assert "add" in reused
    pairs = [c for c in plan.chains if c.is_pointwise]
    assert bool(pairs) == (size[2] == 64)
    norms = [call for call in plan.calls if call.kernel == "batch_norm_backward"]
    assert any(call.words[call.word("dx")] == call.words[call.word("dy")] for call in norms)


def _is_reused(call):
    return call.kernel in ("add", "relu_backward") and in_place(call)
