"""Values, dicts and lists for the threads of one process, with what those in a manager have too.

A Dict is a dict and a List is a list, whose plain operations are atomic by themselves; none of
them is slowed down.  Only what iterates gets a snapshot, so that it never meets a change.

`lock` is for what takes several steps: `update` and `change` hold it, plain operations do not wait
for it.  So it is between those who use it, and what somebody writes beside it may be overwritten.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from itertools import starmap
from operator import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
    from typing import Any, Self

__all__ = ["MISSING", "Dict", "List", "Value", "is_function", "value_of"]

MISSING: Any = object()
"""Stands for an argument that was not given."""

TYPE_CODES = "cubBhHiIlLqQfd"  # those of multiprocessing


def value_of(args: tuple[Any, ...]) -> Any:
    """The value among the arguments of a Value; a type or its code before it says nothing here."""
    if len(args) == 1:
        return args[0]
    if len(args) != 2:
        raise TypeError(
            f"a Value cannot be made of {len(args)} arguments; "
            "pass a value, or as in multiprocessing a type code and a value"
        )
    code, value = args
    if isinstance(code, str):
        if len(code) != 1 or code not in TYPE_CODES:
            raise ValueError(f"bad type code {code!r}; it is one of {', '.join(TYPE_CODES)}")
    elif not isinstance(code, type):
        raise TypeError(f"{code!r} is no type code; pass one of {', '.join(TYPE_CODES)} or a type")
    return value


def is_function(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an `update` is called with a function, and not with what has contents."""
    if len(args) != 1 or kwargs:
        return False
    return callable(args[0]) and not isinstance(args[0], Iterable)


class Value:
    """One value, read and written whole."""

    __slots__ = ("__weakref__", "lock", "value")

    def __init__(self, *args: Any) -> None:
        self.value = value_of(args)
        self.lock = threading.RLock()
        """For several operations in a row; `update` holds it."""

    def get(self) -> Any:
        """The value."""
        return self.value

    def set(self, value: Any) -> None:
        """Make this the value."""
        self.value = value

    def get_lock(self) -> Any:
        """`lock`, as multiprocessing calls it."""
        return self.lock

    def update(self, fn: Callable[[Any], Any]) -> Any:
        """Make `fn(value)` the value, and return it; `fn` runs here, once, under `lock`.

        If it raises, the value stays as it is.
        """
        with self.lock:
            self.value = value = fn(self.value)
        return value

    def __repr__(self) -> str:
        return f"Value({self.value!r})"


class Dict(dict):  # type: ignore[type-arg]
    """A dict with `lock`, `change` and `update(fn)`; iteration is over a snapshot."""

    __slots__ = ("__weakref__", "lock")

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        self.lock = threading.RLock()
        """For several operations in a row; `update(fn)` and `change` hold it."""
        dict.__init__(self, *map(_copied, args), **kwargs)

    def update(self, /, *args: Any, **kwargs: Any) -> Any:
        """As that of dict; or, with a function, make `fn(dict)` the content, and return it.

        `fn` gets a copy, and may as well change that and return None; it runs here, once, under
        `lock`.  If it raises, the content stays as it is.
        """
        if not is_function(args, kwargs):
            dict.update(self, *map(_copied, args), **kwargs)
            return None
        with self.lock:
            content = self.copy()
            result = args[0](content)
            content = content if result is None else dict(_copied(result))
            self._replace(content)
        return content

    def _replace(self, content: dict[Any, Any]) -> None:
        # No byte code runs between the two, so no other thread sees an empty dict.  What is
        # dropped is kept until then: a finalizer is byte code.
        dropped = self._listed(dict.items)
        deque(starmap(call, ((dict.clear, self), (dict.update, self, content))), maxlen=0)
        dropped.clear()

    def change(self, key: Any, fn: Callable[[Any], Any], default: Any = MISSING) -> Any:
        """Make `fn(self[key])` the value of `key`, and return it.

        If there is none, `fn` gets `default`, or without one KeyError is raised.  `fn` runs here,
        once, under `lock`; if it raises, the value stays as it is.
        """
        with self.lock:
            old = dict.__getitem__(self, key) if default is MISSING else self.get(key, default)
            self[key] = new = fn(old)
        return new

    def _listed(self, view: Callable[[dict[Any, Any]], Iterable[Any]]) -> list[Any]:
        while True:
            try:
                return list(view(self))
            except RuntimeError:
                continue  # it changed meanwhile: by a finalizer, or there is no GIL

    def copy(self) -> dict[Any, Any]:
        """A plain dict of all there is now; `dict(d)` would look up one key after the other."""
        return dict(self._listed(dict.items))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._listed(dict.keys))

    def __reversed__(self) -> Iterator[Any]:
        backwards: Iterator[Any] = reversed(self._listed(dict.keys))
        return backwards

    def keys(self) -> KeysView[Any]:  # type: ignore[override]
        """The keys there are now."""
        return self.copy().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """The values there are now."""
        return self.copy().values()

    def items(self) -> ItemsView[Any, Any]:  # type: ignore[override]
        """The items there are now."""
        return self.copy().items()

    def __or__(self, other: Any) -> dict[Any, Any]:
        return self.copy() | _copied(other) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> dict[Any, Any]:
        return other | self.copy() if isinstance(other, dict) else NotImplemented

    def __ior__(self, other: Any) -> Self:
        dict.update(self, _copied(other))
        return self


def _copied(other: Any) -> Any:
    return other.copy() if isinstance(other, Dict) else other


class List(list):  # type: ignore[type-arg]
    """A list with `lock` and `update(fn)`; iteration is over a snapshot."""

    __slots__ = ("__weakref__", "lock")

    def __init__(self, iterable: Iterable[Any] = (), /) -> None:
        self.lock = threading.RLock()
        """For several operations in a row; `update` holds it."""
        list.__init__(self, iterable)

    def update(self, fn: Callable[[list[Any]], Any]) -> list[Any]:
        """Make `fn(list)` the content, and return it.

        `fn` gets a copy, and may as well change that and return None; it runs here, once, under
        `lock`.  If it raises, the content stays as it is.
        """
        with self.lock:
            content = list.copy(self)
            result = fn(content)
            content = content if result is None else list(result)
            list.__setitem__(self, slice(None), content)
        return content

    def __iter__(self) -> Iterator[Any]:
        return iter(list.copy(self))

    def __reversed__(self) -> Iterator[Any]:
        backwards: Iterator[Any] = reversed(list.copy(self))
        return backwards
