"""`Executor.scope`: where scopes come from; what they are is in `_scope`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._plan import Given
    from unirun._scope import Scope

__all__ = ["Scopes"]


class Scopes:
    """The part of an executor that makes scopes."""

    def scope(
        self, timeout: float | None = None, on_error: str = "cancel", name: str | None = None
    ) -> Scope:
        """A block that is left once all calls that were submitted in it have ended.

            with executor.scope(timeout=30) as scope:
                pages = [scope.submit(fetch, url) for url in urls]

        `scope.submit` and `scope.map` are those of the executor; `unirun.submit` and tasks use the
        scope, too, inside the block. `async with` does not block the event loop. See
        docs/scopes.md.

        Args:
            timeout: seconds for the block and its calls; then they are killed (processes,
                coroutines) or abandoned (threads).
            on_error: "cancel" the other calls when one fails, or "collect" the failures of all.
            name: for messages.

        Raises, when the block is left:
            ExceptionGroup: of everything that failed, in the order it did.
            ScopeTimeout: a TimeoutError; what was there in time is in `scope.results`.
        """
        owner: Any = self
        return self._scope_with(owner._given, timeout, on_error, name)

    def _scope_with(
        self, given: Given, timeout: float | None, on_error: str, name: str | None
    ) -> Scope:
        """One whose calls have these options."""
        from unirun._scope import Scope  # few programs have one

        owner: Any = self
        return Scope(owner, given, timeout, on_error, name)
