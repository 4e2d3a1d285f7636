"""The shared objects of one host, for a dump: who holds each, who waits for it.

Read where they are, in the coordinator or in their cells, and changing nothing: what is said of an
object in a cell was true for each word of it, perhaps not for all of them at once.
"""

from __future__ import annotations

import socket
import struct
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from unirun._dump_records import copied, held_for_a_moment
from unirun._hangs import Wait

if TYPE_CHECKING:
    from unirun._cell_host import CelledCoordinator
    from unirun.coordinator import Request, SharedObject

__all__ = ["objects_of", "owner_of", "pid_of_owner", "wait_for_object", "who_is"]

MOST = 100
"""Objects that are told of; those with somebody who waits come first."""
_COUNT = (1 << 32) - 1


def objects_of(coordinator: CelledCoordinator, lock: Any) -> list[str]:
    """A line for each object, and one for each request that waits for it."""
    return held_for_a_moment(lock, lambda: _lines(coordinator))


def owner_of(coordinator: CelledCoordinator, object_id: int) -> Any:
    """The session that holds that lock; None if nobody does."""
    subject = coordinator.subject(object_id)
    return None if subject is None else _holder(coordinator, subject)[0]


def pid_of_owner(manager: Any, object_id: int) -> int | None:
    """The process that holds that lock, as a manager in this process knows."""
    host = getattr(manager, "_host", None)
    return None if host is None else pid_of(owner_of(host._coordinator, object_id))


def wait_for_object(coordinator: CelledCoordinator, object_id: int) -> Wait:
    """The wait of a thread of this process for that object, which has lasted."""
    return Wait("", coordinator.subject(object_id), partial(_owning_thread, coordinator))


def _owning_thread(coordinator: CelledCoordinator, subject: Any) -> int | None:
    if not hasattr(subject, "_depth"):
        return None
    ident = getattr(_holder(coordinator, subject)[0], "ident", None)
    # Of itself nobody is sure to wait in vain: another thread may release a lock that is no RLock.
    return None if ident == threading.get_ident() else ident


def _lines(coordinator: CelledCoordinator) -> list[str]:
    waiting: dict[SharedObject, list[Request]] = {}
    for requests in copied(coordinator._registered.values()):
        for request in copied(requests.values()):
            if request.state == "open":
                waiting.setdefault(request.subject, []).append(request)
    subjects = copied(coordinator._objects.values())
    subjects.sort(key=lambda each: (each not in waiting, each.object_id))
    lines = []
    for subject in subjects[:MOST]:
        lines.append(f"{subject.name}: {_state(coordinator, subject)}")
        lines += [f"  waited for by {_who(request)}" for request in waiting.get(subject, ())]
    if len(subjects) > MOST:
        lines.append(f"... and {len(subjects) - MOST} more, for which nobody waits here")
    return lines


def _who(request: Request) -> str:
    limit = "" if request.deadline is None else ", with a time-out"
    return f"{request.who or who_is(request.session)}{limit}"


def who_is(session: Any) -> str:
    """A session for people: a thread of this process, or the process at the other end."""
    ident = getattr(session, "ident", None)
    if ident is not None:
        thread = threading._active.get(ident)  # type: ignore[attr-defined]  # without its lock
        return f"thread {'of this process' if thread is None else repr(thread.name)}"
    pid = pid_of(session)
    return "another process" if pid is None else f"pid {pid}"


def pid_of(session: Any) -> int | None:
    """Of the process that made that connection, as the system says."""
    sock = getattr(session, "socket", None)
    option = getattr(socket, "SO_PEERCRED", None)
    if sock is None or option is None or sock.family == socket.AF_INET:
        return None
    try:
        return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, option, 12))[0])
    except OSError:
        return None  # it is closed


def _holder(coordinator: CelledCoordinator, subject: Any) -> tuple[Any, int, bool]:
    """Session, depth, and whether it is abandoned."""
    place = coordinator._places.get(subject)
    if place is None or subject in coordinator._here or not hasattr(subject, "_depth"):
        depth = getattr(subject, "_depth", 0)
        return subject.owner if depth else None, depth, getattr(subject, "_abandoned", False)
    seat, depth, abandoned = place.cell.read()
    return coordinator._sitting.get(seat) if depth else None, depth, abandoned


def _state(coordinator: CelledCoordinator, subject: Any) -> str:
    place = None if subject in coordinator._here else coordinator._places.get(subject)
    if hasattr(subject, "_depth"):
        owner, depth, abandoned = _holder(coordinator, subject)
        held = f"held by {who_is(owner)}" if depth else "free"
        often = f" ({depth} times)" if depth > 1 else ""
        return held + often + (", abandoned by one who died" if abandoned else "")
    if hasattr(subject, "_items"):
        if place is None:
            size = len(subject._items)
        else:
            words, at = place.cell._words, place.cell._at
            size = ((words[at] >> 32) - (words[at + 1] >> 32)) & _COUNT
        return f"{size} items"
    if hasattr(subject, "parties"):
        here = "" if place is not None else f", {len(subject.standing)} of them here"
        return f"{subject.parties} parties{here}"
    if hasattr(subject, "_is_set"):
        is_set = subject._is_set if place is None else place.cell.read()[0]
        return "set" if is_set else "not set"
    if isinstance(getattr(subject, "_value", None), int):
        return f"{subject._value} permits left"
    return "in use"
