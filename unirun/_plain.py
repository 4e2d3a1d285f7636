"""Plain data: what is the same in another process once it was copied there."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["CHANGES", "FIXED", "FOREIGN", "kind_alone", "kind_of"]

FIXED, CHANGES, FOREIGN = range(3)
"""A value that cannot change; plain data that can; anything else."""

_ATOMS = {type(None), bool, int, float, complex, str, bytes, range, type(...), type(NotImplemented)}
_FIXED_CLASSES = {
    *(
        "datetime.date",
        "datetime.datetime",
        "datetime.time",
        "datetime.timedelta",
        "datetime.timezone",
    ),
    *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "re.Pattern", "pathlib.PosixPath"),
    *("pathlib.PurePosixPath", "pathlib._local.PosixPath", "pathlib.WindowsPath"),
    *("pathlib._local.PurePosixPath", "numpy.float64", "numpy.float32", "numpy.int64"),
    *("numpy.int32", "numpy.bool_", "numpy.bool", "_struct.Struct"),
}
_MOST_CONTAINERS = 2000
_CONTAINERS: dict[type, int] = {
    list: CHANGES,
    set: CHANGES,
    dict: CHANGES,
    tuple: FIXED,
    frozenset: FIXED,
}


def kind_of(value: Any) -> int:
    """FIXED, CHANGES or FOREIGN; all that is in it is looked at."""
    if type(value) in _ATOMS:
        return FIXED
    worst, seen = FIXED, 0
    waiting = [value]
    while waiting:
        each = waiting.pop()
        seen += 1
        kind = kind_alone(each)
        if kind == FOREIGN or seen > _MOST_CONTAINERS:
            return FOREIGN
        worst = max(worst, kind)
        waiting += _members(each)
    return worst


def kind_alone(value: Any) -> int:
    """The same, whatever is in it."""
    cls = type(value)
    if cls in _ATOMS:
        return FIXED
    if cls in _CONTAINERS:
        return _CONTAINERS[cls]
    name = f"{cls.__module__}.{cls.__qualname__}"
    if name in _FIXED_CLASSES or _is_enum(cls):
        return FIXED
    if cls is bytearray or (name == "numpy.ndarray" and not value.dtype.hasobject):
        return CHANGES
    return FOREIGN


def _is_enum(cls: type) -> bool:
    enum = sys.modules.get("enum")
    return enum is not None and isinstance(cls, enum.EnumMeta)


def _members(value: Any) -> Iterator[Any]:
    """What is in a container and not an atom."""
    cls = type(value)
    if cls not in _CONTAINERS:
        return
    for part in (value.keys(), value.values()) if cls is dict else (value,):
        if not _ATOMS.issuperset(map(type, part)):
            yield from (each for each in part if type(each) not in _ATOMS)
