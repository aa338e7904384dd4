"""Assignment to slices, joining, sizes, and unusual indices."""

import numpy as np
import pytest
from libraries import compare, differences, distinct, normal, refused

import fastconv

X = distinct(2, 3, 4)


@pytest.mark.parametrize(
    "key", [0, -1, slice(1, None), (slice(None), 1), (0, 1, 2), ..., [1, 0], (0, [2, 0])], ids=str
)
@pytest.mark.parametrize("value", [5, 2.5, "tensor", "row"])
def test_assignment(key, value):
    def program(torch, x, v):
        y = x * 1
        y[key] = {"tensor": v[:1], "row": v[0, 0]}.get(value, value)
        return y

    compare(program, X, -distinct(2, 3, 4))


def test_assignment_through_a_mask():
    def program(torch, x):
        y = x.clone()
        y[y < 0] = 0
        return y

    compare(program, X)
    compare(program, X.astype(np.int64))


@pytest.mark.parametrize("key, value", [((0, 5), 1.0), (slice(None), "wide"), ([5], 1.0)], ids=str)
def test_wrong_assignment(key, value):
    def program(torch, x, v):
        y = x.clone()
        y[key] = v if value == "wide" else value
        return y

    compare(program, X, normal(7))


JOINS = [
    ([(2, 3), (2, 3)], 0),
    ([(2, 3), (2, 3)], 1),
    ([(2, 3), (2, 3)], -1),
    ([(2, 3), (4, 3)], 0),
    ([(2, 3), (2, 1)], 1),
    ([(2, 3)], 0),
    ([(0, 3), (2, 3)], 0),
    ([(2, 3), (2, 4)], 0),
    ([(2, 3), (3,)], 0),
    ([(2, 3), (2, 3)], 2),
    ([(2, 3), (2, 3)], -3),
    ([(), ()], 0),
    ([(3,), (0,)], 0),
]


@pytest.mark.parametrize("name", ["cat", "stack", "concat"])
@pytest.mark.parametrize("shapes, dim", JOINS, ids=str)
def test_joining(name, shapes, dim):
    arrays = [normal(*s, seed=i) for i, s in enumerate(shapes)]
    compare(lambda torch, *parts: getattr(torch, name)(parts, dim), *arrays)
    compare(lambda torch, *parts: getattr(torch, name)(list(parts), dim=dim), *arrays)


@pytest.mark.parametrize("name", ["cat", "stack"])
def test_joining_of_dtypes(name):
    x, y, z = normal(2), np.arange(2), np.ones(2)
    compare(lambda torch, x, y, z: getattr(torch, name)([x, y, z]), x, y, z)
    compare(lambda torch, x, y, z: getattr(torch, name)([x, y]), x, y, z)
    compare(lambda torch, *parts: getattr(torch, name)([]), x)


def test_functions_of_the_library():
    names = [
        "flatten",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "reshape",
        "clone",
        "unbind",
    ]
    arguments = [(1,), (), (1,), ((2, 0, 1),), (0, 2), ((4, 6),), (), (1,)]
    differences(
        (name, lambda torch, x, n=name, a=arguments[i]: getattr(torch, n)(x, *a), X)
        for i, name in enumerate(names)
    )
    differences(
        (name, lambda torch, x, n=name: getattr(torch, n)(x, 2, dim=1), X)
        for name in ("split", "chunk")
    )


def test_sizes():
    compare(
        lambda torch, x: (
            x.size(),
            x.shape,
            x.size(0),
            x.size(-1),
            x.ndim,
            x.dim(),
            x.numel(),
            len(x),
        ),
        X,
    )
    compare(
        lambda torch, x: (x.stride(), x.T.is_contiguous(), x.is_contiguous(), x.element_size()),
        X[0],
    )
    compare(lambda torch, x: (x.transpose(0, 2).stride(), x.stride(1), x.nelement()), X)
    compare(lambda torch, x: (x.size().numel(), x.tolist(), x.is_leaf, (x * 2).is_leaf), X)
    compare(lambda torch, x: x.size(3), X)
    compare(lambda torch, x: (isinstance(x.size()[1:], torch.Size), x.size()[1:] == (3, 4)), X)
    compare(lambda torch, x: torch.numel(x), X)


def test_negative_steps_are_allowed():
    """As in NumPy; PyTorch has flip()."""
    x = fastconv.tensor(X, requires_grad=True)
    y = x[::-1, :, ::-2]
    assert (y.detach().numpy() == X[::-1, :, ::-2]).all()
    y.backward(y.detach())
    assert (x.grad.numpy()[:, :, 1::2] == X[:, :, 1::2]).all() and not x.grad.numpy()[
        :, :, ::2
    ].any()


def test_views_in_place():
    """A change shows in all views of a memory, without a gradient to keep track of."""

    def program(torch, x):
        y = x.detach().clone()
        rows, flat = y[0], y.view(-1)
        rows.mul_(2)
        flat[-1] = 0
        y.transpose(0, 2)[1].add_(1)
        return y, flat

    compare(program, X)


def test_in_place_on_a_view_of_a_recorded_tensor_is_refused():
    def program(torch, x):
        y = x * 1
        y[0].mul_(2)
        return y

    refused(program, X)


def test_unusual_dtypes_of_indices():
    compare(lambda torch, x: x[torch.tensor([1, 0])], X)
    compare(lambda torch, x: x[torch.tensor(1)], X)
    compare(lambda torch, x: x[torch.tensor([True, False])], X)
    compare(lambda torch, x: x[:, torch.tensor([[0, 1], [2, 2]])], X)
    compare(lambda torch, x: x[np.int64(1)], X)
    compare(lambda torch, x: x[[True, False]], X)
    compare(lambda torch, x: x[range(2)], X)
    compare(lambda torch, x: x[True], X)
