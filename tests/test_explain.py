"""compiled.explain(): what a plan replays, and the peak it is measured by."""

import numpy as np
import pytest
from helpers import covers
from twins import training_step

import fastconv
from fastconv import kernels, nn, optim
from fastconv.models import Net


@covers("multiply_add_peak")
@pytest.mark.parametrize("turns", [0, 1, 2, 5, 100])
def test_multiply_add_peak(isa, dtype, turns):
    """s = x s + x from 0 with x = 1/2, `turns` times, is 1 - 2^-turns."""
    s, count = kernels.multiply_add_peak(turns, dtype)
    assert s == np.dtype(dtype).type(1 - 0.5**turns)
    assert count > 0 if turns else count == 0


def compiled_step():
    fastconv.manual_seed(0)
    net, criterion = Net(), nn.MSELoss()
    optimizer = optim.SGD(net.parameters(), lr=0.01)

    return fastconv.compile(training_step(net, optimizer, criterion))


def test_explain(capsys, tmp_path):
    step = compiled_step()
    with pytest.raises(RuntimeError, match="call it first"):
        step.explain()
    x, y = fastconv.randn(2, 1, 32, 32), fastconv.randn(2, 10)
    for _ in range(3):
        step(x, y)
    explanation = step.explain()
    text = capsys.readouterr().out
    assert str(explanation) in text
    kinds = [row.kernel for row in explanation.rows]
    assert kinds.count("conv2d_forward") == 2 and kinds.count("conv2d_backward_weight") == 2
    assert kinds.count("conv2d_backward_input") == 1, "nobody wants the gradient of the images"
    assert "relu" in kinds, (
        "of the linear layers; those of the convolutions are in them, as are the pools"
    )
    assert "max_pool2d_forward" not in kinds
    assert kinds.count("relu") == 2 and kinds.count("sgd_step") == 10
    assert not {"add", "copy"} & set(kinds), "gradients are written where they are kept"
    first = explanation.rows[kinds.index("conv2d_forward")]
    assert first.writes == [(2, 6, 15, 15)] * 2 and (6, 1, 3, 3) in first.reads
    assert first.algorithm in kernels.ALGORITHMS and first.multiply_adds == 2 * 6 * 30 * 30 * 9
    assert all(row.microseconds > 0 and row.bytes > 0 for row in explanation.rows)


def test_the_picture(tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    step = compiled_step()
    for _ in range(3):
        step(fastconv.randn(2, 1, 32, 32), fastconv.randn(2, 10))
    step.explain(plot=str(tmp_path / "step.svg"))
    assert (tmp_path / "step.svg").stat().st_size > 1000
    figure, axes = plt.subplots()
    step.explain(plot=axes)
    assert axes.patches
    plt.close(figure)
