"""Members: attributes that know whether they are parameters, buffers or child modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from fastconv.autograd import Tensor
from fastconv.nn.parameter import Parameter

PARAMETER, BUFFER, SCRATCH, MODULE = "parameter", "buffer", "non-persistent buffer", "module"


class Members:
    """The attributes of a Module.

    Parameters, buffers and child modules are ordinary attributes, so that reading ``self.weight``
    costs what reading any attribute costs; `_members` remembers, in order, which ones they are.
    """

    def __init__(self) -> None:
        self.__dict__["_members"] = {}

    def _of_kind(self, *kinds: str) -> Iterator[tuple[str, Any]]:
        """Name and value of the members of these kinds; those that are None are left out."""
        own = self.__dict__
        for name, kind in self._members.items():
            if kind in kinds and own[name] is not None:
                yield name, own[name]

    def _read_only(self, *kinds: str) -> Mapping[str, Any]:
        own = self.__dict__
        return MappingProxyType({n: own[n] for n, kind in self._members.items() if kind in kinds})

    @property
    def _parameters(self) -> Mapping[str, Parameter | None]:
        return self._read_only(PARAMETER)

    @property
    def _buffers(self) -> Mapping[str, Tensor | None]:
        return self._read_only(BUFFER, SCRATCH)

    @property
    def _modules(self) -> Mapping[str, Members | None]:
        return self._read_only(MODULE)

    def __setattr__(self, name: str, value: Any) -> None:
        members = self.__dict__.get("_members")
        if isinstance(value, Parameter):
            if members is None:
                raise AttributeError("cannot assign parameters before Module.__init__() call")
            self._set_member(name, value, PARAMETER)
        elif isinstance(value, Members):
            if members is None:
                raise AttributeError("cannot assign module before Module.__init__() call")
            self._set_member(name, value, MODULE)
        elif members is None or name not in members:
            object.__setattr__(self, name, value)
        else:
            self._set_member(name, value, members[name])

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._members.pop(name, None)

    def _set_member(self, name: str, value: Any, kind: str) -> None:
        wanted = {PARAMETER: Parameter, MODULE: Members}.get(kind, Tensor)
        if value is not None and not isinstance(value, wanted):
            title = "Module" if wanted is Members else wanted.__name__
            raise TypeError(
                f"cannot assign '{type(value).__name__}' as {kind} '{name}' "
                f"({title} or None expected)"
            )
        if kind == PARAMETER and value is not None and value.grad_fn is not None:
            raise ValueError(
                f"cannot assign a non-leaf Tensor to parameter '{name}': compute it in forward() "
                "from parameters that are leaves"
            )
        if self._members.get(name, kind) != kind:
            del self._members[name]
        self._members[name] = kind
        self.__dict__[name] = value

    def _register(self, name: str, value: Any, kind: str) -> None:
        if "_members" not in self.__dict__:
            raise AttributeError(f"cannot assign {kind} before Module.__init__() call")
        if not isinstance(name, str):
            raise TypeError(f"{kind} name should be a string. Got {type(name).__name__}")
        if name == "" or "." in name:
            raise KeyError(f'{kind} name can\'t be empty or contain ".", got "{name}"')
        if hasattr(self, name) and self._members.get(name) != kind:
            raise KeyError(f"attribute '{name}' already exists")
        self._set_member(name, value, kind)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter, reachable as ``self.name``; None keeps the name but takes no part."""
        self._register(name, param, PARAMETER)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a Tensor that is state but not trained; `state_dict` has it if it is persistent."""
        self._register(name, tensor, BUFFER if persistent else SCRATCH)

    def add_module(self, name: str, module: Members | None) -> None:
        """Add a child module, reachable as ``self.name``."""
        self._register(name, module, MODULE)
