"""The worker processes of a pool: made, asked to leave, ended by force, and found dead.

Used by whoever holds the pool's role, like everything behind it.  A worker is gone when its
launcher says so: then its last words are read, then the pool is told.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable
from functools import partial

from . import launch, outcomes
from .control import SIZE, Control
from .exchange import Exchange, Side
from .limits import Doomed, is_alive, is_stopped
from .obituary import Coroner
from .peer import Peer, above_standard, make_pipe
from .system import make_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from unirun.backend import WorkerSpec

    from .alarms import Alarms
else:
    Protocol = object  # `typing` takes 3 ms to import

STOP_PATIENCE = 5.0
"""Seconds an idle worker may take to end when asked to, exit functions included."""
EOF_PATIENCE = 0.5
"""Seconds a worker may live on after it closed its pipe."""
SCARCITY_PATIENCE = 5.0
"""Seconds to go on trying where the system has no process, memory or descriptor to give."""
STANDSTILL_PATIENCE = 1.0
"""Seconds after which it is asked whether who does not come up, or does not go, is stopped."""
NEWS_PATIENCE = 5.0
"""Seconds to wait for a launcher to tell what must have happened."""


class Listener(Protocol):
    """What the crew tells the pool."""

    def read(self, peer: Peer) -> bool: ...
    def is_starting(self, peer: Peer) -> bool: ...
    def stopped_late(self, peer: Peer) -> None: ...
    def exited(self, peer: Peer, status: int | None) -> None: ...
    def cannot_start(self, failure: BaseException) -> None: ...
    def post(self, do: Callable[..., None], *args: Any) -> None: ...


class Crew:
    def __init__(
        self,
        spec: WorkerSpec,
        launcher: launch.Launcher,
        exchange: Exchange,
        selector: selectors.BaseSelector,
        alarms: Alarms,
        setup: Callable[[], bytes],
        pool: Listener,
    ) -> None:
        self.peers: dict[int, Peer] = {}
        self.failure: BaseException | None = None  # why the last worker could not be made
        self._spec = spec
        self._launcher = launcher
        self._exchange = exchange  # closed by `close`
        self._selector = selector
        self._alarms = alarms
        self._setup = setup
        self._pool = pool
        self._coroner = Coroner()
        self._scarce_since: float | None = None  # when starting began to fail, if it does
        self._newborn: tuple[int, ...] = ()  # our ends of the pipes of a worker being made
        self._lifeline, self._lifeline_held = make_pipe([])  # closed by `close`
        launcher.attach(
            lambda fd: selector.register(fd, selectors.EVENT_READ, self.news), selector.unregister
        )

    # -- beginning --------------------------------------------------------------------------------

    def start(self, number: int) -> None:
        fds: list[int] = []
        try:
            tasks, ours_tasks = make_pipe(fds)
            ours_results, results = make_pipe(fds)
            shared = above_standard(make_memory(SIZE))
            fds.append(shared)
            arguments = above_standard(os.dup(self._exchange.arena.fd))  # a fork closes ours
            fds.append(arguments)
            control = Control(shared)
            self._newborn = (ours_tasks, ours_results)
            tell = partial(self._pool.post, self._return_blocks, number)
            side = Side(self._exchange.arrays, tell)
            pipes = tasks, results, self._lifeline
            self._launcher.start(number, (*pipes, shared, arguments, side.fd))
        except Exception as exc:  # out of descriptors, of processes, of memory  # noqa: BLE001
            self._newborn = ()
            for fd in fds:
                os.close(fd)
            self._start_later(number, exc)
            return
        self._scarce_since = None
        peer = self.peers[number] = Peer(
            number, ours_tasks, ours_results, control, self._selector, side
        )
        self._coroner.expect(peer)
        self._newborn = ()
        for fd in (tasks, results, shared, arguments):
            os.close(fd)
        peer.be_watched()
        peer.listen(lambda: self._pool.read(peer))
        peer.follows = self._spec.logs
        peer.write(self._setup())
        self._alarms.after(STANDSTILL_PATIENCE, self._watch_birth, peer)
        self._pool.post(self.news)  # what the launcher knows already

    def _watch_birth(self, peer: Peer) -> None:
        """A worker that somebody stopped, or whose zygote, will never come up: try another.

        One that only takes its time is waited for.
        """
        unheard_of = peer.told_pid is None and not peer.orphan
        if self.peers.get(peer.number) is not peer:
            return
        if not (unheard_of or self._pool.is_starting(peer)):
            return
        if unheard_of:
            self._launcher.gives_up_stopped()
        if peer.pid is not None and is_stopped(peer.pid):
            Doomed(peer.pid).kill()
        self._alarms.after(STANDSTILL_PATIENCE, self._watch_birth, peer)

    def _start_later(self, number: int, failure: Exception) -> None:
        """It could not be started: try again while there is hope."""
        self.failure = failure
        peer = self.peers[number] = Peer(number, -1, -1, None, self._selector)
        now = time.monotonic()
        if self._scarce_since is None:
            self._scarce_since = now
        lasted = now - self._scarce_since
        if launch.is_scarcity(failure) and lasted < SCARCITY_PATIENCE:
            self._alarms.after(min(max(lasted, 0.01), 0.5), self._start_again, peer)
        else:
            self._pool.post(self._exited, peer, None)

    def _start_again(self, peer: Peer) -> None:
        if self.peers.get(peer.number) is peer:  # nobody has given it up meanwhile
            self.start(peer.number)

    def _return_blocks(self, number: int) -> None:
        """Much memory of results is free: also a worker that gets no calls is to know."""
        if (peer := self.peers.get(number)) is not None:
            peer.return_blocks()

    # -- ending -----------------------------------------------------------------------------------

    def stop(self, peer: Peer) -> None:
        """End of its task pipe: it leaves when it has read everything."""
        if peer.control is None:  # it was not even made
            self._pool.post(self._exited, peer, None)
            return
        peer.close_tasks()
        self._alarms.after(STANDSTILL_PATIENCE, self._dismiss_stopped, peer)
        self._alarms.after(STOP_PATIENCE, self._pool.stopped_late, peer)

    def _dismiss_stopped(self, peer: Peer) -> None:
        """One that somebody has stopped will not leave, and has no call that it could end."""
        if self.peers.get(peer.number) is peer and peer.pid is not None and is_stopped(peer.pid):
            self._pool.stopped_late(peer)

    def kill(self, peer: Peer) -> None:
        if peer.control is None:  # it was not even made
            self._pool.post(self._exited, peer, None)
            return
        peer.control.hold(0.0)  # whatever it does with its grace, it begins nothing more
        if peer.grace is None:
            peer.grace = self._spec.grace
        if peer.pid is None:
            if peer.orphan:  # it has only just been made, and finds that there is nothing to do
                self._pool.post(self._gone_unseen, peer)
            else:  # not known yet: killed as soon as it is
                self._alarms.after(NEWS_PATIENCE, self._insist, peer)
            return
        if peer.doomed is not None:
            return
        peer.doomed = Doomed(peer.pid)
        if peer.grace > 0:
            peer.doomed.terminate()
            self._alarms.after(peer.grace, self._grace_over, peer.number)
        else:
            peer.doomed.kill()

    def hasten(self, peer: Peer, grace: float | None) -> None:
        """It was told to die before, and gets no more time than `grace` from now on."""
        grace = self._spec.grace if grace is None else grace
        if peer.grace is not None and grace < peer.grace:
            peer.grace = grace
            self._alarms.after(grace, self._grace_over, peer.number)

    def _grace_over(self, number: int) -> None:
        """By number: an alarm must not keep the memory of one that is long dead."""
        if (peer := self.peers.get(number)) is not None:
            self.kill_hard(peer)

    def kill_hard(self, peer: Peer) -> None:
        """Its grace is over, if it was told to die."""
        if peer.number in self.peers and peer.doomed is not None:
            peer.doomed.kill()

    def _insist(self, peer: Peer) -> None:
        """It is to die, and whoever should have told us its pid does not answer."""
        if peer.pid is None and not peer.orphan and peer.number in self.peers:
            self._launcher.give_up()

    # -- found dead -------------------------------------------------------------------------------

    def pipe_ended(self, peer: Peer) -> None:
        """It closed its end: it is dying, or a task closed what was not its own."""
        peer.close_results()
        if peer.orphan:
            self._gone_unseen(peer)
        else:
            self._alarms.after(EOF_PATIENCE, self.force, peer)
            if not self._launcher.tells:
                self._ask(peer, 0.001)

    def _ask(self, peer: Peer, pause: float) -> None:
        """Where no descriptor tells of its end: look whether it is gone, and again later."""
        self.news()
        if self.peers.get(peer.number) is peer and pause < EOF_PATIENCE:
            self._alarms.after(pause, self._ask, peer, 2 * pause)

    def force(self, peer: Peer) -> None:
        """Without its pipe it is of no use: make sure it is dead."""
        self.news()
        if self.peers.get(peer.number) is not peer:
            return
        if peer.pid is not None:
            Doomed(peer.pid).kill()
        self._launcher.gives_up_stopped()  # then it is `Lost`
        self._alarms.after(0 if peer.orphan else NEWS_PATIENCE, self._gone_unseen, peer)

    def _gone_unseen(self, peer: Peer) -> None:
        """Nobody reports its end, as its zygote has died or is stopped: look for ourselves."""
        if self.peers.get(peer.number) is not peer:
            return
        if peer.pid is not None and is_alive(peer.pid):
            Doomed(peer.pid).kill()
            self._alarms.after(0.01, self._gone_unseen, peer)
        else:
            self._exited(peer, None)

    def _exited(self, peer: Peer, status: int | None) -> None:
        while peer.results >= 0 and self._pool.read(peer):
            continue  # its last words
        if peer.doomed is not None:
            peer.doomed.sweep()
        if self.peers.get(peer.number) is peer:
            self._pool.exited(peer, status)
            self._drop(peer)

    def _drop(self, peer: Peer) -> None:
        self.peers.pop(peer.number, None)
        peer.side = None  # what is not settled yet keeps it
        peer.close_tasks()
        peer.close_results()

    def news(self) -> None:
        """Hear what the launcher has to say."""
        for item in self._launcher.news():
            if isinstance(item, launch.Lost):
                self._orphan(item.last)
            elif isinstance(item, launch.Trouble):
                self._pool.cannot_start(outcomes.preload_failure(item.text))
            elif (found := self.peers.get(item.worker)) is not None:
                self._heard_of(found, item)

    def _orphan(self, last: int) -> None:
        """Those that come to nothing because of one zygote are one failure to start."""
        peers = list(self.peers.values())
        known = [peer for peer in peers if peer.number <= last and not peer.orphan]
        unborn = [peer for peer in known if self._pool.is_starting(peer)]
        for peer in known:
            peer.orphan = True
            peer.is_excused = peer in unborn[1:]
        for peer in known:
            if peer.results < 0:
                self._gone_unseen(peer)
            elif peer.grace is not None and peer.doomed is None:
                self.kill(peer)  # now that nobody will tell its pid any more

    def _heard_of(self, peer: Peer, item: launch.Started | launch.Exited) -> None:
        if isinstance(item, launch.Exited):
            self._exited(peer, item.status)
            return
        peer.told_pid = item.pid
        if peer.grace is not None:
            self.kill(peer)

    def note_end(self, peer: Peer, status: int | None, index: int) -> None:
        """It ended in the call with that index; 0: before the first, or between two."""
        peer.obituary = self._coroner.examine(peer, status, index)

    def note_failed_start(self, peer: Peer) -> None:
        if peer.obituary is not None:
            self.failure = outcomes.died_at_start(peer.obituary) or self.failure

    # -- the end of all ---------------------------------------------------------------------------

    def close(self) -> None:
        for peer in list(self.peers.values()):  # none, unless the loop has crashed
            if peer.pid is not None:
                Doomed(peer.pid).kill()
            self._drop(peer)
        self._launcher.close()
        self._exchange.close()
        os.close(self._lifeline)
        os.close(self._lifeline_held)

    def fds(self) -> list[int]:
        """What a forked child of the program must close."""
        ours = [fd for peer in self.peers.values() for fd in (peer.tasks, peer.results)]
        ours += [peer.side.abandon() for peer in self.peers.values() if peer.side is not None]
        ours += [self._exchange.abandon(), self._lifeline_held]
        ours += [*self._newborn, *self._launcher.fds()]
        return [fd for fd in ours if fd >= 0]
