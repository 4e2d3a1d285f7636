"""Handles on values and dicts that live in a manager; see `_shared_lists` for lists.

What is in them is a copy, pickled where it is handed over and unpickled where it is taken, each
time: to change an object in a dict is to set it again.

Every plain operation is atomic: it happens once and whole, also if whoever asked for it is killed.
What takes several of them is atomic by `lock`, which `update` and `change` hold; plain operations
do not wait for it.  So it is between those who use it, and what somebody writes beside it may be
overwritten.  If a process dies in an `update`, the content stays as it was and the lock is free.
"""

from __future__ import annotations

from _pickle import Pickler
from collections.abc import MutableMapping
from io import BytesIO

from unirun._handles import SharedObject, dump, handle, load
from unirun._shared_locks import SharedRLock
from unirun._thread_values import MISSING, is_function, value_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
    from typing import Any, Self

    from unirun._hosted_values import Key

CONTENT = "a shared value"
KEY = "the key of a shared dict"


def packed(value: Any) -> bytes:
    """A value as it is kept; everything that is put into a shared value, dict or list is here."""
    return dump(value, CONTENT)


def unpacked(content: bytes) -> Any:
    """The value that is kept as that."""
    return load(content, CONTENT)


class SharedContent(SharedObject):
    """What values, dicts and lists have in common."""

    __slots__ = ()

    @classmethod
    def make_empty(cls, manager: Any) -> Any:
        lock = SharedRLock.make(manager)
        return handle(cls, manager.address, manager.create(cls.kind), (lock,))

    @property
    def lock(self) -> SharedRLock:
        """A shared RLock for several operations in a row; `update` and `change` hold it."""
        lock: SharedRLock = self._facts[0]
        return lock

    def _call(self, op: str, *args: Any) -> Any:
        status, value = self._ask(op, args)
        if status == "index":
            raise IndexError(value)
        if status == "large":
            from unirun._errors import SerializationError  # heavy, and rarely needed

            raise SerializationError(
                f"the content of this shared {self.kind}, {value} bytes, is too large to be "
                "copied at once; take it in parts"
            )
        return value


class SharedValue(SharedContent):
    """One value among processes, read and written whole."""

    __slots__ = ()

    kind = "Value"

    @classmethod
    def make(cls, manager: Any, *args: Any) -> SharedObject:
        content = packed(value_of(args))
        made: SharedValue = cls.make_empty(manager)
        made._call("set", content)
        return made

    def get(self) -> Any:
        """The value."""
        return unpacked(self._call("get"))

    def set(self, value: Any) -> None:
        """Make this the value."""
        self._call("set", packed(value))

    @property
    def value(self) -> Any:
        """The value; a copy, each time."""
        return self.get()

    @value.setter
    def value(self, value: Any) -> None:
        self.set(value)

    def get_lock(self) -> SharedRLock:
        """`lock`, as multiprocessing calls it."""
        return self.lock

    def update(self, fn: Callable[[Any], Any]) -> Any:
        """Make `fn(value)` the value, and return it; `fn` runs here, once, under `lock`.

        If it raises, or this process dies, the value stays as it is.
        """
        with self.lock:
            value = fn(self.get())
            self.set(value)
        return value


