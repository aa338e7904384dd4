"""Layers, losses and their initial values; the same names as in ``torch.nn``."""

from fastconv.missing import guide
from fastconv.nn import functional, init
from fastconv.nn.activation import LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from fastconv.nn.batchnorm import BatchNorm1d, BatchNorm2d
from fastconv.nn.container import ModuleList, Sequential
from fastconv.nn.conv import Conv2d
from fastconv.nn.dropout import Dropout, Dropout2d
from fastconv.nn.flatten import Flatten, Identity
from fastconv.nn.linear import Linear
from fastconv.nn.loss import CrossEntropyLoss, MSELoss, NLLLoss
from fastconv.nn.module import Module
from fastconv.nn.parameter import Parameter
from fastconv.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "Identity",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "functional",
    "init",
]

__getattr__ = guide(__name__)
