"""Names of PyTorch's that are not there: what the errors advise, and whether it is right."""

import math

import numpy as np
import pytest

import fastconv
from fastconv import nn, optim
from fastconv.missing import EXPRESSIONS, INSTEAD
from fastconv.nn import functional as F
from fastconv.utils import data

X = np.array([-7.0, -2.5, -0.75, -0.1, 0.2, 0.8, 3.5, 6.5])
P = np.array([0.1, 0.9, 0.3, 0.6, 0.2, 0.75, 0.5, 0.4])
ORACLES = {
    "leaky_relu": lambda x, y: np.where(x > 0, x, 0.01 * x),
    "relu6": lambda x, y: np.clip(x, 0, 6),
    "hardtanh": lambda x, y: np.clip(x, -1, 1),
    "elu": lambda x, y: np.where(x > 0, x, np.expm1(x)),
    "silu": lambda x, y: x / (1 + np.exp(-x)),
    "gelu": lambda x, y: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "softplus": lambda x, y: np.logaddexp(0, x),
    "l1_loss": lambda x, y: np.abs(x - y).mean(),
    "binary_cross_entropy": lambda x, y: np.mean(-y * np.log(x) - (1 - y) * np.log(1 - x)),
    "binary_cross_entropy_with_logits": lambda x, y: np.mean(np.logaddexp(0, x) - x * y),
    "norm": lambda x, y: np.linalg.norm(x),
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_say_what_the_name_means(expression):
    """And have a gradient."""
    name = EXPRESSIONS[expression][-1]
    x, y = (P[::-1] if name == "binary_cross_entropy" else X), P
    tensor = fastconv.tensor(x.copy(), requires_grad=True)
    value = eval(expression, {"x": tensor, "y": fastconv.tensor(y), "F": F})  # noqa: S307
    bound = 1e-3 if name == "gelu" else 1e-6  # its tanh form
    np.testing.assert_allclose(value.detach().numpy(), ORACLES[name](x, y), atol=bound)
    value.sum().backward()
    step = 1e-6
    for i in range(len(x)):
        moved = [np.where(np.arange(len(x)) == i, x + s, x) for s in (step, -step)]
        slope = np.sum(ORACLES[name](moved[0], y) - ORACLES[name](moved[1], y)) / (2 * step)
        assert abs(tensor.grad.numpy()[i] - slope) < 2e-3


@pytest.mark.parametrize(
    "ask,advice",
    [
        (lambda: nn.LeakyReLU, r"fastconv\.nn has no 'LeakyReLU': write F\.relu"),
        (lambda: F.gelu, r"fastconv\.nn\.functional has no 'gelu': write 0\.5"),
        (lambda: optim.AdamW, "optim.Adam, and p.mul_"),
        (lambda: optim.lr_scheduler, "param_groups"),
        (lambda: nn.utils.clip_grad_norm_, "limit / norm"),
        (lambda: nn.init.orthogonal_, "no_grad"),
        (lambda: data.ConcatDataset, "__getitem__"),
        (lambda: fastconv.backends, "leave it out"),
        (lambda: fastconv.fft, r"NumPy on t\.detach\(\)"),
        (lambda: fastconv.zeros(2).norm(), r"\(x\*\*2\)"),
        (lambda: nn.Nonsense, r"^fastconv\.nn has no 'Nonsense'$"),
    ],
)
def test_an_attribute_that_is_missing(ask, advice):
    with pytest.raises(AttributeError, match=advice):
        ask()


def test_an_import_that_is_missing():
    with pytest.raises(ImportError, match="fastconv.nn has no 'GELU': write"):
        from fastconv.nn import GELU  # noqa: F401
    with pytest.raises(ImportError, match="fastconv has no 'inference_mode': use fastconv.no_grad"):
        from fastconv import inference_mode  # noqa: F401


def test_what_is_asked_for_politely():
    assert not hasattr(nn, "GELU") and getattr(optim, "AdamW", None) is None
    assert fastconv.models.Net


def test_what_is_there_is_not_said_to_be_missing():
    rooms = (nn, F, optim, nn.init, data, fastconv.Tensor)
    for name in INSTEAD:
        for room in rooms if name == "utils" else (*rooms, fastconv):
            assert name not in dir(room), f"{room} has {name}"


def test_devices():
    net = nn.Linear(2, 1)
    assert net.cpu() is net
    with pytest.raises(RuntimeError, match="leave out .cuda"):
        net.cuda()


def test_tensors_of_another_library():
    torch_like = type("Tensor", (), {"__module__": "torch"})()
    for give in (
        lambda t: F.relu(t),
        lambda t: nn.Linear(2, 1)(t),
        lambda t: nn.Linear(2, 1).load_state_dict({"weight": t, "bias": t}),
        lambda t: data.DataLoader([t, t], batch_size=2).__iter__().__next__(),
        lambda t: fastconv.from_numpy(t),
        lambda t: nn.Parameter(t),
    ):
        with pytest.raises(
            (TypeError, RuntimeError), match=r"torch\.Tensor \(make it fastconv\.tensor"
        ):
            give(torch_like)


def test_files_of_another_library(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(b"PK\x03\x04" + bytes(200))
    with pytest.raises(ValueError, match=r"seems to be one of torch\.save.*safetensors\.torch"):
        fastconv.load(path)
    fastconv.save({"w": fastconv.ones(2)}, path)
    assert list(fastconv.load(path, map_location="cpu", weights_only=True)) == ["w"]
