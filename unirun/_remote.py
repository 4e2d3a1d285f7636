"""Exceptions as bytes: type, cause, context, notes, groups and the frames they came through.

Imported by workers only when a task raised.  An exception tree travels as a flat list of nodes
(plain tuples of atoms and bytes), so that one member which cannot be pickled spoils no other:

1. An exception that survives a pickle round trip arrives as itself.
2. One that only its own `__init__` or `__setattr__` keeps from being rebuilt arrives as its own
   type where `type(*args)` works, the attributes put straight into its `__dict__`.
3. Any other arrives as a RemoteError that is also an instance of the original class where that
   class can be found; it keeps the text, the args and attributes that pickle.
4. The remote frames become real traceback entries, so a traceback reads as if the call had been
   a plain one, source lines included, and cause and context stay what they were.
"""

from __future__ import annotations

import marshal
import types

from unirun._payload import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["decode", "encode"]

_WHOLE, _PARTS, _GROUP, _STAND_IN = range(4)
_NOTHING: tuple[None, None, dict[str, bytes]] = (None, None, {})  # of a stand-in: just a text
_MAX_FRAMES = 200  # of each end; a recursion error has a thousand
_MAX_CHAIN = 100  # causes and contexts; a loop that retries in its `except` makes thousands


# -- out ----------------------------------------------------------------------------------------


def encode(exc: BaseException, skip_frames: int = 0) -> bytes:
    """`exc` with everything that hangs on it; `skip_frames` of ours are left out at the top.

    Never raises, whatever the exception is.
    """
    nodes: list[tuple[Any, ...] | None] = []
    try:
        _add(exc, nodes, {}, skip_frames)
        return marshal.dumps(nodes)
    except BaseException:  # groups in groups in groups; a text that is no str  # noqa: BLE001
        about = (_type_name(exc), _text(exc), _frames(exc, skip_frames))
        return marshal.dumps([(_STAND_IN, _NOTHING, *about, False, -1, -1)])


def _add(
    exc: BaseException, nodes: list[Any], seen: dict[int, int], skip: int = 0, depth: int = 0
) -> int:
    if id(exc) in seen:
        return seen[id(exc)]
    index = seen[id(exc)] = len(nodes)
    nodes.append(None)
    mode, content = _content(exc, nodes, seen, depth)
    nodes[index] = (
        mode,
        content,
        _type_name(exc),
        _text(exc),
        _frames(exc, skip),
        exc.__suppress_context__,
        _follow(exc.__cause__, nodes, seen, depth),
        _follow(exc.__context__, nodes, seen, depth),
    )
    return index


def _follow(exc: BaseException | None, nodes: list[Any], seen: dict[int, int], depth: int) -> int:
    if exc is None or depth >= _MAX_CHAIN:
        return -1
    return _add(exc, nodes, seen, depth=depth + 1)


def _content(
    exc: BaseException, nodes: list[Any], seen: dict[int, int], depth: int
) -> tuple[int, Any]:
    if isinstance(exc, BaseExceptionGroup):
        members = [_add(member, nodes, seen, depth=depth + 1) for member in exc.exceptions]
        group = (_try(type(exc)), str.__str__(exc.message), members, _state(exc))
        if group[0] is not None:
            return _GROUP, group
    else:
        whole = _try(exc)
        if whole is not None and _rebuilds(whole, exc):
            return _WHOLE, whole
    parts = (_try(type(exc)), _try(exc.args), _state(exc))
    return (_PARTS if _constructs(parts) else _STAND_IN), parts


def _try(obj: Any) -> bytes | None:
    try:
        return dumps(obj)
    except BaseException:  # not picklable: the caller takes the next best form  # noqa: BLE001
        return None


def _state(exc: BaseException) -> dict[str, bytes]:
    """The attributes that pickle, each by itself; notes are among them."""
    pickled = {name: _try(value) for name, value in vars(exc).items()}
    return {name: data for name, data in pickled.items() if data is not None}


