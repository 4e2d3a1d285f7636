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

    from .future import Profile

    Carried: TypeAlias = tuple[bytes | None, bytes | None, int | None, int | None]

__all__ = ["Carried", "accompany", "carry", "is_bare"]


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


def accompany(profile: Profile, future: Any) -> Profile:
    """That profile with what comes with this call; the same one for the next call with the same."""
    carried, handles = carry(profile.options)
    if carried is None:
        return profile
    if carried[3] is not None and (task := _context.current_task()) is not None:
        task.hand_down(imported("unirun._heirs").Heir(future))
    last = profile.twin
    if last is not None and last.carried == carried and not handles:
        return last
    made = profile.carrying(carried, handles)
    if not handles:  # which are to be let go with the call
        profile.twin = made
    return made  # not what `twin` is now: other threads submit with what is in their contexts
