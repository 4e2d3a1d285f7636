"""A pickle round trip within a process: what a call gets, or gives back, on processes.

Shared objects are not copied, on no backend: those made by a backend of this process are noted
with `keep`, and come out of the trip as they went in.
"""

from __future__ import annotations

import io
import pickle
import weakref

from unirun import _payload
from unirun._errors import DeserializationError, SerializationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["dump", "is_kept", "keep", "load"]

_kept: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def keep(obj: Any) -> Any:
    """From now on that object is never copied; returns it."""
    _kept[id(obj)] = obj
    return obj


def is_kept(obj: Any) -> bool:
    return obj is not None and _kept.get(id(obj)) is obj


def dump(obj: Any, what: str, parts: tuple[str, ...] = ()) -> tuple[bytes, list[Any]]:
    """The pickle of `obj`, and the objects it leaves out since they are kept.

    Raises SerializationError, which names the path to the culprit; `parts` as in `_payload.blame`.
    """
    kept: list[Any] = []
    file = io.BytesIO()
    try:
        _Pickler(file, kept).dump(obj)
        return file.getvalue(), kept
    except KeyboardInterrupt:
        raise
    except BaseException:  # a lambda, say; or something no pickler takes  # noqa: BLE001
        return _dump_by_value(obj, what, parts)


def load(data: bytes, kept: list[Any]) -> Any:
    """What was dumped; raises DeserializationError."""
    try:
        return _Unpickler(data, kept).load()
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # user code runs in there
        text = f"cannot be unpickled: {type(exc).__name__}: {exc}"
        raise DeserializationError(text) from exc


class _Pickler(pickle.Pickler):
    """Leaves out what is kept."""

    def __init__(self, file: io.BytesIO, kept: list[Any]) -> None:
        super().__init__(file, _payload.PROTOCOL)
        self._kept = kept

    def persistent_id(self, obj: Any) -> int | None:
        if is_kept(obj):
            self._kept.append(obj)
            return len(self._kept) - 1
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, kept: list[Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._kept = kept

    def persistent_load(self, pid: Any) -> Any:
        return self._kept[pid]


def _dump_by_value(obj: Any, what: str, parts: tuple[str, ...]) -> tuple[bytes, list[Any]]:
    from unirun import _by_value

    class Pickler(_by_value.Pickler):
        persistent_id = _Pickler.persistent_id

    kept: list[Any] = []
    file = io.BytesIO()
    pickler = Pickler(file, protocol=_payload.PROTOCOL)
    pickler._kept = kept
    try:
        pickler.dump(obj)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # user code runs in there
        raise SerializationError(
            f"{what} cannot be pickled: {_payload.blame(obj, exc, parts)}"
        ) from exc
    return file.getvalue(), kept
