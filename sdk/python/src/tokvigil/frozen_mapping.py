"""A mapping that never changes, so that the value that holds it can be compared, hashed, copied and pickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

V = TypeVar("V")


class FrozenMapping(Mapping[str, V]):
    __slots__ = ("_said",)
    _said: dict[str, V]

    def __init__(self, said: Mapping[str, V] | None = None) -> None:
        object.__setattr__(self, "_said", dict(said or {}))

    def __getitem__(self, name: str) -> V:
        return self._said[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._said)

    def __len__(self) -> int:
        return len(self._said)

    def __hash__(self) -> int:
        return hash(frozenset(self._said.items()))

    def __repr__(self) -> str:
        return repr(self._said)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._said,)
