"""Who is told when a call is cancelled: the calls that it has submitted, where these run elsewhere.

What runs in the same process looks at the calls above it instead (`TaskContext.cancelled`), unless
it sleeps, or has heirs of its own: then its token is an heir, too.

Light by rule: worker processes that submit to others import it.
"""

from __future__ import annotations

from _thread import RLock
from _weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Heir", "Heirs"]

_FEW = 16


class Heir:
    """A call that another one has submitted; calling it asks that call to stop."""

    __slots__ = ("_future",)

    def __init__(self, future: Any) -> None:
        self._future = ref(future)  # the call above may last, and must not keep all the results

    def __call__(self) -> None:
        future = self._future()
        if future is not None and not future.done():
            backend = future._backend
            getattr(backend, "discourage", backend.request_stop)(future)

    @property
    def is_over(self) -> bool:
        future = self._future()
        return future is None or bool(future.done())


class Heirs:
    """Those of one call."""

    __slots__ = ("_all", "_limit", "_lock")

    def __init__(self) -> None:
        # Guards both. Reentrant, since a __del__ run by a garbage collection may submit.
        self._lock = RLock()
        self._all: list[Any] = []
        self._limit = _FEW

    def add(self, heir: Any) -> None:
        """A token, or something to be called; those that are over are forgotten now and then."""
        with self._lock:
            self._all.append(heir)
        if len(self._all) > self._limit:
            living = self.living()
            self._limit = _FEW + 2 * len(living)

    def living(self) -> list[Any]:
        """Those that are not over."""
        with self._lock:
            self._all = [each for each in self._all if not getattr(each, "is_over", False)]
            return list(self._all)
