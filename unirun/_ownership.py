"""What the tasks in this process have acquired, and what needs them: what is settled at their end.

A shared lock is owned by a thread and the task that runs in it.  Each thread keeps a list of what
its tasks have acquired and not released; the manager is told of what is left in it when a task
ends, and knows whether that is still its own.  Tasks are told apart by their context, not by their
thread: those of an event loop share a thread, and a call that waits may run another one in its own.

Light: a worker imports this with its first shared lock or barrier, and not before.
"""

from __future__ import annotations

import os
import threading

from unirun import _channel, _context
from unirun._context import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from unirun._context import TaskContext, Unasked

    Task: TypeAlias = TaskContext | Unasked

END_TASK = "end_task"
"""An operation on a manager itself: (task, ((object, how often acquired), ...))."""


class _OfThread(threading.local):
    """What a thread knows of itself; what is not there yet is None."""

    held: list[tuple[Any, Task]] | None = None
    """Each lock as often as a task has acquired it, and the task."""
    needed: dict[Task, dict[Any, None]] | None = None
    """The barriers that have been told that the task needs them."""
    forfeited: dict[Any, int] | None = None
    """How often a lock will be released by code that has lost it."""
    who: tuple[Task | None, int, str] | None = None
    """Who this is, for people; the task and the process in which that is true."""


_mine = _OfThread()

any_forfeited = False
"""Whether any thread of this process has ever lost a lock so; looked at before each release."""


def acquired(lock: Any) -> None:
    """This thread has acquired that lock."""
    task = running.get()
    if task is not None:
        held = _mine.held
        if held is None:
            held = _mine.held = []
            _context.when_task_ends(_task_ended)
        elif held and not lock.reentrant:
            _drop(held, lock)  # somebody else has released it for us
        held.append((lock, task))
    if any_forfeited and _mine.forfeited:
        _mine.forfeited.pop(lock, None)


def released(lock: Any) -> None:
    """This thread has released that lock, once."""
    held = _mine.held
    if held:
        _drop(held, lock)


def _drop(held: list[tuple[Any, Task]], lock: Any) -> None:
    for index in range(len(held) - 1, -1, -1):
        if held[index][0] is lock:
            del held[index]
            return


def forfeit(lock: Any, depth: int) -> None:
    """A wait on a condition has ended without that lock; its `with` will release it so often."""
    global any_forfeited
    for _ in range(depth):
        released(lock)
    if depth:
        any_forfeited = True
        _mine.forfeited = {**(_mine.forfeited or {}), lock: depth}


def is_forfeited(lock: Any) -> bool:
    """Whether a release of that lock, by this thread and now, has nothing to release."""
    forfeited = _mine.forfeited
    if not forfeited or lock not in forfeited:
        return False
    forfeited[lock] -= 1
    if not forfeited[lock]:
        del forfeited[lock]
    return True


def needs_saying(barrier: Any) -> bool:
    """Whether that barrier is to be told that the task that runs here is a party.

    Of tasks in workers only, whose death is the end of the connection of their thread.
    """
    task = running.get()
    if task is None or not _is_worker() or _channel.is_busy(barrier._address):
        return False  # in a signal handler the connection is another one, and ends with it
    if _mine.needed is None:
        _mine.needed = {}
        _context.when_task_ends(_task_ended)
    barriers = _mine.needed.setdefault(task, {})
    if barrier in barriers:
        return False
    barriers[barrier] = None
    return True


def _is_worker() -> bool:
    """Whether this is the thread of a worker; others of its process may end before the task."""
    return _context.in_worker_process and threading.current_thread() is threading.main_thread()


def who() -> str:
    """The task, thread and process that this is, for people."""
    task, pid, known = running.get(), os.getpid(), _mine.who
    if known is None or known[0] is not task or known[1] != pid:
        text = f"thread {threading.current_thread().name!r} of process {pid}"
        if task is not None:
            text = f"task {_name(task)!r} ({text})"
            _context.when_task_ends(_task_ended)  # which forgets the task
        known = _mine.who = (task, pid, text)
    return known[2]


def standing() -> tuple[int, int]:
    """What can do nothing else while this thread waits: as `_crowding` knows the workers."""
    return os.getpid(), 0 if _context.in_worker_process else threading.get_ident()


def _task_ended(task: Task) -> None:
    """The body of that task has ended, in this thread; its outcome is not known to anybody yet."""
    held, needed = _mine.held, _mine.needed
    if needed and task in needed:
        for barrier in needed.pop(task):
            _channel.tell(barrier._address, "unneed", barrier._object_id)
    if held:
        left = [lock for lock, owner in held if owner is task]
        if left:
            held[:] = [entry for entry in held if entry[1] is not task]
            _release(_name(task), left)
    if _mine.who is not None and _mine.who[0] is task:
        _mine.who = None


def _release(task: str, locks: list[Any]) -> None:
    by_address: dict[Any, dict[Any, int]] = {}
    for lock in locks:
        times = by_address.setdefault(lock._address, {})
        times[lock] = times.get(lock, 0) + 1
    for address, times in by_address.items():
        home = next(iter(times))._home
        acquired = tuple((lock._object_id, number) for lock, number in times.items())
        try:
            if home is not None and home.is_home:
                home.end_task(task, acquired)
            else:
                _channel.request(address, END_TASK, 0, (task, acquired), None)
        except ConnectionError:
            continue  # ManagerLost: there are no locks any more


def _name(task: Task) -> str:
    return task.name if isinstance(task, _context.TaskContext) else task.context().name
