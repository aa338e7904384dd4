"""In-place changes, views and memory that is shared: a gradient is right, or an error says why there is none."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.nn.functional as F


def leaf(values):
    return fc.tensor(values, requires_grad=True)


def grad(tensor):
    return tensor.grad.numpy().tolist()


def test_the_result_of_a_division_may_be_changed():
    a, b = leaf([2.0, 4.0]), leaf([4.0, 8.0])
    c = a / b
    c += 1
    c.sum().backward()
    assert grad(a) == [0.25, 0.125]
    assert grad(b) == [-0.125, -0.0625]


@pytest.mark.parametrize(
    "make", [lambda x: x.max(), lambda x: x.min(), lambda x: x**x, lambda x: x.exp()]
)
def test_a_result_that_backward_reads_must_not_be_changed(make):
    y = make(leaf([2.0, 3.0]))
    y *= 2
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_the_maximum_may_be_nan():
    x = leaf([1.0, float("nan"), 3.0])
    x.max().backward()
    assert grad(x) == [0, 1, 0]


def test_a_tensor_times_itself_in_place():
    x = leaf([2.0, 3.0])
    y = x.clone()
    y.mul_(y)
    y.sum().backward()
    assert grad(x) == [4, 6]
    x = leaf([2.0, 3.0])
    y = x.clone()
    y /= y
    y.sum().backward()
    assert grad(x) == [0, 0]


@pytest.mark.parametrize("how", ["add_", "copy_", "setitem"])
def test_a_view_older_than_its_memorys_history(how):
    w, u, base = leaf([1.0, 2.0, 3.0]), leaf([5.0, 6.0]), fc.zeros(3)
    view = base[0:2]
    if how == "setitem":
        base[:] = w
    else:
        getattr(base, how)(w)
    with pytest.raises(RuntimeError, match="make the view anew"):
        view * u
    with pytest.raises(RuntimeError, match="make the view anew"):
        view.mul_(2)
    (base[0:2] * u).sum().backward()
    assert grad(w) == [5, 6, 0]


def test_views_of_plain_buffers_stay_free():
    buffer, w = fc.zeros(3), leaf([2.0])
    view = buffer[0:1]
    buffer += 1
    (view * w).sum().backward()
    assert grad(w) == [1]


def test_what_selects_must_not_change():
    x, index = leaf([1.0, 2.0, 3.0]), fc.tensor([0, 0, 1])
    y = x[index]
    index.fill_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()
    positions = [0, 0, 1]
    y = x[positions]
    positions[:] = [2, 2, 2]
    y.sum().backward()
    assert grad(x) == [2, 1, 0]
    scores, target = leaf([[1.0, 2.0]]), fc.tensor([1])
    loss = F.cross_entropy(scores, target)
    target.fill_(0)
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()
    x = leaf([[1.0, 2.0]])
    largest = x.max(1)
    largest.indices.fill_(0)
    largest.values.sum().backward()
    assert grad(x) == [[0, 1]]


def test_another_tensor_of_the_same_memory_is_noticed():
    w = leaf([2.0, 3.0])
    y = w * 1
    z = (y * y).sum()
    fc.Tensor(y.detach()).zero_()
    with pytest.raises(RuntimeError, match="changed in place"):
        z.backward()


def test_fill_passes_the_gradient_to_the_value():
    x, v = leaf([1.0, 2.0]), leaf(3.0)
    y = x * 1
    y.fill_(v)
    y.sum().backward()
    assert v.grad.item() == 2
    assert grad(x) == [0, 0]


def test_joining_mixed_dtypes():
    parts = [fc.tensor([1.5]), fc.tensor([1]), fc.tensor([True])]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        joined = fc.cat([parts[i] for i in order])
        assert joined.dtype == np.float32
        assert sorted(joined.tolist()) == [1, 1, 1.5]
    wide = fc.cat([fc.zeros(1, dtype=fc.float64), fc.zeros(1), fc.zeros(1)])
    assert wide.dtype == np.float64


def test_an_index_of_one_integer():
    x = fc.tensor([1.0, 2.0, 3.0])
    assert (x[fc.tensor(1)] + 1).item() == 3
    x[fc.tensor(1)] = 7.0
    assert x.tolist() == [1, 7, 3]


def test_set_grad_enabled_as_a_decorator():
    @fc.set_grad_enabled(False)
    def inside():
        return fc.is_grad_enabled()

    assert fc.is_grad_enabled()
    assert not inside()
    assert fc.is_grad_enabled()
    with fc.no_grad():
        assert not inside()
        assert not fc.is_grad_enabled()


def test_ceil_mode_with_a_kernel_larger_than_the_image():
    y = F.max_pool2d(fc.ones(1, 1, 2, 2), 3, stride=9, ceil_mode=True)
    assert y.tolist() == [[[[1.0]]]]


def test_what_a_tensor_lacks_is_named_with_a_way_around():
    with pytest.raises(AttributeError, match=r"has no 'cumsum'.*t\.detach\(\)\.numpy\(\)"):
        fc.ones(3).cumsum(0)
    assert not hasattr(fc.ones(3), "__cuda_array_interface__")
