"""Whole networks: forward passes and steps of training, eager and compiled, with each library."""

import graphs
import numpy as np
import peers
import torch
import tutorial
from goals import COMPILED, OURS
from layers import arrays
from resnet import resnet18

import fastconv
from fastconv import models

BATCH, CLASSES = 32, 10  # of ResNet-18's training
left_out = {}  # who did not work, and why


def training(loss_of, optimizer, set_to_none):
    """A step as everyone writes it. loss_of(images, targets): the network's loss. set_to_none:
    PyTorch's default; what is compiled overwrites gradients that are to be zero."""

    def step(x, target):
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = loss_of(x, target)
        loss.backward()
        optimizer.step()
        return loss

    return step


def detached(step, *args):
    return lambda: step(*args).detach()


def torch_compiled(function, *args, **options):
    """function after torch.compile, which has run once; None, with a line, if that fails."""
    compiled = torch.compile(function, **options)
    try:
        compiled(*args)
    except Exception as error:  # no C++ compiler, no code for this processor, ...
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "torch.compile" not in left_out:
            print(f"torch.compile does not work here and is left out: {why}")
        left_out["torch.compile"] = why
        return None
    return compiled


def numbers(net):
    """The state_dict of a PyTorch network, as arrays."""
    return {name: t.detach().numpy().copy() for name, t in net.state_dict().items()}


# ---- the tutorial's network ---------------------------------------------------------------------


def tutorial_forward(batch, threads):
    """ONNX Runtime and compiled fastconv have their weights ready, torch.compile by freezing."""
    x, _ = tutorial.images_and_targets(batch)
    ours, theirs = (tutorial.tutorial_net(lib) for lib in (fastconv, torch))
    mine, images, weights = fastconv.from_numpy(x), torch.from_numpy(x), numbers(theirs)
    compiled = fastconv.compile(ours)
    contenders = {
        COMPILED: lambda: compiled(mine),
        OURS: lambda: ours(mine),
        "PyTorch": lambda: theirs(images),
    }
    faster = torch_compiled(theirs, images, options={"freezing": True})
    if faster is not None:
        contenders["torch.compile"] = lambda: faster(images)
    if peers.is_there("JAX"):
        for name in tutorial.JAX_ORDERS:
            contenders[name] = tutorial.jax_forward(name, weights, x)
    if peers.is_there("ONNX Runtime"):
        model = graphs.tutorial(weights, batch)
        contenders["ONNX Runtime"] = peers.onnxruntime_model(model, x, (batch, 10), threads)
    return contenders


def tutorial_step(batch):
    """zero_grad, forward, MSELoss, backward, SGD: as the tutorial's loop.

    PyTorch only in NCHW: after channels_last the network's `view` is an error.
    """
    x, t = tutorial.images_and_targets(batch)
    contenders = {}
    for name, lib, options in (
        (COMPILED, fastconv, {}),
        (OURS, fastconv, {}),
        ("PyTorch", torch, {}),
        ("PyTorch fused", torch, {"fused": True}),
        ("torch.compile", torch, {"fused": True}),
    ):
        net, mse = tutorial.tutorial_net(lib), lib.nn.MSELoss()
        optimizer = lib.optim.SGD(net.parameters(), lr=tutorial.RATE, **options)
        batch = lib.from_numpy(x), lib.from_numpy(t)

        def loss(x, t, net=net, mse=mse):
            return mse(net(x), t)

        if name == "torch.compile":
            loss = torch_compiled(loss, *batch)
        if loss is not None:
            step = training(loss, optimizer, set_to_none=name != COMPILED)
            contenders[name] = detached(
                fastconv.compile(step) if name == COMPILED else step, *batch
            )
    if peers.is_there("JAX"):
        weights = numbers(tutorial.tutorial_net(torch))
        for name in tutorial.JAX_ORDERS:
            contenders[name] = tutorial.jax_train_step(name, weights, x, t)
    return contenders


# ---- ResNet-18 ----------------------------------------------------------------------------------


def resnet_forward(threads, side=224, classes=1000):
    """Batch 1, after eval(): those that load a model fold each normalisation into a convolution."""
    (x,) = arrays((1, 3, side, side))
    theirs = resnet18(classes, "imagenet")
    theirs(torch.from_numpy(arrays((4, 3, 64, 64))[0]))  # means and variances that are not 0 and 1
    theirs.eval()
    weights = numbers(theirs)
    ours, mine = models.resnet18(classes).eval(), fastconv.from_numpy(x)
    ours.load_state_dict(weights)
    compiled = fastconv.compile(ours)
    contenders = {COMPILED: lambda: compiled(mine)}
    for name, layout in peers.LAYOUTS.items():
        net = resnet18(classes, "imagenet").eval()
        net.load_state_dict(theirs.state_dict())
        net, images = net.to(memory_format=layout), peers.in_layout(x, layout)
        contenders[name] = lambda net=net, images=images: net(images)
    for name, make in peers.MODELS.items():
        if peers.is_there(name):
            model = graphs.resnet18(weights, 1, side, classes)
            contenders[name] = make(model, x, (1, classes), threads)
    return contenders


def resnet_step(name):
    """Of ResNet-18 with CIFAR's stem; name: of the contender. SGD with momentum, cross entropy."""
    lib = fastconv if name == COMPILED else torch
    (x,) = arrays((BATCH, 3, 32, 32))
    labels = np.arange(BATCH) % CLASSES
    if lib is torch:
        net = resnet18(CLASSES, "cifar").to(memory_format=peers.LAYOUTS[name])
        images = peers.in_layout(x, peers.LAYOUTS[name])
    else:
        fastconv.manual_seed(0)  # the same numbers, to rounding
        net, images = models.resnet18(CLASSES, "cifar"), fastconv.from_numpy(x)
    cross_entropy = lib.nn.CrossEntropyLoss()
    fused = {"fused": True} if lib is torch else {}
    optimizer = lib.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, **fused)
    step = training(lambda x, t: cross_entropy(net(x), t), optimizer, set_to_none=lib is torch)
    step = fastconv.compile(step) if lib is fastconv else step
    return detached(step, images, lib.from_numpy(labels))


def resnet_training():
    return {name: resnet_step(name) for name in (COMPILED, *peers.LAYOUTS)}
