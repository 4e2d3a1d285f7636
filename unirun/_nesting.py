"""An executor inside the tasks that it runs: how it is found there, and how it travels to them.

A worker process has no executor of its own by default.  What its tasks submit to the current
executor, or to one that was handed to them, goes home: to the pool of the process that made it.
So an executor travels as facts about it, and only in the calls of that process; a worker makes an
`Executor` of them whose process backend is the way home (`_context.home`).

An initializer has run in the workers of its executor.  In those of another one it comes along, for
threads and loops of that executor which are made there; calls for processes go home.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from _thread import get_ident
from importlib import import_module

from unirun import _context, _forks, _payload  # noqa: F401  # _forks: for its hook
from unirun._errors import SerializationError
from unirun._machine import cpu_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from unirun._executor import Executor

    Facts: TypeAlias = tuple[bytes, int, int, tuple[tuple[str, Any], ...], bool]
    """Key of the home, number of the executor there, its workers, how it was made, and whether it
    has an initializer."""

__all__ = ["arrive", "current", "enter", "expect_submits", "find", "reduce"]

_TRAVELS = ("kind", "backend", "max_workers")
"""What of its making matters to calls that tasks submit."""

# Guards the making of what is in the tables. Reentrant, since a __del__ may submit.
_lock = threading.RLock()
_key = b""  # of this process, as the home of its executors; made at first use
_numbers = itertools.count(1)
_executors: weakref.WeakValueDictionary[int, Executor] = weakref.WeakValueDictionary()
# In a worker, those that live at home, by number: one for each, so that it keeps its identity.
_guests: weakref.WeakValueDictionary[int, Executor] = weakref.WeakValueDictionary()


def enter(executor: Executor) -> Facts:
    """What workers of that executor, or tasks that it is handed to, are to know of it."""
    global _key
    if executor._facts is None:
        made_with = executor._chooser.made_with
        how = tuple((name, made_with[name]) for name in _TRAVELS if made_with.get(name) is not None)
        size = executor._chooser.max_workers(cpu_count())
        with _lock:
            _key = _key or os.urandom(16)
            if executor._facts is None:
                number = next(_numbers)
                _executors[number] = executor
                executor._facts = _key, number, size, how, executor._initializer[0] is not None
    return executor._facts


def find(number: int) -> Executor | None:
    """The executor of this process that has that number; None if it is gone."""
    return _executors.get(number)


def current(make: type[Executor]) -> Executor | None:
    """In a worker process: the executor that runs its tasks."""
    home = _context.home
    return None if home is None or home.facts is None else _guest(make, home.facts)


def reduce(executor: Executor, make: type[Executor]) -> tuple[Any, ...]:
    """For pickle, while a call is encoded: nobody else knows what an executor is."""
    if get_ident() not in _payload._notes:
        _payload.handles_exist = True  # so calls are encoded with care from now on, and this again
        raise TypeError(
            "an Executor cannot be pickled; hand it to a call as an argument, or use unirun.submit "
            "in there"
        )
    facts = enter(executor)
    return arrive, (make, facts, _setup_of(executor) if facts[4] else None)


def _setup_of(executor: Executor) -> bytes | str:
    """Its initializer, or why that cannot travel."""
    if executor._chooser.fixed == "process":
        return "the initializer is for processes"  # and so for nobody there
    if executor._initializer[0] is None:
        return "a task cannot hand on the initializer of its executor, for threads elsewhere"
    try:
        return _payload.dumps(executor._initializer, "the initializer of this executor")
    except SerializationError as exc:
        return f"{exc}; so its threads and its event loop cannot be in another process"


def arrive(make: type[Executor], facts: Facts, setup: bytes | str | None) -> Executor:
    """Where it was handed to."""
    if facts[0] == _key and (executor := find(facts[1])) is not None:
        return executor
    home = _context.home
    if home is None or home.facts is None or home.facts[0] != facts[0]:
        raise TypeError(
            "an Executor works only in the process that made it and in the tasks of its executors; "
            "make another one here, or use unirun.submit"
        )
    is_ours = home.facts[1] == facts[1]  # its initializer has run in this process
    return _guest(make, facts, None if is_ours else setup)


def _guest(make: type[Executor], facts: Facts, setup: bytes | str | None = None) -> Executor:
    with _lock:
        executor = _guests.get(facts[1])
        if executor is None or executor._closed:
            executor = make.__new__(make)
            executor._facts, executor._is_guest = facts, True
            before = {} if setup is None else {"initializer": _prepare, "initargs": (setup,)}
            executor.__init__(**dict(facts[3]), **before)  # type: ignore[misc]
            _guests[facts[1]] = executor
        return executor


def expect_submits() -> None:
    """Import what a task needs to submit a call: in a process whose forks will run such tasks."""
    import_module("unirun._executor")


def _prepare(setup: bytes | str) -> None:
    """The initializer of an executor that lives at home, in a thread or a loop here."""
    if isinstance(setup, str):
        raise TypeError(setup)
    initializer, initargs = _payload.loads(setup)
    initializer(*initargs)


def _forget_in_forked_child() -> None:
    global _lock, _key
    _lock, _key = threading.RLock(), b""  # another thread may have held it; this is another home
    _executors.clear()
    _guests.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)
