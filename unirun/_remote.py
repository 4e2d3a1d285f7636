"""Exceptions as bytes: type, cause, context, notes, groups and the frames they came through.

Imported by workers only when a task raised.  An exception tree travels as a flat list of nodes
(plain tuples of atoms and bytes), so that one member which cannot be pickled spoils no other; how
each of them travels is in `_rebuild`.  The remote frames become real traceback entries
(`_remote_frames`), so a traceback reads as if the call had been a plain one, source lines included,
and cause and context stay what they were.
"""

from __future__ import annotations

import marshal

from unirun._call_notes import call_note
from unirun._payload import loads
from unirun._rebuild import (
    STAND_IN,
    attempt,
    content_of,
    make,
    pickled_state,
    put_state,
    stand_in,
    text_of,
    type_name_of,
)
from unirun._remote_frames import formatted, frames_of, learn, sources_of, traceback_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._context import TaskContext

__all__ = ["decode", "decode_told", "encode", "encode_call"]

_GROUP = STAND_IN + 1
_NOTHING: tuple[None, None, dict[str, bytes]] = (None, None, {})  # of a stand-in: just a text
_MAX_CHAIN = 100  # causes and contexts; a loop that retries in its `except` makes thousands


# -- out ----------------------------------------------------------------------------------------


def encode(exc: BaseException, skip_frames: int = 0, told: Any = None) -> bytes:
    """`exc` with everything that hangs on it; `skip_frames` of ours are left out at the top.

    `told` is something plain to go with it. Never raises, whatever the exception is.
    """
    nodes: list[tuple[Any, ...] | None] = []
    sources: dict[str, dict[int, str]] = {}
    try:
        _Encoder(nodes, sources).add(exc, skip_frames)
        return marshal.dumps((nodes, sources, told))
    except BaseException:  # groups in groups in groups; a text that is no str  # noqa: BLE001
        about = (type_name_of(exc), text_of(exc), frames_of(exc, skip_frames))
        nodes = [(STAND_IN, _NOTHING, *about, False, -1, -1)]
        return marshal.dumps((nodes, {}, told))


def encode_call(
    exc: BaseException, context: TaskContext, fn: Any, args: Any, kwargs: dict[str, Any]
) -> bytes:
    """What a call has raised, with the note that tells of the call."""
    if not callable(fn):
        exc = TypeError(f"{fn!r} is not callable; submit(fn, *args) takes the function first")
    about: Any = {"call": context.id, "attempt": context.attempt, "worker": context.worker}
    return encode(exc, 1, call_note(context.name, args, kwargs, fn=fn, **about))


class _Encoder:
    def __init__(
        self, nodes: list[tuple[Any, ...] | None], sources: dict[str, dict[int, str]]
    ) -> None:
        self._nodes = nodes
        self._sources = sources
        self._seen: dict[int, int] = {}

    def add(self, exc: BaseException, skip: int = 0, depth: int = 0) -> int:
        if id(exc) in self._seen:
            return self._seen[id(exc)]
        index = self._seen[id(exc)] = len(self._nodes)
        self._nodes.append(None)
        how, content = self._content(exc, depth)
        sources_of(exc, self._sources)
        self._nodes[index] = (
            how,
            content,
            type_name_of(exc),
            text_of(exc),
            frames_of(exc, skip),
            exc.__suppress_context__,
            self._follow(exc.__cause__, depth),
            self._follow(exc.__context__, depth),
        )
        return index

    def _follow(self, exc: BaseException | None, depth: int) -> int:
        return -1 if exc is None or depth >= _MAX_CHAIN else self.add(exc, depth=depth + 1)

    def _content(self, exc: BaseException, depth: int) -> tuple[int, Any]:
        if not isinstance(exc, BaseExceptionGroup):
            return content_of(exc)
        members = [self.add(member, depth=depth + 1) for member in exc.exceptions]
        message = str.__str__(exc.message)
        return _GROUP, (attempt(type(exc)), message, members, pickled_state(exc))


# -- back -----------------------------------------------------------------------------------------


def decode(data: bytes) -> BaseException:
    """The exception that `encode` was given, or its stand-in; never raises."""
    return decode_told(data)[0]


def decode_told(data: bytes) -> tuple[BaseException, Any]:
    """As `decode`; and what was told with it."""
    nodes, sources, told = marshal.loads(data)
    learn(sources)
    try:
        return _Decoder(nodes).build(0), told
    except BaseException:  # user code of a kind that nobody thought of  # noqa: BLE001
        type_name, text, frames = nodes[0][2:5]
        return stand_in(_NOTHING, type_name, text, formatted(frames)), told


class _Decoder:
    def __init__(self, nodes: list[tuple[Any, ...]]) -> None:
        self._nodes = nodes
        self._built: dict[int, BaseException] = {}

    def build(self, index: int) -> BaseException:
        if index in self._built:
            return self._built[index]
        how, content, type_name, text, frames, suppress, cause, context = self._nodes[index]
        exc = self._make(how, content, type_name, text, frames)
        self._built[index] = exc
        # Past the __setattr__ of its class: a frozen dataclass refuses every attribute.
        if cause >= 0:
            object.__setattr__(exc, "__cause__", self.build(cause))
        if context >= 0:
            object.__setattr__(exc, "__context__", self.build(context))
        object.__setattr__(exc, "__suppress_context__", suppress)
        return BaseException.with_traceback(exc, traceback_of(frames))

    def _make(
        self, how: int, content: Any, type_name: str, text: str, frames: Any
    ) -> BaseException:
        rest = content if how == STAND_IN else _NOTHING
        try:
            if how == _GROUP:
                return self._group(content)
            exc = None if how == STAND_IN else make(how, content)
            if isinstance(exc, BaseException):
                return exc
        except BaseException:  # user code; the stand-in tells what it was  # noqa: BLE001
            rest = content if isinstance(content, tuple) and len(content) == 3 else _NOTHING
        return stand_in(rest, type_name, text, formatted(frames))

    def _group(self, content: Any) -> BaseException:
        """Its members matter more than its class: `except*` looks for them."""
        cls, message, members, state = content
        built = [self.build(member) for member in members]
        try:
            kind = loads(cls)
            group: BaseException = kind.__new__(kind, message, built)
        except BaseException:  # a class that is nowhere, or user code  # noqa: BLE001
            group = BaseExceptionGroup(message, built)
        put_state(group, state)
        return group
