"""Optimizers: the same names, arguments and state as in ``torch.optim``."""

from fastconv.missing import guide
from fastconv.optim.adam import Adam
from fastconv.optim.optimizer import Optimizer
from fastconv.optim.sgd import SGD

__all__ = ["SGD", "Adam", "Optimizer"]

__getattr__ = guide(__name__)
