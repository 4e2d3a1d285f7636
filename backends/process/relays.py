"""In a worker: what it prints, warns of and logs goes to the program's own streams and handlers.

1. The streams stay what they were, the same objects on the same descriptors: only their `write` is
   replaced, so whoever holds one prints into the program's.  What C code and child processes write
   to the descriptor goes there directly, as does what a forked child prints.
2. Whole lines are told at once, text and bytes alike; what is left of one, when it is flushed or
   the call ends.
3. `warnings` and `logging` ask their filters and levels here, which follow the program's (see
   `unirun._log_levels`).  A task that configures handlers, or shows warnings itself, is respected:
   these are used, and nothing is sent.
4. logging is not imported here; once somebody does, we are there (`records`).
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import deque

from unirun import _context
from unirun._log_levels import told_filter

from . import remains, upward  # noqa: F401  # by which all of this is told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["begin", "follow", "levels"]

PIECE, LONGEST = 1 << 15, 1 << 20
"""Characters or bytes that are told at once; and of a line, which is cut only if it is longer."""

levels: tuple[Any, ...] | None = None
"""What loggers here are to be like; see `_log_levels.snapshot`."""
_apply_levels: Callable[[tuple[Any, ...] | None], None] | None = None  # once logging is imported
_followed: dict[tuple[Any, ...], Any] = {}  # filters that are here because of the program's


def begin(output: bool, logs: bool, forked: bool) -> None:
    """Once, before any code of the user runs; `forked`: from the program, with what it has."""
    if output:
        relay_of(1, sys.stdout, None)
        relay_of(2, sys.stderr, remains.note)
    if logs:
        _relay_warnings()
        if "logging" in sys.modules:
            begin_logs(forked)
        else:
            sys.meta_path.insert(0, Lookout())


def follow(snapshot: tuple[Any, ...]) -> None:
    """The program's levels and filters are like this now."""
    global levels
    levels, filters = snapshot
    if _apply_levels is not None:
        _apply_levels(levels)
    if filters is not None:
        _follow_filters(filters)


# -- what is printed ------------------------------------------------------------------------------


class Relay:
    """Of one stream; its writes may come from any thread, and from signal handlers."""

    def __init__(self, which: int, stream: Any, note: Callable[[object], None] | None) -> None:
        self._which = which
        self._note = note  # of what is written, for a crash
        self._write, self._flush = stream.write, stream.flush
        self._parts: deque[Any] = deque()  # of a line that is not whole yet: str or bytes
        self._size = 0  # of these, about
        self._index = 0  # of the call that has begun it

    def write(self, text: str, /) -> Any:
        if _context.tell is None or not isinstance(text, str):
            return self._write(text)
        if self._note is not None:
            self._note(text)
        self._take(text)
        return len(text)

    def flush(self) -> None:
        self.flush_line()
        if _context.tell is None:  # else nothing was written there
            self._flush()

    def flush_line(self) -> None:
        if self._parts:
            self._tell(self._all())

    def write_bytes(self, data: Any, /) -> Any:
        whole = bytes(data)
        self._take(whole)
        return len(whole)

    def _take(self, part: Any) -> None:
        if not self._parts:
            self._index = _index()
        self._parts.append(part)
        self._size += len(part)
        if _newline_of(part) in part:
            self._tell(self._lines())
        elif self._size > LONGEST:
            self._tell(self._all())

    def _all(self) -> Any:
        """What is left of a line; bytes, if some of it came as bytes."""
        parts, taken = self._parts, []
        while parts:
            try:
                taken.append(parts.popleft())
            except IndexError:
                break  # another thread has taken the last
        self._size = 0
        try:
            return "".join(taken)
        except TypeError:
            return b"".join([each if isinstance(each, bytes) else _encoded(each) for each in taken])

    def _lines(self) -> Any:
        text = self._all()
        end = text.rfind(_newline_of(text)) + 1
        if end < len(text):
            self._parts.appendleft(text[end:])
            self._size = len(text) - end
        return text[:end]

    def _tell(self, text: Any) -> None:
        start = 0
        while start < len(text):
            stop = _piece_end(text, start)
            self._say(text[start:stop])
            start = stop

    def _say(self, piece: str | bytes) -> None:
        if (tell := _context.tell) is not None:
            tell("output", self._index, (self._which, piece))

    def forget(self) -> None:
        """In a forked child: what is not told yet will be told by its parent."""
        self._parts.clear()


