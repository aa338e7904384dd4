"""Module: a tree of layers that owns parameters. The semantics are those of ``torch.nn.Module``."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fastconv.autograd import Tensor
from fastconv.nn.members import BUFFER, MODULE, PARAMETER, SCRATCH, Members
from fastconv.nn.parameter import Parameter, clear_gradients
from fastconv.nn.state import IncompatibleKeys, copy_state, wanted_dtype
from fastconv.ops.convert import cuda

_handle_ids = itertools.count()


class RemovableHandle:
    """What `register_forward_hook` returns: `remove()` takes the hook off again."""

    def __init__(self, hooks: dict[int, Callable], hook: Callable):
        self._hooks = hooks
        self.id = next(_handle_ids)
        hooks[self.id] = hook

    def remove(self) -> None:
        self._hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class Module(Members):
    """Base class of every network and layer: define `forward`, then call the module."""

    training: bool

    def __init__(self) -> None:
        super().__init__()
        own = self.__dict__
        own["_forward_pre_hooks"] = {}
        own["_forward_hooks"] = {}
        own["training"] = True

    # Calling

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        name = type(self).__name__
        raise NotImplementedError(f'Module [{name}] is missing the required "forward" function')

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._forward_hooks or self._forward_pre_hooks:
                return self._call_with_hooks(args, kwargs)
            return self.forward(*args, **kwargs)
        except (TypeError, ValueError) as error:
            # Only a leaf signs its errors: one name is enough to find the place.
            if not self._modules and len(error.args) == 1:
                error.args = (f"{self!r}: {error.args[0]}",)
            raise

    def _call_with_hooks(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        for hook in list(self._forward_pre_hooks.values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        result = self.forward(*args, **kwargs)
        for hook in list(self._forward_hooks.values()):
            changed = hook(self, args, result)
            if changed is not None:
                result = changed
        return result

    def register_forward_pre_hook(self, hook: Callable) -> RemovableHandle:
        """Call ``hook(module, args)`` before a forward; its result replaces the arguments."""
        return RemovableHandle(self._forward_pre_hooks, hook)

    def register_forward_hook(self, hook: Callable) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after a forward; its result replaces the output."""
        return RemovableHandle(self._forward_hooks, hook)

    # The tree

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = ""
    ) -> Iterator[tuple[str, Module]]:
        """Itself and all modules below, depth first, each once, with dotted names."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        memo.add(self)
        yield prefix, self
        for name, module in self._of_kind(MODULE):
            yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct children, each once."""
        seen = set()
        for name, module in self._of_kind(MODULE):
            if module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    def _named_tensors(self, kinds: tuple[str, ...], prefix: str, recurse: bool) -> Iterator:
        seen = set()
        modules = self.named_modules(prefix=prefix) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, tensor in module._of_kind(*kinds):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f"{path}.{name}" if path else name, tensor

    def named_parameters(
        self, prefix: str = "", recurse: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Each parameter once, with its dotted name, in the order of creation."""
        return self._named_tensors((PARAMETER,), prefix, recurse)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        return (tensor for _, tensor in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        return self._named_tensors((BUFFER, SCRATCH), prefix, recurse)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        return (tensor for _, tensor in self.named_buffers(recurse=recurse))

    # Whole-tree operations; those that change the module return it

    def apply(self, fn: Callable[[Module], object]) -> Module:
        """Call `fn` on every module below, then on this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Module:
        """Set ``training`` here and below."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Fill the gradients that exist with zeros; ``set_to_none=True`` forgets them instead."""
        clear_gradients(self.parameters(), set_to_none)

    def cpu(self) -> Module:
        """The Module itself: there is no other device."""
        return self

    def cuda(self, *args: Any, **kwargs: Any) -> Module:
        """Raises RuntimeError: there is no GPU."""
        return cuda(self)

    def to(self, *args: Any, **kwargs: Any) -> Module:
        """Convert floating parameters, buffers and gradients; ``to("cpu")`` changes nothing.

        Accepts a dtype, a device or a Tensor whose dtype is wanted. Raises ValueError for another
        device, TypeError for a dtype that is not floating.
        """
        dtype = wanted_dtype(*args, **kwargs)
        if dtype is not None:
            for tensor in itertools.chain(self.parameters(), self.buffers()):
                if tensor.dtype.kind == "f":
                    tensor.data = tensor.data.to(dtype)
                    if tensor.grad is not None:
                        tensor.grad = tensor.grad.to(dtype)
        return self

    def float(self) -> Module:
        return self.to(np.dtype("float32"))

    def double(self) -> Module:
        return self.to(np.dtype("float64"))

    # State

    def _named_state(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for kind in (PARAMETER, BUFFER):
            for name, tensor in self._of_kind(kind):
                yield prefix + name, tensor
        for name, module in self._of_kind(MODULE):
            yield from module._named_state(f"{prefix}{name}.")

    def state_dict(self, *, prefix: str = "", keep_vars: bool = False) -> OrderedDict[str, Tensor]:
        """Dotted names to Tensors that share the module's memory and have no history.

        keep_vars: give the parameters and buffers themselves.
        """
        named = self._named_state(prefix)
        return OrderedDict((name, t if keep_vars else t.detach()) for name, t in named)

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor | np.ndarray], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy Tensors or arrays into parameters and buffers of the same dotted names, in place.

        ``strict=False`` lets names be missing or left over. Raises TypeError when `state_dict` is
        no mapping, and RuntimeError that lists every missing or unexpected name and every entry of
        a wrong shape or dtype; then nothing has been changed.
        """
        return copy_state(type(self).__name__, dict(self._named_state()), state_dict, strict)

    # Printing

    def extra_repr(self) -> str:
        """The text between the brackets of ``print(layer)``."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [
            f"({name}): {module!r}".replace("\n", "\n  ") for name, module in self._modules.items()
        ]
        name = type(self).__name__
        if len(lines) <= 1 and not children:
            return f"{name}({extra})"
        return f"{name}(\n  " + "\n  ".join(lines + children) + "\n)"
