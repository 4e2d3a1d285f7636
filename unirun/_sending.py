"""How the items of a map become calls: wherever the map is read, as if where it was made.

They get the context variables and the `with config()` blocks of the place where the map was made,
and seeds by their numbers.  Which call they are part of is the reader's: that may wait for them.
"""

from __future__ import annotations

from contextvars import copy_context

from unirun import _context, _sites
from unirun._chunk import run_chunk
from unirun._numbered import Numbered
from unirun._seeds import derive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from unirun._auto import Course
    from unirun._executor import Executor
    from unirun._future import Future
    from unirun._plan import Given, Plan

__all__ = ["Sending"]


class Sending:
    """Submits the items of one map."""

    def __init__(
        self,
        executor: Executor,
        fn: Any,
        given: Given,
        plan: Plan,
        course: Course | None = None,
    ) -> None:
        submit: Callable[..., Future[Any]] = executor._submit
        self._submit = _sites.from_here(submit) if plan.options.sites else submit
        self._fn = fn
        self._given = given
        self._course = course
        self._seed = executor._seeds.next(plan)
        self._libraries = plan.options.seed_libraries
        self._context = copy_context()
        self._then = tuple(self._context.items())

    def seed_of(self, item: int) -> int | None:
        """By its number in the inputs."""
        return None if self._seed is None else derive(self._seed, item)

    def __call__(self, fn: Any, *args: Any, on_part: Any = None, first: int = 0) -> Future[Any]:
        if (seed := self._seed) is not None and fn is run_chunk:
            args = (Numbered(args[0], seed, first, self._libraries), *args[1:])
        elif seed is not None:
            seed = self.seed_of(first)
        call: Any = (fn, args, {}, self._given, on_part, self._fn, self._course, seed)
        now = copy_context()
        if len(now) == len(self._then):
            for variable, value in self._then:
                if now.get(variable, self) is not value:
                    break
            else:
                return self._submit(*call)
        there = self._context.copy()
        there.run(_context.running.set, now.get(_context.running))
        there.run(_context.inside.set, now.get(_context.inside, ()))
        return there.run(self._submit, *call)
