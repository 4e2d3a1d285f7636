"""What an inline call was meant for: where it would run if nobody had asked for inline."""

from __future__ import annotations

from unirun import _hints
from unirun._records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["is_copied"]

HERE = "inline"


def is_copied(
    fn: Any, given: Mapping[str, Any], settings: Mapping[str, Any], facts: _hints.Facts
) -> bool | None:
    """Whether such calls would get copies there, as on processes; None if nobody has said.

    `given` are the options of the call, `facts` those by which it came to be inline.
    """
    backend = _meant_for(fn, given, settings, facts)
    if backend is None:
        return None
    return "sharedmem" not in _hints.OFFERS.get(backend, frozenset())


def _meant_for(
    fn: Any, given: Mapping[str, Any], settings: Mapping[str, Any], facts: _hints.Facts
) -> str | None:
    decorator = getattr(fn, "__unirun_options__", {})
    for named in (given.get("backend"), decorator.get("backend"), facts.fixed):
        if named not in (None, HERE):
            return str(named)
    kind = str(settings["kind"])
    if facts.fixed == HERE and kind == "auto" and not facts.is_coroutine_function:
        return None  # an executor made for it, and nothing else is known
    routes = dict(settings["routes"])
    if routes[kind] == HERE:
        routes[kind] = _hints.DEFAULT_ROUTES[kind]
    free = replace(facts, forced=None, fixed=None)
    return _hints.choose(_hints.Hint(kind), routes, free).backend
