"""What a call that runs inline would do differently where it belongs, told as warnings.

A call that is meant for processes gets copies, gives back a copy, and leaves no trace in the
memory of its caller.  Inline, a program that forgets this may seem to work, or go wrong without a
word.  So each such call is looked at before and after its body:

    code               what it means
    arg-pickle         the function or an argument cannot be pickled: the call could not be sent
    result-pickle      the result cannot be pickled: it could not come back
    arg-change         the task changes an argument that its caller still has
    result-identity    an object is taken for the same one, where there would be a copy
    global-write       the task writes to what its caller would not see
    inline-order       the task waits for what its caller would do meanwhile (see _strict_order)

Each finding is a `StrictWarning` at the line it is about, and the ordinary filters of `warnings`
decide what becomes of it: shown once for each line, an error, or nothing.
"""

from __future__ import annotations

import enum
import functools
import io
import itertools
import sys
import types
import warnings

from unirun import _chunk, _round_trip, _strict_held
from unirun._errors import SerializationError
from unirun._strict_differences import difference
from unirun._strict_writes import Watch
from unirun.backend import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, TypeAlias

    # A file, a line, and the globals of the code in it, which hold the registry of warnings.
    Place: TypeAlias = tuple[str, int, dict[str, Any]]

__all__ = ["LARGEST", "Check", "StrictWarning"]

LARGEST = 16 * 2**20
"""Bytes; larger arguments are not pickled a second time, to see whether the task changed them."""
MOST_ITEMS = 100
"""So many items of a result are looked at, for an argument among them."""

_ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, range, type, enum.Enum),
    *(types.FunctionType, types.BuiltinFunctionType, types.ModuleType),
)
_DEEPEST = 10  # so many wrappers around a function
_INSTEAD = "plain data, a path or an address to open it there, or a shared object of unirun"
_BARE = (
    "a bare object() as {}, which is another one on the other side; use None, a string or a "
    "member of an Enum where something is compared with 'is'"
)
_FILE = (
    "an open file as {}, of which the other side gets what is in it at best; hand over the path, "
    "to open it where it is read"
)


class StrictWarning(UserWarning):
    """A call that runs inline does what it could not do on processes, where it belongs."""


StrictWarning.__module__ = "unirun"