def _rebuilds(data: bytes, exc: BaseException) -> bool:
    try:
        return type(loads(data)) is type(exc)
    except BaseException:  # user code runs in there; whatever it raises, it failed  # noqa: BLE001
        return False


def _constructs(parts: tuple[Any, ...]) -> bool:
    try:
        cls, args = loads(parts[0]), loads(parts[1])
        return type(cls(*args)) is cls
    except BaseException:  # as above  # noqa: BLE001
        return False


def _type_name(exc: BaseException) -> str:
    return f"{type(exc).__module__}.{type(exc).__qualname__}"


def _text(exc: BaseException) -> str:
    try:
        return str.__str__(str(exc))  # a subclass of str cannot be marshalled
    except BaseException as error:  # user code  # noqa: BLE001
        return f"<str() failed: {type(error).__name__}>"


def _frames(exc: BaseException, skip: int) -> list[tuple[str, int, str]]:
    frames = []
    tb = exc.__traceback__
    while tb is not None:
        code = tb.tb_frame.f_code
        frames.append((code.co_filename, tb.tb_lineno or 0, code.co_qualname))
        tb = tb.tb_next
    frames = frames[skip:]
    return (
        frames if len(frames) <= 2 * _MAX_FRAMES else frames[:_MAX_FRAMES] + frames[-_MAX_FRAMES:]
    )


# -- back -----------------------------------------------------------------------------------------


def decode(data: bytes) -> BaseException:
    """The exception that `encode` was given, or its stand-in; never raises."""
    nodes = marshal.loads(data)
    try:
        return _Decoder(nodes).build(0)
    except BaseException:  # user code of a kind that nobody thought of  # noqa: BLE001
        return _stand_in(_NOTHING, *nodes[0][2:5])


class _Decoder:
    def __init__(self, nodes: list[tuple[Any, ...]]) -> None:
        self._nodes = nodes
        self._built: dict[int, BaseException] = {}

    def build(self, index: int) -> BaseException:
        if index in self._built:
            return self._built[index]
        mode, content, type_name, text, frames, suppress, cause, context = self._nodes[index]
        exc = self._make(mode, content, type_name, text, frames)
        self._built[index] = exc
        # Past the __setattr__ of its class: a frozen dataclass refuses every attribute.
        if cause >= 0:
            object.__setattr__(exc, "__cause__", self.build(cause))
        if context >= 0:
            object.__setattr__(exc, "__context__", self.build(context))
        object.__setattr__(exc, "__suppress_context__", suppress)
        return BaseException.with_traceback(exc, _traceback(frames))

    def _make(
        self, mode: int, content: Any, type_name: str, text: str, frames: Any
    ) -> BaseException:
        try:
            if mode == _WHOLE:
                exc = loads(content)
            elif mode == _GROUP:
                exc = self._group(content)
            elif mode == _PARTS:
                exc = _from_parts(content)
            else:
                return _stand_in(content, type_name, text, frames)
            if isinstance(exc, BaseException):
                return exc
        except BaseException:  # user code; the stand-in tells what it was  # noqa: BLE001
            pass_on = content if isinstance(content, tuple) and len(content) == 3 else _NOTHING
            return _stand_in(pass_on, type_name, text, frames)
        return _stand_in(_NOTHING, type_name, text, frames)

    def _group(self, content: Any) -> BaseException:
        cls, message, members, state = content
        built = [self.build(member) for member in members]
        kind = loads(cls)
        group: BaseException = kind.__new__(kind, message, built)
        group.__dict__.update(_load_state(state))
        return group


def _from_parts(content: Any) -> BaseException:
    cls, args, state = content
    exc: BaseException = loads(cls)(*loads(args))
    exc.__dict__.update(_load_state(state))
    return exc


def _load_state(state: dict[str, bytes]) -> dict[str, Any]:
    loaded = {}
    for name, data in state.items():
        try:
            loaded[name] = loads(data)
        except BaseException:  # one attribute that cannot be rebuilt is left out  # noqa: BLE001
            continue
    return loaded


