"""Timer and Activity as the package has them: made without an executor, they find the current."""

from __future__ import annotations

from unirun._activity import Activity
from unirun._executor import current_executor
from unirun._lasting import Lasting
from unirun._timer import Timer

__all__ = ["Activity", "Timer"]

Lasting.current_executor = staticmethod(current_executor)  # they stand below it
