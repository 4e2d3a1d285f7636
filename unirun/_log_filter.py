"""Which call logs: for the format of log records, wherever calls run."""

from __future__ import annotations

import threading

from unirun import _context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["TaskFilter"]


class TaskFilter:
    """A filter of `logging` that gives every record `unirun_task` and `unirun_worker` (str).

    Records from worker processes have them anyway; this adds them to those of calls on threads, in
    event loops and inline, and gives all others "" and the name of their thread. So a format may
    use `%(unirun_task)s`. Add it to handlers: `handler.addFilter(unirun.TaskFilter())`.
    """

    def filter(self, record: Any) -> bool:
        """As `logging.Filter.filter`; lets every record through."""
        if not hasattr(record, "unirun_task"):
            call = _context.current_task()
            record.unirun_task = "" if call is None else call.name
            here = threading.current_thread().name
            record.unirun_worker = here if call is None else call.worker
        return True


TaskFilter.__module__ = "unirun"