def _stand_in(content: Any, type_name: str, text: str, frames: Any) -> BaseException:
    from unirun._errors import RemoteError

    cls, args, state = content
    try:
        exc = _instance(_dual_class(cls), text)
    except BaseException:  # its __new__ is the user's  # noqa: BLE001
        exc = _instance(RemoteError, text)
    object.__setattr__(exc, "args", _load_args(args, text))
    if isinstance(exc, RemoteError):
        exc.__dict__.update(_load_state(state))
        # As itself where it is also of the original class: handlers compare the text.
        shown = text if type(exc) is not RemoteError else f"{type_name}: {text}"
        about = {"type_name": type_name, "traceback_text": _format(frames), "_text": shown}
        exc.__dict__.update(about)
    return exc


def _load_args(data: bytes | None, text: str) -> tuple[Any, ...]:
    try:
        loaded = loads(data) if data is not None else (text,)
    except BaseException:  # the text still tells  # noqa: BLE001
        return (text,)
    return loaded if isinstance(loaded, tuple) else (text,)


def _dual_class(data: bytes | None) -> type[BaseException]:
    """A class that is a RemoteError and, where it can be, the original class too."""
    from unirun._errors import RemoteError

    try:
        original = loads(data) if data is not None else None
        if isinstance(original, type) and issubclass(original, BaseException):
            return dual(original)
    except BaseException:  # not importable here, or refuses to be a base  # noqa: BLE001
        return RemoteError
    return RemoteError


def dual(original: type[BaseException]) -> type[BaseException]:
    from unirun._errors import RemoteError

    if issubclass(original, RemoteError):
        return original
    body = {
        "__reduce__": _reduce_dual,
        "__str__": RemoteError.__str__,  # the original's may need what could not be sent
        "__module__": "unirun",
    }
    return type(f"RemoteError_{original.__name__}", (RemoteError, original), body)


def _reduce_dual(self: Any) -> Any:
    return _rebuild_dual, (type(self).__bases__[1], self.args, dict(self.__dict__))


def _rebuild_dual(original: type[BaseException], args: Any, state: Any) -> BaseException:
    exc = _instance(dual(original), "")
    object.__setattr__(exc, "args", args)
    exc.__dict__.update(state)
    return exc


def _instance(cls: type[BaseException], text: str) -> BaseException:
    try:
        return cls.__new__(cls)
    except TypeError:
        return cls.__new__(cls, text)


def _format(frames: list[tuple[str, int, str]]) -> str:
    return "".join(f'  File "{name}", line {line}, in {fn}\n' for name, line, fn in frames)


def _traceback(frames: list[tuple[str, int, str]]) -> types.TracebackType | None:
    """Real traceback entries for the remote frames, innermost last (rule 4)."""
    tb: types.TracebackType | None = None
    for filename, line, name in reversed(frames):
        tb = types.TracebackType(tb, _frame(filename, line, name), 0, max(line, 1))
    return tb


def _frame(filename: str, line: int, name: str) -> types.FrameType:
    """A frame whose code has that name: of a generator that never began.

    It has nobody above it.  The frame of a function would keep those of all its callers, and what
    they know: a batch of futures, as long as somebody keeps the exception of one of them.
    """
    code = _STUB.replace(
        co_filename=filename, co_firstlineno=max(line, 1), co_name=name, co_qualname=name
    )
    frame: types.FrameType = types.FunctionType(code, {"__name__": "unirun.remote"})(_NONE).gi_frame
    return frame


def _stub() -> types.CodeType:
    """A generator's code, whose every instruction is on its first line, in no column.

    A traceback takes line and columns from the instruction, not from `tb_lineno`.
    """
    code = compile("(None for _ in ())", "<remote>", "exec").co_consts[0]
    assert isinstance(code, types.CodeType)
    units = len(code.co_code) // 2
    sizes = [min(8, units - start) for start in range(0, units, 8)]
    # "No columns": code 13 and the size, then the difference of the lines, which is 0.
    return code.replace(co_linetable=b"".join(bytes((0xE8 | size - 1, 0)) for size in sizes))


_STUB = _stub()
_NONE: Any = iter(())
