"""SGD: stochastic gradient descent, with momentum if wanted."""

from typing import Any

from fastconv import kernels
from fastconv.autograd import Tensor
from fastconv.optim.optimizer import Optimizer, at_least_zero


class SGD(Optimizer):
    """``param -= lr * step`` where, for each parameter and its gradient g::

        g    = grad + weight_decay * param
        v    = momentum * v + (1 - dampening) * g        (the first time: v = g)
        step = g + momentum * v if nesterov else v       (without momentum: g)

    Raises ValueError for a negative lr, momentum or weight_decay, and for `nesterov` without
    momentum or with dampening. Source: Sutskever et al., "On the importance of initialization and
    momentum in deep learning" (2013), in PyTorch's form.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        self._check(defaults)
        super().__init__(params, defaults)

    def _check(self, group: dict[str, Any]) -> None:
        at_least_zero("learning rate", group["lr"])
        at_least_zero("momentum value", group["momentum"])
        at_least_zero("weight_decay value", group["weight_decay"])
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    live_options = ("lr", "momentum", "dampening", "weight_decay")

    def _numbers(self, group: dict[str, Any]) -> dict[str, float]:
        return {name: group[name] for name in self.live_options}

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        numbers, nesterov = self._numbers(group), group["nesterov"]
        if group["momentum"] == 0:
            buffers = None
        else:
            params = [p for p in params if not self._begin(p, numbers, nesterov)]
            buffers = [self.state[param]["momentum_buffer"]._array for param in params]
        arrays = [param._array for param in params]
        grads = [param.grad._array for param in params]
        kernels.sgd_steps(arrays, grads, buffers, nesterov=nesterov, **numbers)

    def _begin(self, param: Tensor, numbers: dict[str, float], nesterov: bool) -> bool:
        """The first step of a parameter, which makes its buffer; False where it was made before."""
        state = self.state[param]
        if "momentum_buffer" in state:
            return False
        buffer = kernels.empty_array(param.shape, param.dtype)
        kernels.sgd_step(
            param._array, param.grad._array, buffer, first=True, nesterov=nesterov, **numbers
        )
        state["momentum_buffer"] = Tensor(buffer)
        return True
