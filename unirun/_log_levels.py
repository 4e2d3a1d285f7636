"""What the program wants to hear of its workers: levels of loggers, filters of warnings.

Asked at each message to a worker, so the usual answer, "nothing has changed", is cheap, and a
program that never imported logging pays a look into `sys.modules`.  Loggers keep in a dictionary
what they are enabled for, and all of `logging` empties these whenever a level changes: an entry of
ours in that of the root logger is there as long as nothing has.
"""

from __future__ import annotations

import itertools
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["changed", "snapshot", "told_filter", "version"]

_MARK = "unirun"  # their own keys are numbers
_UNUSED: dict[Any, Any] = {_MARK: True}

_versions = itertools.count(1)
version = 0
"""Of the snapshot; changes with it."""
snapshot: tuple[Any, ...] = (None, None)
"""Of plain values: (level of `logging.disable`, level by logger) or None, and the filters of
warnings or None. Not which loggers are `disabled`, as nobody can notice that cheaply: their records
are sent, and dropped here."""

_cache = _UNUSED  # that of the root logger, once there is one
_filters: list[Any] | None = None
_length = 0
_first: object = None


def changed() -> bool:
    """Whether there is, or may be, a new version; then the snapshot has been renewed."""
    modules = sys.modules
    if _MARK in _cache and (_cache is not _UNUSED or "logging" not in modules):
        warnings = modules.get("warnings")
        if warnings is None:
            return False
        known: Any = _filters
        if (
            known is getattr(warnings, "filters", known)
            and len(known) == _length
            and (not _length or known[0] is _first)
        ):
            return False
    return _renew()


def _renew() -> bool:
    global version, snapshot
    fresh = (_levels(), _told_filters())
    if fresh == snapshot:
        return False
    snapshot = fresh
    version = next(_versions)  # one of its own, also if two threads do this at once
    return True


def _levels() -> tuple[Any, ...] | None:
    global _cache
    logging = sys.modules.get("logging")
    root = getattr(logging, "root", None)
    manager = getattr(root, "manager", None)
    if root is None or manager is None:
        return None  # another thread is importing it
    cache = getattr(root, "_cache", None)
    if isinstance(cache, dict):
        _cache = cache
        cache[_MARK] = True  # before the look: what changes meanwhile is seen at the next
    levels: dict[str, int] = {"": int(root.level)}
    for name, logger in list(manager.loggerDict.items()):
        if getattr(logger, "level", 0):
            levels[name] = int(logger.level)
    return int(manager.disable), levels


def _told_filters() -> tuple[Any, ...] | None:
    global _filters, _length, _first
    warnings = sys.modules.get("warnings")
    filters = getattr(warnings, "filters", None)
    if not isinstance(filters, list):
        return None
    entries = list(filters)
    _filters, _length = filters, len(entries)
    _first = entries[0] if entries else None
    return tuple(told for entry in entries if (told := told_filter(entry)) is not None)


def told_filter(entry: Any) -> tuple[Any, ...] | None:
    """A filter in plain values; None if it is of no kind we know."""
    try:
        action, message, category, module, line = entry
        name = f"{category.__module__}:{category.__qualname__}"
        return str(action), _told_pattern(message), name, _told_pattern(module), int(line)
    except (TypeError, ValueError, AttributeError):
        return None


def _told_pattern(pattern: Any) -> Any:
    if pattern is None or isinstance(pattern, str):
        return pattern
    return str(pattern.pattern), int(pattern.flags)
