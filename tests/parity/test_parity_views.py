"""Shapes and indices: results, gradients, errors, and whether memory is shared."""

import numpy as np
import pytest
from libraries import LIBRARIES, compare, distinct

X = distinct(2, 3, 4)

VIEWS = {
    "view": lambda x: x.view(6, 4),
    "view of a list": lambda x: x.view([4, 6]),
    "view -1": lambda x: x.view(2, -1),
    "view of Size": lambda x: x.view(x.size()),
    "view_as": lambda x: x.view_as(x.reshape(4, 6)),
    "reshape": lambda x: x.reshape(4, 6),
    "reshape -1": lambda x: x.reshape(-1),
    "flatten": lambda x: x.flatten(),
    "flatten 1": lambda x: x.flatten(1),
    "flatten 0 1": lambda x: x.flatten(0, 1),
    "flatten -2 -1": lambda x: x.flatten(-2, -1),
    "unflatten": lambda x: x.unflatten(2, (2, 2)),
    "unflatten -1": lambda x: x.unflatten(-1, (2, -1)),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "unsqueeze end": lambda x: x.unsqueeze(-1),
    "unsqueeze 3": lambda x: x.unsqueeze(3),
    "squeeze": lambda x: x.unsqueeze(1).unsqueeze(0).squeeze(),
    "squeeze 1": lambda x: x.unsqueeze(1).squeeze(1),
    "squeeze no": lambda x: x.squeeze(1),
    "squeeze -1": lambda x: x.unsqueeze(-1).squeeze(-1),
    "permute": lambda x: x.permute(2, 0, 1),
    "permute negative": lambda x: x.permute(-1, 0, 1),
    "permute tuple": lambda x: x.permute((1, 2, 0)),
    "transpose": lambda x: x.transpose(0, 2),
    "transpose -1 -2": lambda x: x.transpose(-1, -2),
    "t": lambda x: x[0].t(),
    "t of a vector": lambda x: x[0, 0].t(),
    "T": lambda x: x[0].T,
    "expand": lambda x: x.unsqueeze(0).expand(5, 2, 3, 4),
    "expand -1": lambda x: x.unsqueeze(1).expand(-1, 2, -1, 4),
    "expand_as": lambda x: x[:, :1].expand_as(x),
    "contiguous": lambda x: x.contiguous(),
    "detach": lambda x: x.detach(),
    "[0]": lambda x: x[0],
    "[-1]": lambda x: x[-1],
    "[:, 1]": lambda x: x[:, 1],
    "[1, 2, 3]": lambda x: x[1, 2, 3],
    "[:, 1:, ::2]": lambda x: x[:, 1:, ::2],
    "[..., 0]": lambda x: x[..., 0],
    "[None]": lambda x: x[None],
    "[:, None, 1:2]": lambda x: x[:, None, 1:2],
    "[...]": lambda x: x[...],
    "[5:]": lambda x: x[5:],
    "[:-1]": lambda x: x[:-1],
    "split": lambda x: x.split(2, 2),
    "split uneven": lambda x: x.split(3, -1),
    "split sizes": lambda x: x.split([1, 3], 2),
    "chunk": lambda x: x.chunk(2, 2),
    "chunk uneven": lambda x: x.chunk(2, 1),
    "chunk many": lambda x: x.chunk(9, 1),
    "unbind": lambda x: x.unbind(),
    "unbind 1": lambda x: x.unbind(1),
    "unbind -1": lambda x: x.unbind(-1),
    "rows": lambda x: list(x),
}
COPIES = {
    "clone": lambda x: x.clone(),
    "reshape of a transpose": lambda x: x.transpose(0, 1).reshape(-1),
    "flatten of a transpose": lambda x: x.transpose(1, 2).flatten(),
    "contiguous of a transpose": lambda x: x.transpose(0, 1).contiguous(),
    "[[1, 0]]": lambda x: x[[1, 0]],
    "[[0, 0, 1]]": lambda x: x[[0, 0, 1]],
    "[:, [0, 2]]": lambda x: x[:, [0, 2]],
    "[[0, 1], [1, 2]]": lambda x: x[[0, 1], [1, 2]],
    "[:, [2, 0], 1:]": lambda x: x[:, [2, 0], 1:],
    "[[0, 1], :, [1, 2]]": lambda x: x[[0, 1], :, [1, 2]],
    "[x > 0]": lambda x: x[x > 0],
    "[argmax]": lambda x: x[x.argmax(0)[:, 0]],
}
WRONG = {
    "view size": lambda x: x.view(5, 5),
    "view of a transpose": lambda x: x.transpose(0, 1).view(-1),
    "two -1": lambda x: x.reshape(-1, -1),
    "-1 and no fit": lambda x: x.reshape(5, -1),
    "negative size": lambda x: x.view(-2, 12),
    "view of floats": lambda x: x.view(2.0, 12),
    "flatten order": lambda x: x.flatten(2, 1),
    "flatten range": lambda x: x.flatten(0, 3),
    "unflatten": lambda x: x.unflatten(2, (3, 2)),
    "unsqueeze range": lambda x: x.unsqueeze(4),
    "squeeze range": lambda x: x.squeeze(3),
    "permute missing": lambda x: x.permute(0, 1),
    "permute twice": lambda x: x.permute(0, 0, 1),
    "transpose range": lambda x: x.transpose(0, 3),
    "t": lambda x: x.t(),
    "expand": lambda x: x.expand(2, 5, 4),
    "expand fewer": lambda x: x.expand(3, 4),
    "index range": lambda x: x[2],
    "index -3": lambda x: x[-3],
    "too many": lambda x: x[0, 0, 0, 0],
    "list range": lambda x: x[[0, 2]],
    "mask of another shape": lambda x: x[:, :2][x > 0],
    "float index": lambda x: x[1.0],
    "split sizes": lambda x: x.split([1, 1], 2),
    "split range": lambda x: x.split(1, 3),
    "unbind range": lambda x: x.unbind(3),
    "rows of a number": lambda x: list(x.sum()),
    "len of a number": lambda x: len(x.sum()),
    "item of many": lambda x: x.item(),
    "truth of many": lambda x: bool(x),
    "chunk 0": lambda x: x.chunk(0),
    "split 0": lambda x: x.split(0),
    "split negative": lambda x: x.split(-1),
}


@pytest.mark.parametrize("name", [*VIEWS, *COPIES])
def test_result_and_gradient(name):
    function = {**VIEWS, **COPIES}[name]
    compare(lambda torch, x: function(x), X)
    compare(lambda torch, x: function(x * 2), X)
    compare(lambda torch, x: function(x), X.astype(np.int64))


@pytest.mark.parametrize("name", [*VIEWS, *COPIES])
def test_sharing_of_memory(name):
    """Writing to the result shows in the Tensor, or does not, as in PyTorch."""
    changed = []
    for lib in LIBRARIES:
        x = lib.tensor(X)
        result = {**VIEWS, **COPIES}[name](x)
        first = result[0] if isinstance(result, tuple | list) else result
        if "expand" in name or first.numel() == 0:
            return
        first.fill_(77.0)
        changed.append(bool((x == 77.0).any()))
    assert changed[0] == changed[1]


@pytest.mark.parametrize("name", WRONG)
def test_errors(name):
    compare(lambda torch, x: WRONG[name](x), X)