class Check:
    """Looks at one call, from its submit to its end; made in the thread that submits it."""

    def __init__(
        self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None = None
    ) -> None:
        """`name`: what the call is called, if not by its function."""
        self._given = _Call(fn, args, kwargs)
        self._name = name or describe(self._given.task)
        self._runs = self._given
        self._caller = _strict_held.caller()
        self._at = _definition(self._given) if self._caller is None else _place(self._caller)
        # What the arguments were loaded from; None where they are not to be compared.
        self._sent: tuple[bytes, list[Any]] | None = None
        self._watch: Watch | None = None
        self._findings: list[tuple[str, Place]] = []

    # -- before the body ----------------------------------------------------------------------

    def cannot_be_sent(self, error: SerializationError) -> None:
        """The call runs with the very objects instead of copies."""
        self._find("arg-pickle", f"{self._name}: {error}; hand over {_INSTEAD}")

    def sends(self, data: bytes, kept: list[Any]) -> None:
        """What a process would get, from `_round_trip.dump`."""
        if len(data) <= LARGEST:
            self._sent = data, kept

    def begins(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The body runs now, with these: the very objects, or what was loaded."""
        self._runs = _Call(fn, args, kwargs)
        for name, value in zip(self._given.names, self._given.values, strict=True):
            if type(value) is object:
                self._find("result-identity", f"{self._name} is handed {_BARE.format(name)}")
            elif self._sent is not None and _is_open_file(value):
                self._find("arg-pickle", f"{self._name} is handed {_FILE.format(name)}")
        if self._runs.function is not None:
            self._watch = Watch(self._runs.function, self._runs.values)

    # -- after it -----------------------------------------------------------------------------

    def result_cannot_be_sent(self, error: SerializationError) -> None:
        """The caller gets the very object."""
        self._find("result-pickle", f"{self._name}: {error}; return {_INSTEAD}")

    def ends(self, returned: tuple[Any, ...]) -> None:
        """The body has ended; `returned` is what it returned, not yet copied, if it did."""
        for write in self._watch.changes() if self._watch is not None else ():
            text = (
                f"{self._name} changes {write.subject}; a process changes its own, which the "
                "caller never sees: return the value, or share a unirun.Value, Dict or List"
            )
            self._find("global-write", text, (write.file, write.line, write.namespace))
        for value in returned:
            if type(value) is object:
                text = f"{self._name} returns {_BARE.format('its result')}"
                self._find("result-identity", text)
            elif _is_open_file(value) and not self._has_found("result-pickle"):
                text = f"{self._name} returns {_FILE.format('its result')}"
                self._find("result-pickle", text)
        if self._sent is None:
            return
        came_back = {id(part) for value in returned for part in _within(value)}
        for index, value in enumerate(self._runs.values):
            if not _is_atom(value):
                self._look_at(index, id(value) in came_back)

    def report(self) -> None:
        """Warn of what was found; raises the first warning that a filter makes an error of."""
        found, self._findings = self._findings, []
        error: StrictWarning | None = None
        for text, place in found:
            try:
                _warn(text, place)
            except StrictWarning as exc:
                exc.add_note(f"found at {place[0]}:{place[1]}")
                error = error or exc
        if error is not None:
            raise error

    # -- arguments ----------------------------------------------------------------------------

    def _look_at(self, index: int, came_back: bool) -> None:
        name = self._given.names[index]
        if came_back:
            self._look_at_result(index, name)
            return
        path = self._change(index)
        if path is None or not _strict_held.is_held(self._given.values[index], self._caller):
            return  # or nobody can see the difference
        where = f" (in {path})" if path.strip("[].") else ""
        text = (
            f"{self._name} changes its argument {name}{where}; a process "
            "changes a copy, which the caller never sees: return what is new"
        )
        self._find("arg-change", text)

    def _look_at_result(self, index: int, name: str) -> None:
        """An argument that is the result, or in it: as long as nobody looks at the argument."""
        if self._caller is None:
            return
        use = _strict_held.later_use(self._caller, self._given.values[index])
        if use is None:
            return
        variable, line, how = use
        if how == "is":
            text = (
                f"{variable!r} is compared with 'is', and {self._name} returns it as its argument "
                f"{name}; a process returns a copy: compare with =="
            )
            self._find("result-identity", text, _place(self._caller, line))
        elif self._change(index) is not None:
            text = (
                f"{self._name} changes its argument {name} and returns it, and line {line} goes "
                f"on with {variable!r}; a process leaves that as it was: use the result"
            )
            self._find("result-identity", text)

    def _change(self, index: int) -> str | None:
        """The path in that argument to what the task has changed; None: nothing."""
        if self._is_as_sent:
            return None
        try:
            before, again = self._as_sent
        except SerializationError:  # where the very objects run, nobody has loaded them yet
            return None
        return difference(before.values[index], self._runs.values[index], again.values[index])

    @functools.cached_property
    def _is_as_sent(self) -> bool:
        """The quick answer; "no" may be wrong, since equal objects may have different pickles."""
        assert self._sent is not None
        try:
            return _round_trip.dump(self._runs.whole, "it")[0] == self._sent[0]
        except SerializationError:
            return False

    def _has_found(self, code: str) -> bool:
        return any(text.startswith(f"[{code}]") for text, _ in self._findings)

    @functools.cached_property
    def _as_sent(self) -> tuple[_Call, _Call]:
        """The call as it was, twice."""
        assert self._sent is not None
        return _Call(*_round_trip.load(*self._sent)), _Call(*_round_trip.load(*self._sent))

    def _find(self, code: str, text: str, at: Place | None = None) -> None:
        at = at or self._at
        if at is not None:  # else nobody wrote a line that can be named
            self._findings.append((f"[{code}] {text}", at))


def warn_of_order(name: str, frame: FrameType) -> None:
    """The call waits at the line of `frame`, and nobody is there to end that."""
    text = (
        f"[inline-order] {name} waits here for what only its caller could do, who waits for it to "
        "end, since it runs inline: do that before the submit, or run it with UNIRUN_BACKEND=thread"
    )
    _warn(text, _place(frame))


def _warn(text: str, place: Place) -> None:
    file, line, namespace = place
    module = str(namespace.get("__name__", "<unknown>"))
    # Of the module, as functions that travel by value have globals of their own.
    home = getattr(sys.modules.get(module), "__dict__", namespace)
    registry = home.setdefault("__warningregistry__", {})
    warnings.warn_explicit(text, StrictWarning, file, line, module, registry)


class _Call:
    """A function and its arguments; those of each item where a map has bundled some."""

    def __init__(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.whole = fn, args, kwargs
        columns: list[tuple[Any, ...]] = [(arg,) for arg in args]
        if fn is _chunk.run_chunk:
            fn, columns = args[0], [tuple(column) for column in args[1]]
        self.values = [*itertools.chain.from_iterable(columns), *kwargs.values()]
        self._lengths, self._keywords = [len(column) for column in columns], tuple(kwargs)
        self.task = fn
        self.function, self._bound = _unwrapped(fn)

    @functools.cached_property
    def names(self) -> list[str]:
        """What each argument is called in the signature, for messages."""
        code = self.function.__code__ if self.function is not None else None
        known = list(code.co_varnames[self._bound : code.co_argcount]) if code is not None else []
        shown: list[str] = []
        for at, length in enumerate(self._lengths):
            shown += [repr(known[at]) if at < len(known) else f"number {at + 1}"] * length
        return shown + [repr(name) for name in self._keywords]


def _unwrapped(fn: Any) -> tuple[types.FunctionType | None, int]:
    """The Python function that runs in the end, and how many of its arguments it has already."""
    bound = 0
    for _ in range(_DEEPEST):
        if isinstance(fn, types.FunctionType):
            return fn, bound
        if isinstance(fn, functools.partial):
            fn, bound = fn.func, bound + len(fn.args)
        elif hasattr(fn, "__func__"):  # a bound method, or a bound task
            fn, bound = fn.__func__, bound + 1
        elif getattr(fn, "__unirun_task__", False):
            fn = fn.fn
        else:
            fn, bound = vars(type(fn)).get("__call__"), bound + 1
    return None, 0


def _place(frame: FrameType, line: int | None = None) -> Place:
    return frame.f_code.co_filename, line or frame.f_lineno, frame.f_globals


def _definition(call: _Call) -> Place | None:
    if call.function is None:
        return None
    code = call.function.__code__
    return code.co_filename, code.co_firstlineno, call.function.__globals__


def _within(value: Any) -> list[Any]:
    """A result, and what it consists of."""
    if isinstance(value, dict):
        return [value, *itertools.islice(value.values(), MOST_ITEMS)]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [value, *itertools.islice(value, MOST_ITEMS)]
    return [value]


def _is_open_file(value: Any) -> bool:
    """Those in memory are plain data. Some others travel as such a one: cloudpickle reads them."""
    return isinstance(value, io.IOBase) and not isinstance(value, (io.BytesIO, io.StringIO))


def _is_atom(value: Any) -> bool:
    """What cannot be changed, and is compared by value or arrives as itself."""
    return isinstance(value, _ATOMS)
