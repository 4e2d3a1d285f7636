"""In a worker whose tasks log: records go to the program's loggers of the same names.

A record goes there unless some handler here takes it: one that the task, or an initializer, has
installed.  `NullHandler`s of libraries are none.  Handlers that a worker has inherited which was
forked from the program are dropped, unused: they write where those of the program do.
"""

from __future__ import annotations

import logging

from unirun import _context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["begin"]

_PLAIN = frozenset({int, float, complex, bool, type(None), str, bytes})
_ELSEWHERE = frozenset({"exc_info", "exc_text"})

_applied: dict[str, int] = {"": logging.root.level}  # levels that loggers have because of us
_call_handlers = logging.Logger.callHandlers


def begin(forked: bool) -> Callable[[tuple[Any, ...] | None], None]:
    """Relay records from now on; returns what sets the levels of loggers."""
    if forked:
        _drop_inherited_handlers()
    loggers: Any = logging.Logger
    loggers.callHandlers = _relay
    return follow


def _drop_inherited_handlers() -> None:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        if isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers = []
    module: Any = logging
    module._handlerList.clear()  # nor flushed at the end: their buffers are the program's


def follow(snapshot: tuple[Any, ...] | None) -> None:
    """Take over the levels of the program's loggers; those that a task has set itself stay."""
    if snapshot is None:
        return
    disable, levels = snapshot
    logging.disable(disable)
    for name in [*_applied]:
        if name not in levels:
            _set_level(name, logging.NOTSET)
            del _applied[name]
    for name, level in levels.items():
        _set_level(name, level)


def _set_level(name: str, level: int) -> None:
    logger = logging.getLogger(name or None)
    if logger.level == level:
        _applied[name] = level
    elif logger.level == _applied.get(name, logging.NOTSET):
        _applied[name] = level
        logger.setLevel(level)


def _relay(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Takes the place of `Logger.callHandlers`."""
    tell = _context.tell
    if tell is None or _is_handled_here(logger):
        _call_handlers(logger, record)
    else:
        tell("log", 0, _told(record))


def _is_handled_here(logger: logging.Logger | None) -> bool:
    while logger is not None:
        for handler in logger.handlers:
            if type(handler) is not logging.NullHandler:
                return True
        logger = logger.parent if logger.propagate else None
    return False


def _told(record: logging.LogRecord) -> tuple[dict[str, Any], bytes | None, bytes | None]:
    """Plain values; the pickle of what is none, if any; the exception."""
    plain: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in record.__dict__.items():
        if key not in _ELSEWHERE:
            (plain if _is_plain(value) else rest)[key] = value
    data = _pickled(record, plain, rest) if rest else None
    return plain, data, _told_exception(record, plain)


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return kind in _PLAIN or (kind is tuple and all(type(each) in _PLAIN for each in value))


def _pickled(
    record: logging.LogRecord, plain: dict[str, Any], rest: dict[str, Any]
) -> bytes | None:
    """What cannot be pickled travels as text, in `plain`."""
    from pickle import dumps

    if "msg" in rest or "args" in rest:
        plain["unirun_text"] = _text(record)  # for a program that cannot unpickle them
    try:
        return dumps(rest, 5)
    except Exception:  # noqa: BLE001  # user code
        kept = {}
    for key, value in rest.items():
        try:
            dumps(value, 5)
            kept[key] = value
        except Exception:  # noqa: BLE001  # likewise
            plain[key] = _shown(value)
    if {"args", "msg"} & (rest.keys() - kept.keys()):
        plain["msg"], plain["args"] = plain["unirun_text"], None
        kept.pop("msg", None)
        kept.pop("args", None)
    return dumps(kept, 5) if kept else None


def _text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  # the task's arguments do not fit its message
        return f"{_shown(record.msg)} {_shown(record.args)}"


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  # user code
        return f"<{type(value).__name__}>"


def _told_exception(record: logging.LogRecord, plain: dict[str, Any]) -> bytes | None:
    info: Any = record.exc_info
    if not info or not isinstance(info, tuple) or info[1] is None:
        plain["exc_text"] = record.exc_text
        return None
    plain["exc_text"] = record.exc_text or logging.Formatter().formatException(info)
    from unirun._remote import encode

    try:
        return encode(info[1], 0)
    except Exception:  # noqa: BLE001  # user code; its text is there
        return None
