"""Handles on lists that live in a manager; `_shared_values` says what holds for their contents.

Each item is kept by itself: to get, set or append one moves no other.  What has to compare items
(`in`, `index`, `count`, `remove`, `sort`, `==`) is done here, on a copy.  `remove` and `sort` then
take effect only if the list is as it was; if not, they look again.
"""

from __future__ import annotations

import operator
from collections.abc import MutableSequence

from unirun._shared_values import SharedContent, packed, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Self

    from unirun._handles import SharedObject


class SharedList(SharedContent):
    """`list` among processes.

    Iteration is over a snapshot, taken when it begins: what is changed meanwhile is not seen.
    `l[i] += 1` is two operations, as for a list of threads; `update` makes one of them.
    """

    __slots__ = ()
    __hash__: None = None  # type: ignore[assignment]

    kind = "List"

    @classmethod
    def make(cls, manager: Any, iterable: Iterable[Any] = (), /) -> SharedObject:
        contents = tuple(map(packed, iterable))
        made: SharedList = cls.make_empty(manager)
        if contents:
            made._call("extend", contents)
        return made

    def __getitem__(self, index: Any) -> Any:
        found = self._call("get", _index(index))
        return list(map(unpacked, found)) if isinstance(index, slice) else unpacked(found)

    def __setitem__(self, index: Any, value: Any) -> None:
        place = _index(index)
        if not isinstance(index, slice):
            self._call("set", place, packed(value))
            return
        values: list[Any] = []
        values[:] = value  # says what is wrong as the original does
        self._call("set", place, tuple(map(packed, values)))

    def __delitem__(self, index: Any) -> None:
        self._call("delete", _index(index))

    def insert(self, index: Any, value: Any) -> None:
        """Insert `value` before that index."""
        self._call("insert", _position(index), packed(value))

    def append(self, value: Any) -> None:
        """Add `value` at the end."""
        self._call("append", packed(value))

    def extend(self, iterable: Iterable[Any]) -> None:
        """Add each value at the end, all in one step."""
        self._call("extend", tuple(map(packed, iterable)))

    def pop(self, index: Any = -1) -> Any:
        """Remove and return the item at that index; IndexError if there is none."""
        return unpacked(self._call("pop", _position(index)))

    def remove(self, value: Any) -> None:
        """Remove the first item that equals `value`; ValueError if there is none."""
        removed = False
        while not removed:
            version, items = self._items()
            try:
                index = items.index(value)
            except ValueError:
                raise ValueError("list.remove(x): x not in list") from None
            removed = self._call("delete", index, version)

    def clear(self) -> None:
        """Remove every item."""
        self._call("replace", ())

    def reverse(self) -> None:
        """Reverse the order of the items."""
        self._call("reverse")

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        """Sort as `list.sort` does; only the new order travels.

        `key` is called again for each item if another process changed the list meanwhile.
        """
        done = False
        while not done:
            version, items = self._items()
            keys = items if key is None else list(map(key, items))
            order = sorted(range(len(keys)), key=keys.__getitem__, reverse=reverse)
            done = self._call("reorder", order, version)

    def update(self, fn: Callable[[list[Any]], Any]) -> list[Any]:
        """Make `fn(list)` the content, and return it.

        `fn` gets a plain list, and may as well change that and return None; it runs here, once,
        under `lock`.  If it raises, or this process dies, the content stays as it is.
        """
        with self.lock:
            content = self.copy()
            result = fn(content)
            content = content if result is None else list(result)
            self._call("replace", tuple(map(packed, content)))
        return content

    def copy(self) -> list[Any]:
        """A plain list of all there is now."""
        return self._items()[1]

    def index(self, value: Any, *limits: Any) -> int:
        """The first index of what equals `value`; ValueError if there is none.

        `limits` are those of a slice to look in.
        """
        return self.copy().index(value, *limits)

    def count(self, value: Any) -> int:
        """How many items equal `value`."""
        return self.copy().count(value)

    def __contains__(self, value: object) -> bool:
        return value in self.copy()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.copy())

    def __reversed__(self) -> Iterator[Any]:
        backwards: Iterator[Any] = reversed(self.copy())
        return backwards

    def __len__(self) -> int:
        return int(self._call("size"))

    def __iadd__(self, other: Iterable[Any]) -> Self:  # type: ignore[misc]
        self.extend(other)
        return self

    def __imul__(self, number: Any) -> Self:
        number = operator.index(number)
        done = False
        while not done:
            version, contents = self._call("items")
            done = self._call("replace", list(contents) * number, version)
        return self

    def __add__(self, other: Any) -> list[Any]:
        other = _copied(other)
        return self.copy() + other if isinstance(other, list) else NotImplemented

    def __radd__(self, other: Any) -> list[Any]:
        return other + self.copy() if isinstance(other, list) else NotImplemented

    def __mul__(self, number: Any) -> list[Any]:
        return self.copy() * operator.index(number)

    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        other = _copied(other)
        return self.copy() == other if isinstance(other, list) else NotImplemented

    def __lt__(self, other: Any) -> bool:
        return self._compare(operator.lt, other)

    def __le__(self, other: Any) -> bool:
        return self._compare(operator.le, other)

    def __gt__(self, other: Any) -> bool:
        return self._compare(operator.gt, other)

    def __ge__(self, other: Any) -> bool:
        return self._compare(operator.ge, other)

    def __str__(self) -> str:
        return str(self.copy())

    def _compare(self, compare: Callable[[Any, Any], bool], other: Any) -> bool:
        other = _copied(other)
        return bool(compare(self.copy(), other)) if isinstance(other, list) else NotImplemented

    def _items(self) -> tuple[int, list[Any]]:
        """Which version of the list it is, and its items."""
        version, contents = self._call("items")
        return version, list(map(unpacked, contents))


MutableSequence.register(SharedList)


def _copied(other: Any) -> Any:
    return other.copy() if isinstance(other, SharedList) else other


def _index(index: Any) -> Any:
    """An index as it travels: an int, or the three parts of a slice."""
    if isinstance(index, slice):
        slice(index.start, index.stop, index.step).indices(0)  # says what is wrong with it
        return tuple(
            None if part is None else operator.index(part)
            for part in (index.start, index.stop, index.step)
        )
    try:
        return operator.index(index)
    except TypeError:
        kind = type(index).__name__
        raise TypeError(f"list indices must be integers or slices, not {kind}") from None


def _position(index: Any) -> int:
    """An index of `insert` and `pop`, which refuse what is too large for a list."""
    probe: list[None] = []
    probe.insert(index, None)
    return operator.index(index)