def _newline_of(text: Any) -> Any:
    return "\n" if isinstance(text, str) else b"\n"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _piece_end(text: Any, start: int) -> int:
    """Where what is told at once ends: with a line, if there is one that is not too long."""
    if len(text) - start <= PIECE:
        return len(text)
    newline = _newline_of(text)
    end = text.rfind(newline, start, start + PIECE) + 1 or text.find(newline, start) + 1
    return min(end or len(text), start + LONGEST)


def relay_of(which: int, stream: Any, note: Callable[[object], None] | None) -> None:
    """Rule 1; where the stream allows it."""
    try:
        relay = Relay(which, stream, note)
        stream.write, stream.flush = relay.write, relay.flush
    except AttributeError:
        return  # there is none, or one that somebody made who allows no such thing
    os.register_at_fork(after_in_child=relay.forget)
    buffer = getattr(stream, "buffer", None)
    write = getattr(buffer, "write", None)
    if buffer is None or write is None:
        return

    def write_bytes(data: Any, /) -> Any:
        return write(data) if _context.tell is None else relay.write_bytes(data)

    flush = buffer.flush

    def flush_bytes() -> None:
        flush() if _context.tell is None else relay.flush_line()

    try:
        buffer.write, buffer.flush = write_bytes, flush_bytes
    except AttributeError:
        return


def _index() -> int:
    """Of the call this code runs in; for threads that it has made, of the one that runs."""
    own = getattr(_context.running.get(), "_index", 0)
    return int(own or getattr(_context.home, "running", 0))


# -- warnings -------------------------------------------------------------------------------------


def _relay_warnings() -> None:
    module: Any = warnings
    show = module._showwarnmsg_impl

    def relay(message: Any) -> None:
        if (tell := _context.tell) is None:
            show(message)
        else:
            tell("warning", _index(), _told_warning(message))

    module._showwarnmsg_impl = relay


def _told_warning(message: Any) -> tuple[Any, ...]:
    category, text = message.category, str(message.message)
    data = None
    try:
        from pickle import dumps

        data = dumps(message.message, 5)
    except Exception:  # noqa: BLE001  # user code; then it is told as text
        data = None
    name = f"{category.__module__}:{category.__qualname__}"
    line = message.line if isinstance(message.line, str) else None
    return name, text, str(message.filename), int(message.lineno), line, data


def _follow_filters(filters: tuple[Any, ...]) -> None:
    """Those of the program, and before them what tasks have added here."""
    current = warnings.filters
    told = {id(entry): told_filter(entry) for entry in current}
    # A forked worker has inherited them, with classes that those which come by value are not.
    by_value = any(each[2].startswith("__main__:") for each in filters)
    if not by_value and tuple(told[id(entry)] for entry in current) == filters:
        _followed.update(dict.fromkeys(filters, True))
        return
    own = [entry for entry in current if _followed and told[id(entry)] not in _followed]
    _followed.clear()
    made = []
    for each in filters:
        _followed[each] = True
        made.append(_made_filter(each))
    current[:] = [*own, *made]  # type: ignore[index]
    mutated: Any = warnings
    mutated._filters_mutated()


def _made_filter(told: tuple[Any, ...]) -> Any:
    action, message, name, module, line = told
    where, _, path = name.partition(":")
    found: Any = sys.modules.get(where)
    for part in path.split("."):
        found = getattr(found, part, None)
    if where == "__main__" or not isinstance(found, type):
        found = _Named(path.rpartition(".")[2], (Warning,), {"__module__": where})
        found.__qualname__ = path
    return action, _made_pattern(message), found, _made_pattern(module), line


class _Named(type):
    """Of a category in a filter that nobody here has imported yet, or that comes by value."""

    def __subclasscheck__(cls, category: type) -> bool:
        known = cls.__module__, cls.__qualname__
        return any((each.__module__, each.__qualname__) == known for each in category.__mro__)


def _made_pattern(told: Any) -> Any:
    if told is None or isinstance(told, str):
        return told
    import re

    return re.compile(*told)


# -- logging --------------------------------------------------------------------------------------


class Lookout:
    """Sees logging being imported; stands first in `sys.meta_path` until then."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        import importlib.machinery

        spec: Any = importlib.machinery.PathFinder.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader)
        return spec


class Loader:
    """Loads it as ever, and then has its records relayed."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        begin_logs()


def begin_logs(forked: bool = False) -> None:
    global _apply_levels
    from .records import begin as begin_records

    _apply_levels = begin_records(forked)
    _apply_levels(levels)
