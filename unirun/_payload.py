"""Objects as bytes: pickle where it serves, cloudpickle where it does not.

Light by rule: worker processes import it.

1. What is pickled is a snapshot, taken in the caller's thread.
2. Nothing that lives in `__main__`, or in a module another process could not import, travels by
   reference: bytes that name such a module are made again by cloudpickle, by value.
3. What cannot be pickled raises SerializationError, which names the path to the culprit.
4. Who has to keep the handles alive that are in a pickle is told of them (`handles_in`).
5. An object of `LARGE` bytes and more is offered to a store, in pieces that are not copied before;
   what a store has taken is bytes that begin with `REFERENCE`, as no pickle does.
"""

from __future__ import annotations

import sys
from _pickle import Pickler, loads
from _pickle import dumps as _pickle_dumps
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pickle import PickleBuffer
    from types import ModuleType
    from typing import Any, TypeAlias, TypeVar

    T = TypeVar("T")
    # Takes a pickle in pieces and its buffers; returns a reference, or None if it refuses.
    Store: TypeAlias = Callable[[list[bytes], list[memoryview]], bytes | None]

__all__ = [
    "LARGE",
    "PROTOCOL",
    "REFERENCE",
    "blame",
    "dumps",
    "encode",
    "handles_in",
    "importable",
    "is_reference",
    "loads",
    "may_name",
    "note_handle",
]

PROTOCOL = 5
LARGE = 1 << 15
"""Bytes from which on a buffer, or a whole pickle, is offered to a store."""
REFERENCE = b"\x01"
"""What a reference begins with."""

_TEXTS = frozenset({bytes, bytearray, str})

# Names of modules whose contents travel by value (rule 2). Grows only, so that it can be gone
# through while another thread adds to it, which uses the new name only afterwards.
_by_value = [b"__main__"]
_importable: dict[str, bool] = {}


def dumps(
    obj: Any,
    what: str = "object",
    parts: tuple[str, ...] = (),
    on_buffer: Callable[[PickleBuffer], bool] | None = None,
) -> bytes:
    """`obj` pickled; `what` names it in the error, `parts` the members of it if it is a tuple.

    `on_buffer` keeps a buffer where it is, or ends the pickling with an exception of this module.

    Raises SerializationError, whatever a `__reduce__` raised; only KeyboardInterrupt passes.
    """
    try:
        data = _pickle_dumps(obj, PROTOCOL, buffer_callback=on_buffer)
    except (KeyboardInterrupt, _HasLargeBuffer):
        raise
    except BaseException as exc:  # user code: `sys.exit()` in a __reduce__ too  # noqa: BLE001
        return _by_cloudpickle(obj, what, parts, exc, on_buffer)
    for name in _by_value:
        if name in data:
            return _by_cloudpickle(obj, what, parts, None, on_buffer)
    return data


def _by_cloudpickle(
    obj: Any,
    what: str,
    parts: tuple[str, ...],
    first: BaseException | None,
    on_buffer: Callable[[PickleBuffer], bool] | None,
) -> bytes:
    cloudpickle = _load_cloudpickle(what)
    try:
        data: bytes = cloudpickle.dumps(obj, PROTOCOL, on_buffer)
    except (KeyboardInterrupt, _HasLargeBuffer):
        raise
    except BaseException as exc:  # as above  # noqa: BLE001
        from unirun._errors import SerializationError

        reason = _reason(obj, exc, parts)
        raise SerializationError(f"{what} cannot be pickled: {reason}") from (first or exc)
    return data


def _load_cloudpickle(what: str) -> Any:
    """30 ms to import, and most programs never need it."""
    from unirun._deferral import imported

    try:
        return imported("unirun._by_value")
    except ImportError as exc:  # installed without what it depends on, in a zip file say
        from unirun._errors import SerializationError

        text = f"{what} cannot be pickled without cloudpickle ({exc}); run: pip install cloudpickle"
        raise SerializationError(text) from exc


# -- handles on shared objects ------------------------------------------------------------------

handles_exist = False
"""Whether there may be handles in this process; `_handles` says so."""

references_exist = False
"""Whether there may be References (`_put`), which calls in this process get the objects of."""

