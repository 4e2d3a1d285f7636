"""Values, dicts and lists as they live in their host: what is in them is never looked into.

Contents are opaque bytes.  A key of a dict is what it is compared by, which travels as it is:
`(key,)` where equality is that of Python's own plain objects, so that 1 == 1.0 == True; bytes,
never unpickled here, for every other key.  Beside it, unless `(key,)` says it all, is the key
itself as bytes.

Nothing waits here, and every operation is whole: it happens or it does not.  What needs several
steps takes the object's lock, or says which version of a list it has looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, TypeAlias

from unirun.coordinator import Coordinator, Kinds, Request, SharedObject

__all__ = ["MAX_COPY", "VALUES"]

Key: TypeAlias = tuple[Any] | bytes
"""What a key is compared by."""
Entries: TypeAlias = dict[Key, tuple[bytes | None, bytes]]
"""By key, the key itself if what it is compared by does not say it all, and its content."""

MAX_COPY: Final = (1 << 30) - (1 << 24)
"""Bytes of contents that are handed out at once: one frame must have room for them."""
OVERHEAD: Final = 64  # bytes that one content costs in a frame, keys aside


class _Hosted(SharedObject):
    """An object of which nobody waits for anything."""

    def timed_out(self, request: Request) -> None:
        self._answer(request, "timeout")

    def _hand_out(self, request: Request, value: Any, size: int) -> None:
        """Answer with many contents, unless there is no frame for them."""
        if size > MAX_COPY:
            self._answer(request, "large", size)
        else:
            self._answer(request, "ok", value)


class Value(_Hosted):
    """One content."""

    kind = "Value"

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__(coordinator)
        self._content = b""  # until it is set for the first time, by whoever made it

    def get(self, request: Request) -> None:
        self._answer(request, "ok", self._content)

    def set(self, request: Request, content: bytes) -> None:
        self._content = content
        self._answer(request, "ok")

    operations: ClassVar = {"get": get, "set": set}


class Dict(_Hosted):
    """Contents by key, in the order in which the keys came in."""

    kind = "Dict"

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__(coordinator)
        self._entries: Entries = {}

    def get(self, request: Request, key: Key) -> None:
        """The content of that key; None if there is none."""
        entry = self._entries.get(key)
        self._answer(request, "ok", None if entry is None else entry[1])

    def has(self, request: Request, key: Key) -> None:
        self._answer(request, "ok", key in self._entries)

    def size(self, request: Request) -> None:
        self._answer(request, "ok", len(self._entries))

    def set(self, request: Request, key: Key, original: bytes | None, content: bytes) -> None:
        known = self._entries.get(key)
        # As in a dict, the key that came first stays.
        self._entries[key] = (known[0] if known else original, content)
        self._answer(request, "ok")

    def set_many(
        self,
        request: Request,
        keys: Sequence[Key],
        originals: Sequence[bytes | None],
        contents: Sequence[bytes],
    ) -> None:
        for key, entry in _by_key(keys, originals, contents).items():
            known = self._entries.get(key)
            self._entries[key] = (known[0], entry[1]) if known else entry
        self._answer(request, "ok")

    def replace(
        self,
        request: Request,
        keys: Sequence[Key],
        originals: Sequence[bytes | None],
        contents: Sequence[bytes],
    ) -> None:
        self._entries = _by_key(keys, originals, contents)
        self._answer(request, "ok")

    def setdefault(
        self, request: Request, key: Key, original: bytes | None, content: bytes
    ) -> None:
        """The content of that key; None if there was none and `content` is it now."""
        known = self._entries.get(key)
        if known is None:
            self._entries[key] = (original, content)
        self._answer(request, "ok", None if known is None else known[1])

    def pop(self, request: Request, key: Key) -> None:
        """The content that key had; None if it had none."""
        entry = self._entries.pop(key, None)
        self._answer(request, "ok", None if entry is None else entry[1])

    def popitem(self, request: Request) -> None:
        """The key that came last and its content; None if there is none."""
        if not self._entries:
            self._answer(request, "ok", None)
            return
        key, (original, content) = self._entries.popitem()
        self._answer(request, "ok", (_shown(key, original), content))

    def keys(self, request: Request) -> None:
        keys = [_shown(key, original) for key, (original, _) in self._entries.items()]
        self._hand_out(request, keys, sum(map(_weight, keys)))

    def items(self, request: Request) -> None:
        items = [
            (_shown(key, original), content) for key, (original, content) in self._entries.items()
        ]
        size = sum(_weight(key) + OVERHEAD + len(content) for key, content in items)
        self._hand_out(request, items, size)

    operations: ClassVar = {
        "get": get,
        "has": has,
        "items": items,
        "keys": keys,
        "pop": pop,
        "popitem": popitem,
        "replace": replace,
        "set": set,
        "set_many": set_many,
        "setdefault": setdefault,
        "size": size,
    }


def _by_key(
    keys: Sequence[Key], originals: Sequence[bytes | None], contents: Sequence[bytes]
) -> Entries:
    found: Entries = {}
    for key, original, content in zip(keys, originals, contents, strict=True):
        found[key] = (found[key][0] if key in found else original, content)
    return found


def _shown(key: Key, original: bytes | None) -> Key:
    """A key as it is handed out: `(key,)`, or bytes to be unpickled."""
    return key if original is None else original


def _weight(key: Any) -> int:
    """About as many bytes as it takes in a frame, rather more."""
    if isinstance(key, (tuple, frozenset)):
        return OVERHEAD + sum(map(_weight, key))
    if isinstance(key, str):
        return OVERHEAD + 4 * len(key)
    if isinstance(key, bytes):
        return OVERHEAD + len(key)
    return OVERHEAD + (key.bit_length() // 7 if isinstance(key, int) else 0)


class List(_Hosted):
    """Contents in a row; an index of three is a slice."""

    kind = "List"

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__(coordinator)
        self._contents: list[bytes] = []
        self._version = 0  # another one after each change

    def get(self, request: Request, index: Any) -> None:
        try:
            found = self._contents[_place(index)]
        except IndexError as exc:
            self._answer(request, "index", str(exc))
            return
        self._hand_out(request, found, 0 if isinstance(found, bytes) else _size(found))

    def items(self, request: Request) -> None:
        """The version and all contents."""
        self._hand_out(request, (self._version, self._contents.copy()), _size(self._contents))

    def size(self, request: Request) -> None:
        self._answer(request, "ok", len(self._contents))

    def set(self, request: Request, index: Any, content: Any) -> None:
        self._change(request, self._contents.__setitem__, _place(index), content)

    def delete(self, request: Request, index: Any, version: int | None = None) -> None:
        """With a version, only if it is that one still; answers whether it was."""
        self._change(request, self._contents.__delitem__, _place(index), version=version)

    def insert(self, request: Request, index: int, content: bytes) -> None:
        self._change(request, self._contents.insert, index, content)

    def append(self, request: Request, content: bytes) -> None:
        self._change(request, self._contents.append, content)

    def extend(self, request: Request, contents: Sequence[bytes]) -> None:
        self._change(request, self._contents.extend, contents)

    def pop(self, request: Request, index: int) -> None:
        self._change(request, self._contents.pop, index, hand_out=True)

    def reverse(self, request: Request) -> None:
        self._change(request, self._contents.reverse)

    def replace(
        self, request: Request, contents: Sequence[bytes], version: int | None = None
    ) -> None:
        """With a version, only if it is that one still; answers whether it was."""
        whole = slice(None)
        self._change(request, self._contents.__setitem__, whole, contents, version=version)

    def reorder(self, request: Request, order: Sequence[int], version: int) -> None:
        """Where each content is to come from, if it is that version still; answers whether."""
        if version == self._version and sorted(order) != list(range(len(self._contents))):
            raise ValueError("the new order of a list must name each of its places once")
        self._change(request, self._permute, order, version=version)

    def _permute(self, order: Sequence[int]) -> None:
        self._contents[:] = [self._contents[index] for index in order]

    def _change(
        self,
        request: Request,
        change: Callable[..., Any],
        *args: Any,
        version: int | None = None,
        hand_out: bool = False,
    ) -> None:
        if version is not None and version != self._version:
            self._answer(request, "ok", False)
            return
        try:
            value = change(*args)
        except (IndexError, OverflowError) as exc:
            self._answer(request, "index", str(exc))
            return
        self._version += 1
        self._answer(request, "ok", value if hand_out else True)

    operations: ClassVar = {
        "append": append,
        "delete": delete,
        "extend": extend,
        "get": get,
        "insert": insert,
        "items": items,
        "pop": pop,
        "reorder": reorder,
        "replace": replace,
        "reverse": reverse,
        "set": set,
        "size": size,
    }


def _place(index: Any) -> Any:
    return slice(*index) if isinstance(index, tuple) else index


def _size(contents: Sequence[bytes]) -> int:
    return sum(map(len, contents)) + OVERHEAD * len(contents)


VALUES: Final[Kinds] = {"Dict": Dict, "List": List, "Value": Value}
