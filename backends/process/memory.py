"""How much memory a worker uses, and when to look at it again.

What is counted is anonymous memory: what a process has allocated and touched.  Not counted is what
it shares: files that are mapped, libraries, shared memory such as the buffers through which
arguments and results travel, and the pages that it has in common with the process that forked it.

1. `at_most` is cheap and never too low: it counts common pages in full for each process.
2. `exactly` makes the kernel walk through the process's pages; it is asked only when the cheap
   figure is above the limit, so that nobody is condemned for what is not his.  It tells the pages
   in common apart; in a tree of several processes, those that the worker's parent cannot have
   brought along are the tree's own, and count once.
3. Where there is no /proc, psutil gives the resident size, and the unique one as the exact one.
4. Nobody tells at the instant when memory is used, so we look every so often: the nearer to the
   limit, the sooner.  A call that is quicker than that goes past its limit unseen.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

from unirun._errors import TaskMemoryExceeded

from . import system
from .limits import descendants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .alarms import Alarms
    from .future import ProcessFuture
    from .peer import Peer

__all__ = ["Watch", "at_most", "exactly", "look", "pause", "used"]

MIN_PAUSE, MAX_PAUSE = 0.005, 0.05
FILL_RATE = 4 << 30
"""Bytes per second; about as fast as one process can fill its memory."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_AREA = (  # a mapping that is private, so one that may have pages of its own
    rb"(?m)^[0-9a-f]+-[0-9a-f]+ ...p [^\n]*\n(?:[A-Z][^\n]*\n)*?"
    rb"Private_Clean: +(\d+) kB\nPrivate_Dirty: +(\d+) kB\n(?:[A-Z][^\n]*\n)*?Anonymous: +(\d+)"
)


def look(pid: int, limit: int) -> tuple[int, float]:
    """(what `used` says, seconds until the next look); takes a tenth of the time at most."""
    begun = time.monotonic()
    found = used(pid, limit)
    return found, max(pause(limit, found), 10 * (time.monotonic() - begun))


def used(pid: int, limit: int) -> int:
    """Bytes that the process and its descendants use; exact if that is more than `limit`."""
    tree = [pid, *descendants(pid)]
    found = sum(map(at_most, tree))
    return found if found <= limit else _used_by(tree)


def _used_by(tree: list[int]) -> int:
    figures = [exactly(pid) for pid in tree]
    private = sum(own for own, _ in figures)
    if len(tree) == 1:
        return private
    common = max(shared for _, shared in figures)
    return private + max(0, common - at_most(_parent(tree[0])))


def pause(limit: int, found: int = 0) -> float:
    """Seconds in which a process cannot get from what it uses to much more than `limit`."""
    return min(MAX_PAUSE, max(MIN_PAUSE, (limit - found) / FILL_RATE))


def at_most(pid: int) -> int:
    """Its anonymous memory, where pages in common with others are counted in full; 0: gone."""
    if "proc" not in system.HERE:
        return _by_psutil(pid, lambda process: process.memory_info().rss)
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = file.read().split()
    except OSError:
        return 0  # gone; or out of descriptors: we shall see later
    return (int(resident) - int(shared)) * _PAGE


def exactly(pid: int) -> tuple[int, int]:
    """Its anonymous memory: what is its own, and what it has in common with others."""
    if "proc" not in system.HERE:
        return _by_psutil(pid, lambda process: process.memory_full_info().uss), 0
    try:
        with open(f"/proc/{pid}/smaps", "rb") as file:
            areas = re.findall(_AREA, file.read())
    except OSError:
        return at_most(pid), 0  # gone, or it is not shown to us
    own = common = 0
    for clean, dirty, anonymous in areas:
        mine = min(int(anonymous), int(clean) + int(dirty))
        own += mine
        common += int(anonymous) - mine
    return own * 1024, common * 1024


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0  # gone; there is no process of that number


def _by_psutil(pid: int, ask: Callable[..., int]) -> int:
    import psutil

    try:
        return ask(psutil.Process(pid))
    except psutil.Error:
        return 0


# -- who is ended --------------------------------------------------------------------------------


class Watch:
    """Ends calls that use more than their `memory`, and tells which workers have grown too large.

    For who has the pool's role; the functions are the pool's.
    """

    def __init__(
        self,
        alarms: Alarms,
        max_worker_rss: int | None,
        holder: Callable[[ProcessFuture], Peer | None],
        read: Callable[[Peer], object],
        kill: Callable[[ProcessFuture, float, BaseException], None],
    ) -> None:
        self._alarms = alarms
        self._max_worker_rss = max_worker_rss
        self._holder = holder
        self._read = read
        self._kill = kill

    def has_grown(self, peer: Peer) -> bool:
        """Whether a worker that has just answered is to be replaced.

        One that was found to be within the limit, though it seemed not to be, is trusted for a
        while, unless it has grown by what it had left: this takes a tenth of the time at most, too.
        """
        limit, begun = self._max_worker_rss, time.monotonic()
        if limit is None or peer.pid is None:
            return False
        seems = at_most(peer.pid)
        if seems <= limit or (begun < peer.acquitted_until and seems <= peer.acquitted_below):
            return False
        found = exactly(peer.pid)[0]
        peer.acquitted_until = begun + 10 * (time.monotonic() - begun)
        peer.acquitted_below = seems + limit - found
        return found > limit

    def begin(self, future: ProcessFuture) -> None:
        """It was sent to a worker, where it runs alone."""
        if future.options.memory is not None:
            self._alarms.after(pause(future.options.memory), self._look, future)

    def _look(self, future: ProcessFuture) -> None:
        limit, peer = future.options.memory, self._holder(future)
        if limit is None or peer is None:
            return  # it has ended, or waits again: then it will be sent again
        found, seconds = (0, MIN_PAUSE) if peer.pid is None else look(peer.pid, limit)
        if peer.pid is None or found <= limit:
            self._alarms.after(seconds, self._look, future)
            return
        if peer.results >= 0:
            self._read(peer)  # an answer that has arrived wins
        if self._holder(future) is peer:
            error = TaskMemoryExceeded(future.name, peer.pid, limit=limit, used=found)
            self._kill(future, 0.0, error)  # no grace: it would take more in that time
