"""cloudpickle as it is used here: it knows context variables, too.

Importing this takes 30 ms, and most programs never need it.
"""

from __future__ import annotations

from collections import ChainMap
from contextvars import ContextVar
from io import BytesIO

import cloudpickle

from unirun._variables import reduce

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

__all__ = ["Pickler", "dumps"]


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """That of cloudpickle, which goes by this table before it does anything else."""

    dispatch_table: ClassVar[Any] = ChainMap(
        {ContextVar: reduce}, cloudpickle.Pickler.dispatch_table
    )


def dumps(obj: Any, protocol: int, buffer_callback: Callable[[Any], Any] | None = None) -> bytes:
    """`obj` pickled, functions and classes of `__main__` by value."""
    with BytesIO() as file:
        Pickler(file, protocol, buffer_callback).dump(obj)
        return file.getvalue()
