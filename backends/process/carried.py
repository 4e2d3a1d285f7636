"""How what comes with a call (`unirun._carried`) gets into what its worker is told.

Calls that come with the same share one profile, so that the worker is told once.
"""

from __future__ import annotations

from unirun import _context
from unirun._carried import carry
from unirun._deferral import imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .future import Profile

__all__ = ["accompany"]


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
