"""What runs each item of a map that has a seed: with that item's own, whatever the piece it is in.

Light by rule: worker processes import it, if such a map comes there.
"""

from __future__ import annotations

from unirun._context import current_task
from unirun._seeds import derive, seed_libraries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Numbered"]


class Numbered:
    """Calls a function for items that lie side by side; the first is number `at` of the inputs."""

    __slots__ = ("__wrapped__", "_at", "_libraries", "_seed")

    def __init__(self, fn: Callable[..., Any], seed: int, at: int, libraries: bool) -> None:
        self.__wrapped__ = fn
        self._seed = seed
        self._at = at
        self._libraries = libraries

    def __call__(self, *args: Any) -> Any:
        number, self._at = self._at, self._at + 1
        seed = derive(self._seed, number)
        if (task := current_task()) is not None:
            task.reseed(seed)
        if self._libraries:
            seed_libraries(seed)
        return self.__wrapped__(*args)

    def __getstate__(self) -> tuple[Any, ...]:
        return self.__wrapped__, self._seed, self._at, self._libraries

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__wrapped__, self._seed, self._at, self._libraries = state
