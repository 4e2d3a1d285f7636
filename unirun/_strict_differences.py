"""Where two objects that were equal, since both came from one pickle, have become different."""

from __future__ import annotations

import functools
import itertools

from unirun import _round_trip
from unirun._errors import SerializationError
from unirun._payload import pickles_its_dict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["difference"]

MOST_PARTS = 1000
"""So many parts of an object are compared one by one, and so deep:"""
DEEPEST = 5

_MISSING = object()


def difference(before: Any, now: Any, again: Any) -> str | None:
    """The path from the object to the first part that differs, "" if it does as a whole.

    Items are "[...]" in it, so that a warning about one line has one text.

    None if nothing differs, or it cannot be told: `again` is equal to `before`, and if their
    pickles differ, those say nothing.
    """
    try:
        form = _form(before)
        if form == _form(now) or form != _form(again):
            return None
        return _path(before, now, DEEPEST)
    except SerializationError:
        return None


def _form(obj: Any) -> bytes:
    """Equal for equal objects: twice through pickle, as the first load interns some strings."""
    return _round_trip.dump(_round_trip.load(*_round_trip.dump(obj, "it")), "it")[0]


def _path(before: Any, now: Any, depth: int) -> str | None:
    if type(before) is not type(now):
        return ""
    if _form(before) == _form(now):
        return None
    parts = _parts(before, now)
    if parts is None or not depth:
        return ""
    for at, (step, one, other) in enumerate(parts):
        if at >= MOST_PARTS:
            return ""
        if one is _MISSING or other is _MISSING:
            return step
        deeper = _path(one, other, depth - 1)
        if deeper is not None:
            return step + deeper
    return None


def _parts(before: Any, now: Any) -> Iterator[tuple[str, Any, Any]] | None:
    """What both consist of, side by side; None if that is unknown."""
    if isinstance(before, dict):
        return _entries(before, now, "[...]")
    if isinstance(before, (list, tuple)):
        pairs = itertools.zip_longest(before, now, fillvalue=_MISSING)
        return (("[...]", one, other) for one, other in pairs)
    if pickles_its_dict(type(before)) and hasattr(before, "__dict__"):
        return _entries(_attributes(before), _attributes(now), ".{}")
    return None


def _attributes(obj: Any) -> dict[str, Any]:
    """Without what a cached_property has left there: that changes nothing."""
    found = vars(obj)
    return {name: found[name] for name in found if not _is_computed_once(type(obj), name)}


def _is_computed_once(cls: type, name: str) -> bool:
    return isinstance(getattr(cls, name, None), functools.cached_property)


def _entries(before: Any, now: Any, step: str) -> Iterator[tuple[str, Any, Any]]:
    """`step` may show a key that is a name."""
    for key in {**before, **now}:
        yield step.format(key), before.get(key, _MISSING), now.get(key, _MISSING)
