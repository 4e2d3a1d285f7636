"""The maps of one executor that have not come to their end; for its shutdown."""

from __future__ import annotations

import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun._map import Mapping, MapResult

__all__ = ["OpenMaps"]


class OpenMaps:
    """The maps of one executor that may have inputs left."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[Mapping] = weakref.WeakSet()
        self._unread: set[Mapping] = set()

    def add(self, result: MapResult) -> None:
        mapping = result._mapping
        self._all.add(mapping)
        if not mapping.exhausted:
            mapping.unread = self._unread
            self._unread.add(mapping)

    def are_read(self) -> bool:
        """Somebody iterates over one, and has not come to its end."""
        return any(mapping.iterated and not mapping.closed for mapping in list(self._all))

    def settle(self, until: float | None) -> bool:
        """Wait for what was sent and what comes of it; False if the moment passed first."""
        return all(mapping.settle(until) for mapping in list(self._all))

    def complete(self, *, endless: bool) -> None:
        """Rule 2, for all of them."""
        for mapping in list(self._all):
            mapping.drain(endless)
        self._unread.clear()