last_note = object()
"""Another one after each handle that was pickled, in any thread."""

_notes: dict[int, list[Any]] = {}  # by thread: the handles that `handles_in` has met there


def note_handle(handle: Any) -> None:
    """That handle is being pickled."""
    global last_note
    last_note = object()
    notes = _notes.get(get_ident())
    if notes is not None:
        notes.append(handle)


def handles_in(make: Callable[..., T], *args: Any, **kwargs: Any) -> tuple[T, list[Any]]:
    """What `make` returns, and the handles that were pickled in it."""
    thread = get_ident()
    notes: list[Any] = []
    before, _notes[thread] = _notes.get(thread), notes
    try:
        return make(*args, **kwargs), notes
    finally:
        if before is None:
            del _notes[thread]
        else:
            _notes[thread] = before


# -- large objects ------------------------------------------------------------------------------


class _HasLargeBuffer(BaseException):
    """Ends a pickling that is begun anew with the buffers left out; never leaves this module."""


def encode(
    obj: Any,
    what: str = "object",
    parts: tuple[str, ...] = (),
    *,
    store: Store,
    inside: Iterable[Any] = (),
) -> bytes:
    """As `dumps`, but a large object is offered to `store`, whose reference is returned then.

    `inside` are the values in `obj` that are the most likely to be large.
    """
    for value in inside:
        if type(value) in _TEXTS and len(value) >= LARGE:
            return _encode_large(obj, what, parts, store)
    try:
        data, large = _pickle_dumps(obj, PROTOCOL, buffer_callback=_refuse_large), False
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # user code, as in `dumps`, which says what is wrong  # noqa: BLE001
        data, large = b"", type(exc) is _HasLargeBuffer
    for name in _by_value:
        if name in data:
            data = b""
    if not data:
        take_care = _encode_large if large else _encode_with_care
        return take_care(obj, what, parts, store)
    return data if len(data) < LARGE else store([data], []) or data


def _encode_with_care(obj: Any, what: str, parts: tuple[str, ...], store: Store) -> bytes:
    """What pickle alone does not manage."""
    try:
        data = dumps(obj, what, parts, _refuse_large)
    except _HasLargeBuffer:
        return _encode_large(obj, what, parts, store)
    return data if len(data) < LARGE else store([data], []) or data


def may_name(piece: bytes) -> bool:
    """Whether a piece of a pickle may name something, or is only the contents of a large object.

    That comes alone, if it has 64 KiB and more; all other pieces of that size begin as frames do.
    """
    return len(piece) < 1 << 16 or piece[0] in b"\x80\x95"


def is_reference(data: bytes) -> bool:
    return data[:1] == REFERENCE


def _refuse_large(buffer: PickleBuffer) -> bool:
    if _is_small(buffer):
        return True
    raise _HasLargeBuffer


def _is_small(buffer: PickleBuffer) -> bool:
    """One that is not contiguous is none of ours: pickle says what is wrong with it."""
    with memoryview(buffer) as view:
        return view.nbytes < LARGE or not view.contiguous


def _encode_large(obj: Any, what: str, parts: tuple[str, ...], store: Store) -> bytes:
    pieces = _Pieces()
    if pieces.take(obj, Pickler) is None or pieces.names_by_value():
        cloudpickle = _load_cloudpickle(what)
        pieces = _Pieces()
        if pieces.take(obj, cloudpickle.Pickler) is None:
            return dumps(obj, what, parts)  # it says what is wrong, and where
    return store(pieces.frames, pieces.buffers) or dumps(obj, what, parts)


