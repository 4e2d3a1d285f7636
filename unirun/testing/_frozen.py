"""An exception that is a frozen dataclass; apart, since workers should not import dataclasses."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FrozenError"]


@dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses every attribute once it is made, `__cause__` and the traceback included."""

    code: int
    reason: str
