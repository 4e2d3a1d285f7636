"""What lasts beside the calls of an executor and looks like a thread: activities and timers.

Each is started once, has a name, can be joined, and is a daemon or not.  As with threads, the
interpreter does not end before those that are no daemons have; daemons end with it.  That happens
while executors still work, so whatever runs to its end may go on submitting calls.
"""

from __future__ import annotations

import itertools
import os
import threading
from abc import ABC, abstractmethod

from unirun import _context, _ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

    from unirun._submitter import Submitter

__all__ = ["Lasting", "drop", "keep"]

# Guards _lasting, and every `_started`: starting once is one step.  Reentrant, since a `__del__`
# run by a garbage collection in here may end one.
_lock = threading.RLock()
# Those that were started and have not ended, by id; each drops itself.
_lasting: dict[int, Lasting] = {}


class Lasting(ABC):
    """Name, daemon, and being started once.  Class attributes are the state of a new one."""

    current_executor: ClassVar[Callable[[], Any] | None] = None
    """How to find the executor of one that was made without; set by who knows executors."""

    _what: ClassVar[str]  # in messages
    _counter: ClassVar[itertools.count[int]]
    _ends_before_executors: ClassVar[bool] = False  # if it is a daemon

    _made: bool = False  # by `__init__`
    _name: str = ""
    _daemon: bool = False
    _started: bool = False
    _submitter: Submitter | None = None  # None: the executor that is current when it starts

    def __init__(self, name: str | None, daemon: bool | None) -> None:
        cls = type(self)
        self._made = True
        self._name = str(name) if name else f"{cls.__name__}-{next(cls._counter)}"
        self._daemon = _inherited() if daemon is None else bool(daemon)

    # -- what subclasses say ----------------------------------------------------------------------

    @abstractmethod
    def is_alive(self) -> bool:
        """Whether it was started and has not ended."""

    @abstractmethod
    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most `timeout` seconds."""

    @property
    @abstractmethod
    def ident(self) -> int | None:
        """A number while it is known; None before it was started."""

    @abstractmethod
    def _end_now(self) -> None:
        """The interpreter ends; nobody waits for it any more."""

    def _see_it_end(self) -> None:
        """Wait for that, if it takes a while."""
        return

    @abstractmethod
    def _stayed_in_parent(self) -> None:
        """This process is a fork of the one where it runs."""

    # -- as threads -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """For people; it need not be unique. Can be set."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = str(name)
        self._renamed()

    def _renamed(self) -> None:
        return

    @property
    def daemon(self) -> bool:
        """Whether the interpreter ends without waiting for it. Set it before `start()`.

        By default that of the thread that makes it; in a task, False.
        """
        return self._daemon

    @daemon.setter
    def daemon(self, daemon: bool) -> None:
        if self._started:
            raise RuntimeError(f"cannot set daemon status of {self._what} that was started")
        self._daemon = bool(daemon)

    def _claim_start(self) -> None:
        if not self._made:
            cls = type(self).__name__
            raise RuntimeError(f"{cls}.__init__() was not called; call super().__init__() in yours")
        with _lock:
            if self._started:
                raise RuntimeError(f"{self._what} can only be started once; make another")
            self._started = True

    def _check_joinable(self, *, inside: bool) -> None:
        if not self._started:
            raise RuntimeError(f"cannot join {self._what} before it is started; call start()")
        if inside:
            raise RuntimeError(f"cannot join {self._what} from inside; it would wait for itself")

    def _find_submitter(self) -> Any:
        if self._submitter is not None:
            return self._submitter
        assert Lasting.current_executor is not None, "unirun._current sets it"
        return Lasting.current_executor()

    def __repr__(self) -> str:
        state = "initial"
        if self._started:
            state = "started" if self.is_alive() else "stopped"
            state += " daemon" if self._daemon else ""
            state += "" if self.ident is None else f" {self.ident}"
        return f"<{type(self).__name__}({self._name}, {state})>"


def _inherited() -> bool:
    """Daemon or not: as the current thread, unless that is a worker's, which always is one."""
    return threading.current_thread().daemon and _context.current_task() is None


# -- the end of the interpreter -------------------------------------------------------------------


def keep(item: Lasting) -> None:
    """It has been started: see to it when the interpreter ends."""
    with _lock:
        _lasting[id(item)] = item
    _ending.around_exit(_finish, _end_daemons)


def drop(item: Lasting) -> None:
    """It has ended."""
    with _lock:
        _lasting.pop(id(item), None)


def _finish(interrupted: bool) -> None:
    """Before the executors end: wait for those that are no daemons, unless Ctrl-C is the end."""
    try:
        while not interrupted and (others := [each for each in _all() if not each.daemon]):
            for each in others:
                each.join()
    except KeyboardInterrupt:
        _end(_all())
        raise
    _end([each for each in _all() if interrupted or each._ends_before_executors])


def _end_daemons() -> None:
    _end(_all())


def _end(items: list[Lasting]) -> None:
    for each in items:
        each._end_now()
    for each in items:
        each._see_it_end()


def _all() -> list[Lasting]:
    with _lock:
        return list(_lasting.values())


def _forget_in_forked_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held it
    items = list(_lasting.values())
    _lasting.clear()
    for each in items:
        each._stayed_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)