class _Pieces:
    """A pickle that is not put together, and the large buffers it leaves out."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.buffers: list[memoryview] = []

    def write(self, piece: Any) -> None:
        """What a Pickler needs of a file; a large bytearray comes as it is, not as a snapshot."""
        self.frames.append(piece if type(piece) is bytes else bytes(piece))

    def take(self, obj: Any, pickler: Any) -> _Pieces | None:
        """None if it cannot be pickled."""
        try:
            pickler(self, PROTOCOL, buffer_callback=self._leave_out).dump(obj)
        except KeyboardInterrupt:
            raise
        except BaseException:  # user code, as in `dumps`, which is asked next  # noqa: BLE001
            return None
        return self

    def _leave_out(self, buffer: PickleBuffer) -> bool:
        if _is_small(buffer):
            return True
        self.buffers.append(buffer.raw())
        return False

    def names_by_value(self) -> bool:
        """Rule 2."""
        frames = [each for each in self.frames if may_name(each)]
        return any(name in frame for name in _by_value for frame in frames)


def importable(module_name: str) -> bool:
    """Whether another process with our `sys.path` could import that module.

    If not, everything in it travels by value from now on.
    """
    known = _importable.get(module_name)
    if known is None:
        known = _importable[module_name] = _find(module_name)
        if not known:
            _send_by_value(module_name)
    return known


def _find(module_name: str) -> bool:
    if module_name == "__main__":
        return False
    path: Any = None
    parts = module_name.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        if not _has_spec(name, path):
            return False
        path = getattr(sys.modules.get(name), "__path__", None)
        if path is None:
            break  # a plain module; what is deeper (os.path) exists once it is imported
    return True


def _has_spec(name: str, path: Any) -> bool:
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        try:
            if find_spec is not None and find_spec(name, path) is not None:
                return True
        except (ImportError, AttributeError, ValueError):
            continue  # a finder that cannot answer is a finder that does not know
    return False


def _send_by_value(module_name: str) -> None:
    module: ModuleType | None = sys.modules.get(module_name)
    if module is None or module_name == "__main__":
        return  # cloudpickle treats __main__ that way by itself
    from unirun._deferral import imported

    imported("cloudpickle").register_pickle_by_value(module)
    _by_value.append(module_name.encode())


# -- whom to blame ----------------------------------------------------------------------------


def _reason(obj: Any, exc: BaseException, parts: tuple[str, ...]) -> str:
    try:
        return blame(obj, exc, parts)
    except Exception:  # it looks into objects of the user, which may object  # noqa: BLE001
        return type(exc).__name__


def blame(obj: Any, exc: BaseException, parts: tuple[str, ...] = ()) -> str:
    """Which part of `obj` cannot be pickled, and why."""
    path, culprit = _culprit(obj, exc)
    for index, name in enumerate(parts):
        if path.startswith(f"[{index}]"):
            path = name + path.removeprefix(f"[{index}]")
            break
    reason = f"{type(culprit).__name__}: {culprit}" if str(culprit) else type(culprit).__name__
    return f"at {path}: {reason}" if path else reason


def _culprit(obj: Any, exc: BaseException) -> tuple[str, BaseException]:
    """Follow containers and attributes down to the deepest part that fails by itself."""
    path = ""
    seen: set[int] = set()
    for _ in range(20):
        seen.add(id(obj))
        for step, part in _parts(obj):
            error = None if id(part) in seen else _refusal(part)
            if error is not None:
                path, obj, exc = path + step, part, error
                break
        else:
            break
    return path, exc


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, dict):
        yield from ((f"[{key!r}]", value) for key, value in list(obj.items())[:1000])
    elif isinstance(obj, (list, tuple, set, frozenset)):
        yield from ((f"[{index}]", value) for index, value in enumerate(list(obj)[:1000]))
    cells = getattr(obj, "__closure__", None)
    if cells:
        names = obj.__code__.co_freevars
        yield from ((f".<closure {n}>", _cell(c)) for n, c in zip(names, cells, strict=False))
    receiver = getattr(obj, "__self__", None)
    if callable(obj) and receiver is not None:  # a bound method
        yield ".__self__", receiver
    state = getattr(obj, "__dict__", None)
    if isinstance(state, dict) and not isinstance(obj, type) and pickles_its_dict(type(obj)):
        yield from ((f".{name}", value) for name, value in list(state.items())[:1000])


def pickles_its_dict(cls: Any) -> bool:
    """Whether what pickle takes of such an object is its attributes."""
    return (
        cls.__reduce__ in (object.__reduce__, BaseException.__reduce__)
        and cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__getstate__ is object.__getstate__
    )


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # a variable that is not bound yet


def _refusal(part: Any) -> BaseException | None:
    try:
        _load_cloudpickle("a part of it").dumps(part, PROTOCOL)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # user code again  # noqa: BLE001
        return exc
    return None
