"""Hangs that nobody would be told of: workers that wait for one another, or that never start.

What a worker waits for without a time-out it notes in the memory it shares with us (`control`), so
there is nothing to ask it.  Runs as an alarm of the loop, which is there anyway.
"""

from __future__ import annotations

import os
import time
from functools import partial
from itertools import dropwhile
from typing import TYPE_CHECKING, Any

from unirun import _dump_hangs, _dump_signal, _hangs
from unirun._dump_hangs import calls_wait
from unirun._dump_objects import pid_of_owner
from unirun._hangs import CALL

from . import remains
from .report import awaited_by, objects_of, wait_of

if TYPE_CHECKING:
    from typing import TypeAlias

    from .backend import ProcessBackend
    from .future import ProcessFuture
    from .peer import Peer
    from .state import PoolState

    Told: TypeAlias = tuple[int | None, str, int | str]
    """Worker, the call it runs, and what that waits for: an object's id, or in words."""

SLOW_START = 6
"""A worker that has not started is told of after so many times `hang_warning`."""
RARELY = 5.0
"""Seconds between two looks, at most."""


class Hangs:
    """With the role, but for `_tell`."""

    def __init__(self, backend: ProcessBackend) -> None:
        self._backend = backend
        self._pool = backend._pool
        self._state = backend._state
        self._told: set[tuple[tuple[int, int], ...]] = set()  # stand-stills that were told of
        self._slow: set[int] = set()  # workers whose slow start was told of

    def look(self) -> None:
        """Now and then, as long as the loop lives."""
        after = _hangs.warn_after
        if after is not None and (waiting := self._waiting()):
            self._look_for_standstill(after, waiting)
            self._look_for_slow_starts(after * SLOW_START, len(waiting))
        if after is not None and self._state.running > 1:
            self._look_for_circles(after)
        rest = RARELY if after is None else after if not self._state.running else after / 2
        self._pool._alarms.after(min(max(rest, 0.05), RARELY), self.look)

    def _waiting(self) -> list[ProcessFuture]:
        """Calls that nobody has begun; some have been sent, and wait behind another."""
        state, calls = self._state, []
        for peer in self._pool._crew.peers.values():
            calls += [call for call in state.held(peer.number) if call._index > peer.at]
        return [*calls, *state._waiting]

    def _look_for_standstill(self, after: float, waiting: list[ProcessFuture]) -> None:
        busy = [peer for peer in self._pool._crew.peers.values() if self._state.held(peer.number)]
        if len(busy) < self._state.size:
            return
        waits = [(peer, *wait_of(peer)) for peer in busy]
        if not all(what and lasted >= after for _, what, lasted in waits):
            return
        if any(what & CALL and self._acts(peer, what) not in busy for peer, what, _ in waits):
            return  # somebody else sees to that
        key = tuple(sorted((peer.number, what) for peer, what, _ in waits))
        if key not in self._told:
            self._told.add(key)
            names = [future.name for future in waiting[:100]]
            told = [(peer.pid, _call(self._state, peer), self._wait(peer)) for peer in busy]
            self._aside(partial(self._tell, told, names, len(waiting)))

    def _look_for_circles(self, after: float) -> None:
        """Of tasks that wait for calls they have submitted, and for locks."""
        for peer in self._pool._crew.peers.values():
            circle: list[Peer] = []
            ahead: Peer | None = peer
            while ahead is not None and ahead not in circle:
                circle.append(ahead)
                what, lasted = wait_of(ahead)
                ahead = self._acts(ahead, what) if what and lasted >= after else None
            key = tuple(sorted((each.number, wait_of(each)[0]) for each in circle))
            if ahead is peer and len(circle) > 1 and key not in self._told:
                self._told.add(key)
                told = [(each.pid, _call(self._state, each), self._wait(each)) for each in circle]
                self._aside(partial(self._tell_of_circle, told))

    def _acts(self, peer: Peer, what: int) -> Peer | None:
        """The worker that alone can end that wait, if it is known."""
        if what & CALL:
            call = awaited_by(self._pool, peer, what)
            return None if call is None else self._pool.holder(call)
        place: Any = self._backend._place
        pid = None if place is None else pid_of_owner(place._manager, what)
        peers = self._pool._crew.peers.values()
        return next((each for each in peers if pid is not None and each.pid == pid), None)

    def _wait(self, peer: Peer) -> int | str:
        what = wait_of(peer)[0]
        call = awaited_by(self._pool, peer, what)
        return what if call is None else f"call {call.name}"

    def _look_for_slow_starts(self, after: float, waiting: int) -> None:
        now = time.monotonic()
        for peer in self._pool._crew.peers.values():
            slow = self._state.is_starting(peer.number) and now - peer.idle_since >= after
            if slow and peer.number not in self._slow:
                self._slow.add(peer.number)
                self._aside(partial(self._tell_of_start, peer.pid, after, waiting))

    def _aside(self, do: Any) -> None:
        """Without the role: a warning may call anything, and to ask for stacks takes a moment."""
        self._pool.callbacks.run(do)

    def _tell(self, told: list[Told], names: list[str], waiting: int) -> None:
        """Without the role."""
        doing, stacks = self._doing(told)
        _hangs.warn(_dump_hangs.warning_about(self._backend, doing, names, waiting, stacks))

    def _tell_of_circle(self, told: list[Told]) -> None:
        """Likewise."""
        doing, stacks = self._doing(told)
        text = (
            f"tasks wait for one another, and none of them can go on: {'; '.join(doing)}; "
            "kill one of them, and release what a task holds before it waits for a call"
        )
        _hangs.warn("\n".join([text, *stacks]))

    def _doing(self, told: list[Told]) -> tuple[list[str], list[str]]:
        """What each waits for, and the first stacks."""
        lines = objects_of(self._backend)
        known = [line.partition(":")[0] for line in lines if line[:1] != " "]
        doing = []
        for pid, call, what in told:
            if isinstance(what, int):
                end = f"#{what & 0xFFFFF:x}"
                name = next((each for each in known if each.endswith(end)), f"shared object {end}")
            else:
                name = what
            doing.append(f"{call} in pid {pid} waits for {name}")
        pids = [pid for pid, _, _ in told[: _dump_hangs.NAMED] if pid is not None]
        return doing, _stacks(pids)

    def _tell_of_start(self, pid: int | None, after: float, waiting: int) -> None:
        """Likewise."""
        if pid is None:
            why, stacks = "it was not made at all: what makes workers does not answer", []
        else:
            why, stacks = "its initializer or its preload hangs, or is slow", _stacks([pid])
        who = "a worker" if pid is None else f"worker {pid}"
        text = (
            f"{who} of executor {self._backend.spec.name!r} has not started within {after:g} s, "
            f"while {calls_wait(waiting)}: {why}; if it takes so long rightly, raise hang_warning"
        )
        _hangs.warn("\n".join([text, *stacks]))


def _call(state: PoolState, peer: Peer) -> str:
    held = state.held(peer.number)
    return f"call {held[0].name}" if held else "a call"


def _stacks(pids: list[int]) -> list[str]:
    """Of each worker, where its task is."""
    told = []
    for pid, answer in _dump_signal.ask_all(pids).items():
        main = answer.partition("\n\n")[0]
        told += [f"worker {pid}:", *_of_the_task(main.splitlines())]
    return told


def _root_of(lines: list[str]) -> int | None:
    """Where the frames begin that have called the task."""
    return next((at for at, line in enumerate(lines) if f'"{remains.WORKER}"' in line), None)


def _of_the_task(lines: list[str]) -> list[str]:
    """Neither how it waits, nor who called it."""
    lines = lines[1 : _root_of(lines)]
    of_the_user = dropwhile(lambda line: f'File "{_OURS}{os.sep}' in line, lines)
    return [*of_the_user][: _dump_hangs.SHOWN] or lines


_OURS = os.path.dirname(_hangs.__file__)
