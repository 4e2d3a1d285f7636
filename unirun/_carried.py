"""What comes with a call besides its function and arguments, and is not the same for all.

    carried = (config() blocks, context variables, seed, id of the call that submits)

Or None, as for most calls: where `is_bare` says that there is nothing, nothing is looked at.
"""

from __future__ import annotations

from contextvars import copy_context

from unirun import _context
from unirun._deferral import imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from unirun.backend import CallOptions

    Carried: TypeAlias = tuple[bytes | None, bytes | None, int | None, int | None]

__all__ = ["Carried", "carry", "is_bare"]


_NOTHING = (None, None, None, None)
_NONE: list[Any] = []


def is_bare(options: CallOptions) -> bool:
    """Whether nothing but its settings comes with a call that is submitted here and now.

    There is no variable in this context, but perhaps that of the current executor.
    """
    return options.seed is None and len(copy_context()) == (_context.executor.get() is not None)


def carry(options: CallOptions) -> tuple[Carried | None, list[Any]]:
    """What comes with a call, and the handles to be kept until it has arrived.

    Raises ContextWarning where a filter turns that into an error.
    """
    task, variables, handles = _context.current_task(), None, _NONE
    if options.context:
        variables, handles = imported("unirun._variables").travelling()
    found = options.settings, variables, options.seed, None if task is None else task.id
    return (None if found == _NOTHING else found), handles
