"""What workers log and warn of, on the program's side: handled as if it had happened here.

Light enough for whoever hears of it first; runs in the one thread of `_news`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pickle import loads

from unirun._remote import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._news import Origin

__all__ = ["log_heard", "warning_heard"]


def log_heard(origin: Origin, told: Any) -> None:
    """A record that a worker's logger has let through: to its namesake."""
    fields, data, exception = told
    logger = logging.getLogger(fields["name"])
    if not logger.isEnabledFor(fields["levelno"]):
        return  # the level has changed meanwhile
    text = fields.pop("unirun_text", None)
    if data is not None:
        try:
            fields.update(loads(data))
        except Exception:  # noqa: BLE001  # user code; the text of the message is there
            if text is not None:
                fields["msg"], fields["args"] = text, None
    fields["exc_info"] = None if exception is None else _info(exception)
    fields["unirun_task"], fields["unirun_worker"] = origin.task, origin.worker
    logger.handle(logging.makeLogRecord(fields))


def _info(data: bytes) -> tuple[Any, ...] | None:
    try:
        exc = decode(data)
    except Exception:  # noqa: BLE001  # user code; the text is in exc_text
        return None
    return type(exc), exc, exc.__traceback__


def warning_heard(origin: Origin, told: Any) -> None:
    """A warning that was to be shown in a worker: filtered once more, and shown, here."""
    name, text, filename, lineno, line, data = told
    message = _message(name, text, data)
    category = type(message)
    module, registry = _registry(filename)
    if line is not None:
        warnings.showwarning(message, category, filename, lineno, line=line)
        return
    try:
        warnings.warn_explicit(message, category, filename, lineno, module, registry)
    except Warning:  # by a filter that was set after it was raised: nobody is there to catch it
        warnings.showwarning(message, category, filename, lineno)


def _message(name: str, text: str, data: bytes | None) -> Warning:
    if data is not None:
        try:
            message = loads(data)
        except Exception:  # noqa: BLE001  # user code; its text is there
            message = None
        if isinstance(message, Warning):
            return message
    where, _, path = name.partition(":")
    found: Any = sys.modules.get(where)
    for part in path.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, Warning):
        try:
            return found(text)
        except Exception:  # noqa: BLE001  # its __init__ wants something else
            return UserWarning(f"{path}: {text}")
    return UserWarning(f"{path}: {text}")


_registries: dict[str, dict[Any, Any]] = {}  # of files that no module here is from


def _registry(filename: str) -> tuple[str, dict[Any, Any]]:
    """What was shown of that file's module, so that it is shown once in the whole program."""
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == filename:
            registry: dict[Any, Any] = module.__dict__.setdefault("__warningregistry__", {})
            return module.__name__, registry
    name = filename.removesuffix(".py")
    return name, _registries.setdefault(filename, {})
