"""cloudpickle as it is used here: it knows context variables, too, and keeps names of files.

Importing this takes 30 ms, and most programs never need it.
"""

from __future__ import annotations

from collections import ChainMap
from contextvars import ContextVar
from io import BytesIO
from types import CodeType

import cloudpickle

from unirun._variables import reduce

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

__all__ = ["Pickler", "dumps"]


_AT = 10  # among the arguments of CodeType, from Python 3.11 on: the name of the file


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    """With the file that it is from, by which tracebacks and debuggers find its lines: cloudpickle
    3.1.3 leaves that out, for pickles that are the same wherever they are made."""
    make, args = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return make, (*args[:_AT], "".join(code.co_filename), *args[_AT + 1 :])


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """That of cloudpickle, which goes by this table before it does anything else."""

    dispatch_table: ClassVar[Any] = ChainMap(
        {ContextVar: reduce, CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table
    )


def dumps(obj: Any, protocol: int, buffer_callback: Callable[[Any], Any] | None = None) -> bytes:
    """`obj` pickled, functions and classes of `__main__` by value."""
    with BytesIO() as file:
        Pickler(file, protocol, buffer_callback).dump(obj)
        return file.getvalue()
