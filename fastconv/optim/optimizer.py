"""Optimizer: parameters in groups, each with its own learning rate and other numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fastconv import kernels
from fastconv.autograd import Tensor, enable_grad
from fastconv.nn.parameter import clear_gradients

#: Called as listener(optimizer, group, ended) before and after the updates of each group, when set: what `compile`
#: listens with.
listener: Callable[[Any, dict[str, Any], bool], None] | None = None

EMPTY = "optimizer got an empty parameter list"


def at_least_zero(title: str, value: Any) -> None:
    """Raise ValueError (TypeError for what is not a number) unless ``value >= 0``."""
    try:
        fits = value >= 0.0
    except TypeError:
        raise TypeError(f"{title} must be a number, got {value!r}") from None
    if not fits:
        raise ValueError(f"Invalid {title}: {value}")


def _checked_params(params: Any) -> list[Tensor]:
    if isinstance(params, Tensor):
        return [params]
    if isinstance(params, set):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the ordering "
            "of tensors in sets will change between runs. Please use a list instead."
        )
    params = list(params)
    for param in params:
        if not isinstance(param, Tensor):
            raise TypeError(
                "optimizer can only optimize Tensors, "
                f"but one of the params is {type(param).__name__}"
            )
        if not param.is_leaf:
            raise ValueError("can't optimize a non-leaf Tensor")
    if len({id(param) for param in params}) != len(params):
        raise ValueError("optimizer contains a parameter group with duplicate parameters")
    return params


class Optimizer:
    """Base class: subclasses update parameters in `_update`.

    params: an iterable of Tensors, or of dicts ``{"params": ..., "lr": ...}``, one per group; what
    a group leaves out is taken from `defaults`. `param_groups` may be changed between steps.
    `state` maps a parameter to what the optimizer remembers of it.
    """

    #: The options of a group that `_numbers` reads: a compiled step takes them anew at each replay.
    live_options: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Tensor] | Iterable[dict], defaults: dict[str, Any]):
        if isinstance(params, Tensor) or not isinstance(params, Iterable):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or "
                f"dicts, but got {type(params).__name__}"
            )
        self.defaults = defaults
        self.state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        groups = params if isinstance(params, set) else list(params)
        if not groups:
            raise ValueError(EMPTY)
        if isinstance(groups, set) or not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with its own options.

        Raises TypeError for what is not a dict of Tensors, ValueError for a parameter that is not a
        leaf or that the optimizer has already.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        if "params" not in param_group:
            raise ValueError('param_group must have an entry "params"')
        group = {**param_group, "params": _checked_params(param_group["params"])}
        for name, default in self.defaults.items():
            group.setdefault(name, default)
        self._check(group)
        known = {id(param) for param in self._params()}
        if any(id(param) in known for param in group["params"]):
            raise ValueError("some parameters appear in more than one parameter group")
        self.param_groups.append(group)

    def _params(self) -> Iterator[Tensor]:
        return (param for group in self.param_groups for param in group["params"])

    def _check(self, group: dict[str, Any]) -> None:
        """Raise ValueError for options out of range."""
        raise NotImplementedError

    def _numbers(self, group: dict[str, Any]) -> dict[str, float]:
        """The group's options as the numbers that the kernel takes, by their names there."""
        return {}

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Change the numbers of these parameters of a group in place; each has a gradient."""
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what `closure` returned.

        closure: recomputes the loss and its gradients, called first.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            if listener is not None:
                listener(self, group, False)
            params = [param for param in group["params"] if param.grad is not None]
            try:
                self._update(params, group)
                if listener is not None:
                    listener(self, group, True)
            finally:  # some are changed already if it ends by an exception
                for param in params:
                    param._version[0] += 1
        return loss

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Fill the gradients that exist with zeros; ``set_to_none=True`` forgets them instead.

        Those of parameters that do not require one are forgotten: `step` leaves frozen parameters alone.
        """
        clear_gradients(self._params(), set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """``{"state": {number: ...}, "param_groups": [...]}``; parameters are numbered in order."""
        number = {id(param): i for i, param in enumerate(self._params())}
        return {
            "state": {
                number[id(param)]: dict(entries)
                for param, entries in self.state.items()
                if id(param) in number
            },
            "param_groups": [
                {**group, "params": [number[id(param)] for param in group["params"]]}
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the options and a copy of the state that `state_dict` returned.

        Tensors may also be NumPy arrays. Raises ValueError when groups, their sizes or the shapes
        of the state do not fit; then nothing has been changed.
        """
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
            raise ValueError('the state dict must have the entries "state" and "param_groups"')
        saved = state_dict["param_groups"]
        if len(saved) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        groups, params = [], {}
        for old, new in zip(self.param_groups, saved, strict=True):
            if len(old["params"]) != len(new["params"]):
                raise ValueError(
                    "loaded state dict contains a parameter group "
                    "that doesn't match the size of optimizer's group"
                )
            params.update(zip(new["params"], old["params"], strict=True))
            groups.append({**old, **new, "params": old["params"]})
            self._check(groups[-1])
        state = defaultdict(dict)
        for number, entries in state_dict["state"].items():
            if number not in params:
                raise ValueError(f"loaded state dict has state for an unknown parameter {number}")
            param = params[number]
            state[param] = {k: self._loaded(param, k, v) for k, v in entries.items()}
        self.param_groups, self.state = groups, state

    def _loaded(self, param: Tensor, name: str, value: Any) -> Any:
        """A copy of one state entry: a Tensor like `param`, or a plain number."""
        array = value._array if isinstance(value, Tensor) else value
        kernels.not_recorded("loading a state")
        if name == "step":
            return Tensor(np.array(int(array), np.int64))
        if not isinstance(array, np.ndarray):
            return array
        if array.shape != tuple(param.shape):
            raise ValueError(
                f"loaded state dict has {name} of shape {array.shape} "
                f"for a parameter of shape {tuple(param.shape)}"
            )
        return Tensor(kernels.new_copy(array, param.dtype))

    def __repr__(self) -> str:
        text = type(self).__name__ + " ("
        for i, group in enumerate(self.param_groups):
            text += f"\nParameter Group {i}\n"
            text += "".join(f"    {k}: {group[k]}\n" for k in sorted(group) if k != "params")
        return text + ")"
