"""Adam: steps scaled by running means of the gradient and of its square."""

from typing import Any

import numpy as np

from fastconv import kernels
from fastconv.autograd import Tensor
from fastconv.optim.optimizer import Optimizer, at_least_zero


class Adam(Optimizer):
    """Kingma & Ba, "Adam: a method for stochastic optimization" (2015), in PyTorch's form.

    For each parameter, its gradient g and the number of its step t = 1, 2, ...::

        g      = grad + weight_decay * param
        m      = beta1 * m + (1 - beta1) * g
        v      = beta2 * v + (1 - beta2) * g²
        param -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    Raises ValueError for a negative lr, eps or weight_decay and for betas outside [0, 1).
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self._check(defaults)
        super().__init__(params, defaults)

    def _check(self, group: dict[str, Any]) -> None:
        at_least_zero("learning rate", group["lr"])
        at_least_zero("epsilon value", group["eps"])
        at_least_zero("weight_decay value", group["weight_decay"])
        betas = group["betas"]
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ValueError(f"betas must be two numbers, got {betas!r}")
        for i, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")

    live_options = ("lr", "betas", "eps", "weight_decay")

    def _numbers(self, group: dict[str, Any]) -> dict[str, float]:
        beta1, beta2 = group["betas"]
        rest = {name: group[name] for name in ("lr", "eps", "weight_decay")}
        return {"beta1": beta1, "beta2": beta2, **rest}

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        numbers = self._numbers(group)
        for param in params:
            state = self.state[param]
            if not state:
                means = [kernels.empty_array(param.shape, param.dtype) for _ in range(2)]
                for mean in means:
                    kernels.fill(mean, 0.0)
                first, second = map(Tensor, means)
                # at once: an interrupted step leaves no half of it
                state.update(step=Tensor(np.zeros((), np.int64)), exp_avg=first, exp_avg_sq=second)
            arrays = [state[name]._array for name in ("exp_avg", "exp_avg_sq", "step")]
            kernels.adam_step(param._array, param.grad._array, *arrays, **numbers)
