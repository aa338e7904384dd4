"""Losses: one number for how far a prediction is from its target."""

from fastconv.autograd import Tensor
from fastconv.nn import functional as F
from fastconv.nn.module import Module

REDUCTIONS = ("mean", "sum", "none")


class Loss(Module):
    """Base of the losses: keeps `reduction`, one of "mean", "sum" and "none" (else ValueError)."""

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.reduction = reduction


class MSELoss(Loss):
    """``(input - target)²``, averaged, summed or left as it is."""

    def __init__(self, *, reduction: str = "mean"):
        super().__init__(reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)


class NLLLoss(Loss):
    """``-weight[target] * input[target]`` for log-probabilities (N, C, ...), targets (N, ...).

    "mean" divides by the sum of the weights that took part; targets equal to `ignore_index` do not.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
    ):
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


class CrossEntropyLoss(Loss):
    """NLLLoss of ``log_softmax(input)``: input (N, C, ...) are scores, targets (N, ...) classes.

    `label_smoothing` s moves s of each target's weight evenly onto all classes.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ):
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