class SharedDict(SharedContent):
    """`dict` among processes.

    A key that is an int, float, complex, str, bytes, bool, None, or a tuple or frozenset of these,
    is looked up as in a dict, where 1 == 1.0 == True; so is one of a subclass that compares as
    its base does (IntEnum, named tuples).  Any other is looked up by its pickle: keys that are
    equal but pickle differently, such as Decimal("1") and Decimal("1.0"), are two.

    Iteration, `keys`, `values` and `items` are over a snapshot.  To `dict(d)` prefer `d.copy()`,
    which takes all at once.
    """

    __slots__ = ()
    __hash__: None = None  # type: ignore[assignment]

    kind = "Dict"

    @classmethod
    def make(cls, manager: Any, /, *args: Any, **kwargs: Any) -> SharedObject:
        content = _entries(_plain_dict(*args, **kwargs))
        made: SharedDict = cls.make_empty(manager)
        made._call("replace", *content)
        return made

    def __getitem__(self, key: Any) -> Any:
        content = self._call("get", _compared(key))
        if content is None:
            raise KeyError(key)
        return unpacked(content)

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of `key`, or `default` if there is none."""
        content = self._call("get", _compared(key))
        return default if content is None else unpacked(content)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._call("set", *_entry(key, value))

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """The value of `key`, which is `default` from now on if there was none."""
        content = self._call("setdefault", *_entry(key, default))
        return default if content is None else unpacked(content)

    def __delitem__(self, key: Any) -> None:
        if self._call("pop", _compared(key)) is None:
            raise KeyError(key)

    def pop(self, key: Any, default: Any = MISSING) -> Any:
        """Remove `key` and return its value; without one `default`, or KeyError."""
        content = self._call("pop", _compared(key))
        if content is not None:
            return unpacked(content)
        if default is MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[Any, Any]:
        """Remove and return the item whose key came last; KeyError if there is none."""
        item = self._call("popitem")
        if item is None:
            raise KeyError("popitem(): dictionary is empty")
        return _shown(item[0]), unpacked(item[1])

    def clear(self) -> None:
        """Remove every item."""
        self._call("replace", (), (), ())

    def update(self, /, *args: Any, **kwargs: Any) -> Any:
        """As that of dict, in one step; or, with a function, make `fn(dict)` the content.

        `fn` gets a plain dict, and may as well change that and return None; it runs here, once,
        under `lock`, and the new content is returned.  If it raises, or this process dies, the
        content stays as it is.
        """
        if not is_function(args, kwargs):
            self._call("set_many", *_entries(_plain_dict(*args, **kwargs)))
            return None
        with self.lock:
            content = self.copy()
            result = args[0](content)
            content = content if result is None else _plain_dict(result)
            self._call("replace", *_entries(content))
        return content

    def change(self, key: Any, fn: Callable[[Any], Any], default: Any = MISSING) -> Any:
        """Make `fn(self[key])` the value of `key`, and return it; nothing else is moved.

        If there is none, `fn` gets `default`, or without one KeyError is raised.  `fn` runs here,
        once, under `lock`; if it raises, or this process dies, the value stays as it is.
        """
        with self.lock:
            old = self[key] if default is MISSING else self.get(key, default)
            new = fn(old)
            self[key] = new
        return new

    def copy(self) -> dict[Any, Any]:
        """A plain dict of all there is now."""
        return {_shown(key): unpacked(content) for key, content in self._call("items")}

    def keys(self) -> KeysView[Any]:
        """The keys there are now."""
        return dict.fromkeys(map(_shown, self._call("keys"))).keys()

    def values(self) -> ValuesView[Any]:
        """The values there are now."""
        return self.copy().values()

    def items(self) -> ItemsView[Any, Any]:
        """The items there are now."""
        return self.copy().items()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __reversed__(self) -> Iterator[Any]:
        backwards: Iterator[Any] = reversed(list(self.keys()))
        return backwards

    def __contains__(self, key: object) -> bool:
        return bool(self._call("has", _compared(key)))

    def __len__(self) -> int:
        return int(self._call("size"))

    def __eq__(self, other: object) -> bool:
        other = _copied(other)
        return self.copy() == other if isinstance(other, dict) else NotImplemented

    def __or__(self, other: Any) -> dict[Any, Any]:
        other = _copied(other)
        return self.copy() | other if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> dict[Any, Any]:
        return other | self.copy() if isinstance(other, dict) else NotImplemented

    def __ior__(self, other: Any) -> Self:
        self._call("set_many", *_entries(_plain_dict(other)))
        return self

    def __str__(self) -> str:
        return str(self.copy())


MutableMapping.register(SharedDict)


def _copied(other: Any) -> Any:
    return other.copy() if isinstance(other, SharedDict) else other


def _plain_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """What `update` would add, in a dict of its own; it says what is wrong as that of dict does."""
    content: dict[Any, Any] = {}
    content.update(*map(_copied, args), **kwargs)
    return content


# -- keys -------------------------------------------------------------------------------------

_ATOMS = frozenset({int, str, bytes, bool, complex, type(None)})
_BASES: dict[Any, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: bytes.__bytes__,
    tuple: lambda key: tuple(map(_as_plain, key)),
    frozenset: lambda key: frozenset(map(_as_plain, key)),
}


class _NotPlainError(Exception):
    """A key whose equality Python's own plain objects do not have."""


def _as_plain(key: Any) -> Any:
    """`key` as a plain object that is equal to it; raises _NotPlainError if there is none."""
    kind = type(key)
    if kind in _ATOMS or (kind is float and key == key):  # a NaN is found by its pickle
        return key
    for base, made in _BASES.items():
        if isinstance(key, base) and kind.__eq__ is base.__eq__ and kind.__hash__ is base.__hash__:
            plain = made(key)
            if plain == key:  # not so for a NaN
                return plain
    raise _NotPlainError


def _is_exact(key: Any) -> bool:
    """Whether a plain object is all there is to that key."""
    kind = type(key)
    if kind is tuple or kind is frozenset:
        return all(map(_is_exact, key))
    return kind in _ATOMS or kind is float


def _compared(key: Any) -> Key:
    """What the manager compares `key` by; TypeError if it cannot be hashed."""
    try:
        return (_as_plain(key),)
    except _NotPlainError:
        hash(key)
    return _canonical(key) or dump(key, KEY)


def _canonical(key: Any) -> bytes | None:
    """A pickle for comparing only: it does not depend on which parts are the same object."""
    file = BytesIO()
    pickler = Pickler(file, 4)
    pickler.fast = True
    try:
        pickler.dump(key)
    except Exception:  # whatever a __reduce__ raises; `dump` knows more ways  # noqa: BLE001
        return None
    return file.getvalue()


def _entry(key: Any, value: Any) -> tuple[Key, bytes | None, bytes]:
    """What a key is compared by, itself if that does not say it all, and what belongs to it."""
    compared = _compared(key)
    original = None if type(compared) is tuple and _is_exact(key) else dump(key, KEY)
    return compared, original, packed(value)


def _entries(content: dict[Any, Any]) -> tuple[tuple[Any, ...], ...]:
    """The same for many, as three tuples."""
    entries = [_entry(key, value) for key, value in content.items()]
    return tuple(zip(*entries, strict=True)) or ((), (), ())


def _shown(key: Key) -> Any:
    return load(key, KEY) if isinstance(key, bytes) else key[0]
