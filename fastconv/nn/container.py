"""Containers: Sequential runs its modules one after the other, ModuleList only keeps them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from operator import index
from typing import Any

from fastconv.nn.module import Module


class _Numbered(Module):
    """What both containers share: they are lists of modules named "0", "1", ..."""

    def _name(self, position: int) -> str:
        names = list(self._modules)
        at = index(position)
        if not -len(names) <= at < len(names):
            raise IndexError(f"index {position} is out of range for {len(names)} modules")
        return names[at]

    def _renumber(self, modules: Iterable[Module]) -> None:
        for name in list(self._modules):
            delattr(self, name)
        for position, module in enumerate(modules):
            self.add_module(str(position), module)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __setitem__(self, position: int, module: Module) -> None:
        setattr(self, self._name(position), module)

    def __delitem__(self, position: int | slice) -> None:
        modules = list(self)
        del modules[position]
        self._renumber(modules)

    def append(self, module: Module) -> _Numbered:
        """Add a module at the end; returns the container."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        # A slice of a Sequential keeps its names, so that the next number may be taken.
        number = next(n for n in itertools.count(len(self)) if str(n) not in self._modules)
        self.add_module(str(number), module)
        return self

    def extend(self, modules: Iterable[Module]) -> _Numbered:
        """Append each of `modules`; returns the container."""
        for module in list(modules):
            self.append(module)
        return self


class Sequential(_Numbered):
    """Calls its modules in turn, each with the output of the one before.

    Takes the modules, or one dict of names to modules. A slice is a Sequential of the same modules
    under the same names.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]):
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.add_module(name, module)
        else:
            self.extend(modules)

    def __getitem__(self, position: int | slice) -> Module:
        if isinstance(position, slice):
            return type(self)(dict(list(self._modules.items())[position]))
        return getattr(self, self._name(position))

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input


class ModuleList(_Numbered):
    """A list of modules whose parameters count as the owner's; it has no forward of its own."""

    def __init__(self, modules: Iterable[Module] = ()):
        super().__init__()
        self.extend(modules)

    def __getitem__(self, position: int | slice) -> Module:
        if isinstance(position, slice):
            return type(self)(list(self)[position])
        return getattr(self, self._name(position))

    def insert(self, position: int, module: Module) -> None:
        """Put a module before the one at `position`; those behind it move on."""
        modules = list(self)
        modules.insert(index(position), module)
        self._renumber(modules)

    def __repr__(self) -> str:
        """Equal neighbours share a line: ``(0-2): 3 x Linear(...)``."""
        lines = []
        start = 0
        for text, same in itertools.groupby(map(repr, self)):
            count = len(list(same))
            numbers = f"({start}): " if count == 1 else f"({start}-{start + count - 1}): {count} x "
            lines.append((numbers + text).replace("\n", "\n  "))
            start += count
        name = type(self).__name__
        return f"{name}(\n  " + "\n  ".join(lines) + "\n)" if lines else f"{name}()"
