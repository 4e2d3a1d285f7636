"""Frozen records, as `dataclass(frozen=True, slots=True)` makes them, for a fifth of the time.

A program that runs one call and ends should not wait for `dataclasses`, which imports `inspect`
and compiles five functions for each class: 15 ms here, a third of the time to a first result.
What a record has it has from one base class, so a new one costs as much as a plain class.

    @record
    class Point:
        x: int
        y: int = 0
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, TypeVar, dataclass_transform

    R = TypeVar("R")
    T = TypeVar("T")
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


__all__ = ["record", "replace"]


class _Record:
    __slots__: tuple[str, ...] = ()
    _defaults: ClassVar[dict[str, Any]] = {}
    _stores: ClassVar[tuple[Any, ...]] = ()  # of each slot, past `__setattr__`

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = self.__slots__
        if len(args) == len(names) and not kwargs:  # the usual way, in a third of the time
            for store, value in zip(self._stores, args, strict=True):
                store(self, value)
            self.__post_init__()
            return
        given = dict(zip(names, args, strict=False))
        values = self._defaults | given | kwargs
        if len(values) != len(names) or len(args) > len(names) or given.keys() & kwargs.keys():
            raise TypeError(_mistake(type(self), args, kwargs))
        for name in names:
            if name not in values:
                raise TypeError(_mistake(type(self), args, kwargs))
            object.__setattr__(self, name, values[name])
        self.__post_init__()

    def __post_init__(self) -> None:
        """Refuse values that cannot be, as in a dataclass."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot assign to {name!r} of a {type(self).__name__}; make another")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete {name!r} of a {type(self).__name__}; make another")

    def __eq__(self, other: object) -> bool:
        return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(_values(self))

    def __repr__(self) -> str:
        shown = [f"{name}={getattr(self, name)!r}" for name in self.__slots__]
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), _values(self)

    def __replace__(self, **changes: object) -> Any:  # what `copy.replace` calls
        values = [
            changes.pop(name) if name in changes else getattr(self, name) for name in self.__slots__
        ]
        return type(self)(*values, **changes)


def _values(item: Any) -> tuple[Any, ...]:
    return tuple([getattr(item, name) for name in item.__slots__])


def _mistake(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    names: tuple[str, ...] = cls.__slots__  # type: ignore[attr-defined]
    needed = [name for name in names[len(args) :] if name not in cls._defaults]  # type: ignore[attr-defined]
    missing = [name for name in needed if name not in kwargs]
    unknown = [name for name in kwargs if name not in names[len(args) :]]
    if missing:
        return f"{cls.__name__}() lacks {', '.join(missing)}; give it"
    if unknown:
        return f"{cls.__name__}() got {', '.join(unknown)} twice or for nothing; leave it out"
    return f"{cls.__name__}() takes {len(names)} values, not {len(args)}; leave some out"


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Make a frozen record of a class whose annotations are its fields."""
    names = tuple(cls.__annotations__)
    space = {key: value for key, value in cls.__dict__.items() if key not in names}
    for key in ("__dict__", "__weakref__"):
        space.pop(key, None)
    space["_defaults"] = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
    space["__slots__"] = space["__match_args__"] = names
    made: Any = type(cls.__name__, (_Record, *cls.__bases__), space)
    made._stores = tuple([made.__dict__[name].__set__ for name in names])
    return made  # type: ignore[no-any-return]


def replace(item: R, **changes: Any) -> R:
    """A copy with other values."""
    made: R = item.__replace__(**changes)  # type: ignore[attr-defined]
    return made
