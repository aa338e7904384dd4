"""How layers, optimizers and nodes of the graph print."""

from collections import OrderedDict

import pytest
from libraries import LIBRARIES, normal, renamed, same_print

LAYERS = {
    "conv": lambda nn: nn.Conv2d(1, 6, 3),
    "conv all": lambda nn: nn.Conv2d(4, 6, (3, 5), 2, (1, 0), (2, 1), 2, bias=False),
    "conv same": lambda nn: nn.Conv2d(4, 6, 3, padding="same"),
    "conv padded": lambda nn: nn.Conv2d(4, 6, 3, padding=1),
    "linear": lambda nn: nn.Linear(3, 4),
    "linear no bias": lambda nn: nn.Linear(3, 4, bias=False),
    "pool": lambda nn: nn.MaxPool2d(2),
    "pool all": lambda nn: nn.MaxPool2d((2, 3), 1, 1, 2, ceil_mode=True),
    "pool pairs": lambda nn: nn.MaxPool2d(3, stride=(2, 1)),
    "average": lambda nn: nn.AvgPool2d((2, 3), 1, 1, True, False, 5),
    "average, stride": lambda nn: nn.AvgPool2d(2),
    "adaptive": lambda nn: nn.AdaptiveAvgPool2d((None, 3)),
    "adaptive, one": lambda nn: nn.AdaptiveAvgPool2d(1),
    "relu": lambda nn: nn.ReLU(),
    "relu inplace": lambda nn: nn.ReLU(inplace=True),
    "sigmoid": lambda nn: nn.Sigmoid(),
    "tanh": lambda nn: nn.Tanh(),
    "softmax": lambda nn: nn.Softmax(dim=1),
    "log_softmax": lambda nn: nn.LogSoftmax(1),
    "softmax none": lambda nn: nn.Softmax(),
    "flatten": lambda nn: nn.Flatten(),
    "flatten dims": lambda nn: nn.Flatten(0, 2),
    "identity": lambda nn: nn.Identity(3, a=1),
    "mse": lambda nn: nn.MSELoss(),
    "cross entropy": lambda nn: nn.CrossEntropyLoss(reduction="sum"),
    "nll": lambda nn: nn.NLLLoss(),
    "sequence": lambda nn: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)),
    "empty sequence": lambda nn: nn.Sequential(),
    "named sequence": lambda nn: nn.Sequential(OrderedDict(a=nn.ReLU(), b=nn.Tanh())),
    "nested": lambda nn: nn.Sequential(nn.Sequential(nn.ReLU(), nn.Sequential()), nn.Flatten()),
    "list": lambda nn: nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU()]),
    "empty list": lambda nn: nn.ModuleList(),
    "list of sequences": lambda nn: nn.ModuleList([nn.Sequential(nn.ReLU()) for _ in range(3)]),
    "bare": lambda nn: nn.Module(),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    same_print(lambda torch: LAYERS[name](torch.nn))


OPTIMIZERS = {
    "SGD": lambda torch, p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda torch, p: torch.optim.Adam(p),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(name):
    """Every line of ours is among PyTorch's, which has more options."""
    ours, theirs = (repr(OPTIMIZERS[name](lib, [lib.zeros(2)])).splitlines() for lib in LIBRARIES)
    assert [line for line in theirs if line in ours] == ours


def test_data_and_gradients():
    def program(torch, x):
        w = torch.nn.Parameter(x)
        (w * w).sum().backward()
        return w.grad, w.data, w.detach(), w[0], w.grad.sum(), w.sum()

    same_print(program, normal(3, 4))


NODES = {
    "AddBackward": lambda torch, x: x + 1,
    "SubBackward": lambda torch, x: x - x,
    "RsubBackward": lambda torch, x: 1 - x,
    "MulBackward": lambda torch, x: x * 2,
    "DivBackward": lambda torch, x: x / 2,
    "PowBackward": lambda torch, x: x**2,
    "NegBackward": lambda torch, x: -x,
    "AbsBackward": lambda torch, x: x.abs(),
    "ExpBackward": lambda torch, x: x.exp(),
    "LogBackward": lambda torch, x: x.log(),
    "SqrtBackward": lambda torch, x: x.sqrt(),
    "TanhBackward": lambda torch, x: x.tanh(),
    "SigmoidBackward": lambda torch, x: x.sigmoid(),
    "ReluBackward": lambda torch, x: x.relu(),
    "ClampBackward": lambda torch, x: x.clamp(0, 1),
    "SoftmaxBackward": lambda torch, x: x.softmax(1),
    "LogSoftmaxBackward": lambda torch, x: x.log_softmax(1),
    "SumBackward": lambda torch, x: x.sum(),
    "MeanBackward": lambda torch, x: x.mean(1),
    "MaxBackward": lambda torch, x: x.max(),
    "ViewBackward": lambda torch, x: x.view(-1),
    "reshape": lambda torch, x: x.reshape(-1),
    "flatten": lambda torch, x: x.flatten(),
    "TBackward": lambda torch, x: x.t(),
    "T": lambda torch, x: x.T,
    "TransposeBackward": lambda torch, x: x.transpose(0, 1),
    "PermuteBackward": lambda torch, x: x.permute(1, 0),
    "SqueezeBackward": lambda torch, x: x.squeeze(),
    "UnsqueezeBackward": lambda torch, x: x.unsqueeze(0),
    "ExpandBackward": lambda torch, x: x.expand(2, 4, 4),
    "CloneBackward": lambda torch, x: x.clone(),
    "SelectBackward": lambda torch, x: x[0],
    "SliceBackward": lambda torch, x: x[1:],
    "IndexBackward": lambda torch, x: x[[0]],
    "CatBackward": lambda torch, x: torch.cat([x, x]),
    "StackBackward": lambda torch, x: torch.stack([x, x]),
    "MmBackward": lambda torch, x: x @ x,
    "DotBackward": lambda torch, x: x[0] @ x[0],
    "MvBackward": lambda torch, x: x @ x[0],
    "AddmmBackward": lambda torch, x: torch.nn.functional.linear(x, x, x[0]),
    "linear": lambda torch, x: torch.nn.functional.linear(x, x),
    "ToCopyBackward": lambda torch, x: x.double(),
    "MseLossBackward": lambda torch, x: torch.nn.functional.mse_loss(x, x.detach()),
    "NllLossBackward": lambda torch, x: torch.nn.functional.cross_entropy(x, torch.arange(4)),
    "ConvolutionBackward": lambda torch, x: torch.nn.functional.conv2d(
        x.view(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
    ),
    "MaxPool2DWithIndicesBackward": lambda torch, x: torch.nn.functional.max_pool2d(
        x.view(1, 1, 4, 4), 2
    ),
    "AvgPool2DBackward": lambda torch, x: torch.nn.functional.avg_pool2d(x.view(1, 1, 4, 4), 2),
    "AdaptiveAvgPool2DBackward": lambda torch, x: torch.nn.functional.adaptive_avg_pool2d(
        x.view(1, 1, 4, 4), 3
    ),
    "NativeBatchNormBackward": lambda torch, x: torch.nn.BatchNorm1d(4)(x),
    "Im2ColBackward": lambda torch, x: torch.nn.functional.unfold(x.view(1, 1, 4, 4), 2),
}


@pytest.mark.parametrize("name", NODES)
def test_names_of_nodes(name):
    ours, theirs = (NODES[name](lib, lib.ones(4, 4).requires_grad_()).grad_fn for lib in LIBRARIES)
    assert ours.name() == renamed(theirs.name())
