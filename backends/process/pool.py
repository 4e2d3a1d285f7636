"""Carries out what the state machine orders: calls to workers, answers to futures.

    any thread ──hand_in──> fresh ──┐                     ┌─> worker pipes (calls)
    any thread ──post─────> inbox ──┼─> role: state ──────┤
    worker pipes (answers) ─────────┤                     ├─> crew: start, stop, kill
    launcher (started, exited) ─────┘                     └─> futures ──> callback thread

1. Everything here is touched only by the thread that has the role (`Role`), except the inbox,
   `_fresh`, the flags `full` and `ready`, the counters of `snapshot` and what an at-fork hook
   closes.  It is the loop thread's as a rule.  A caller takes it for a moment to give a call to an
   idle worker, or to read the answers of the worker whose call it waits for; never waiting for
   anything while it has it, and never where an exception could tear it.
2. Nobody blocks on a worker: writes are non-blocking, what is left over waits in the peer.
3. Futures are settled after the role was given up: that unpickles results, which is user code.
   Callbacks have their own thread, so a slow one delays nobody.
4. Who hands in a call first puts it into `_fresh`, then looks at `full`; who changes `full` looks
   at `_fresh` afterwards.  So a call that comes while every worker is taken wakes nobody, and
   none is forgotten.
"""

from __future__ import annotations

import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from unirun import _observe
from unirun._errors import ExecutorShutdown
from unirun._future import begin_all
from unirun._prompt import Thread

from . import forks, launch, outcomes, system, telling, wire
from .alarms import Alarms
from .callbacks import CallbackThread
from .callers import Callers
from .commands import Commands
from .crew import Crew
from .crowd import Crowd
from .deadlines import Deadlines
from .exchange import Exchange
from .future import ProcessFuture
from .inbox import Inbox
from .inner import InnerCalls
from .memory import Watch
from .news import NOTHING, News
from .pace import LARGEST, Pace
from .peer import Peer
from .role import Role
from .state import ALONE, Finish, Hold, Kill, Order, PoolState, Resume, Send, Start, Stop
from .totals import Totals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun.backend import WorkerSpec

START_PATIENCE = 5.0
"""Seconds a caller may be held up until a worker has been forked."""


class Pool(Commands):
    source = 0  # by which events tell it from others

    def __init__(
        self,
        spec: WorkerSpec,
        state: PoolState,
        launcher: launch.Launcher,
        exchange: Exchange,
        setup: Callable[[], bytes],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__()
        self._spec = spec
        self._state = state
        self._launcher = launcher
        self._on_end = on_end
        self._pace = Pace(spec.options.get("window", LARGEST))
        self._alarms = Alarms()
        self._memory = Watch(self._alarms, spec.max_worker_rss, self.holder, self.read, self.kill)
        # Handed in, and not known to the state machine yet; with what was posted in turn.
        self._fresh: deque[ProcessFuture | tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._finished: list[Finish] = []  # to be settled by who has the role, after it
        self._crash: BaseException | None = None  # a bug that ended the loop
        self.killed = self.crashed = self.finished_calls = 0
        self._totals = Totals(exchange.arena)
        self.open = False  # calls can be handed in, as far as is known; the backend sets it
        self.full = False  # another plain call needs nobody's attention
        self.ready = False  # another plain call can be sent by whoever hands it in

        self._inbox = Inbox()  # closed by the loop when it ends
        self._selector = system.make_selector()  # likewise
        self._selector.register(self._inbox.fd, selectors.EVENT_READ, self._inbox.quiet)
        # likewise
        self._crew = Crew(spec, launcher, exchange, self._selector, self._alarms, setup, self)
        self.role = Role(self)
        self.news = News(self, self._crew.peers, state, self._alarms)
        self._crowd = Crowd(self, self._crew, state, self._alarms)
        self._deadlines = Deadlines(self, state, self._alarms)
        self.inner = InnerCalls(self, state, self._deadlines, self._alarms, launcher, spec.home)
        self._callers = Callers(self, self._crew, state, self._alarms)
        self.callbacks = CallbackThread(f"{spec.name}-callbacks")
        self.thread = Thread(self._run, f"{spec.name}-loop")
        self._shares_role = isinstance(self._selector, getattr(selectors, "EpollSelector", ()))
        forks.watch(self)

    # -- from any thread ------------------------------------------------------------------------

    def close_unused(self) -> None:
        """Close what a pool holds that was never started; it will not be started any more."""
        self._clean_up()

    def hand_in(self, future: ProcessFuture, *, plain: bool) -> None:
        """Have a call run; `plain`: it has no limits that need watching while it waits."""
        if plain and self.ready and self.role.try_to(self._send_at_once, future):
            return
        self._fresh.append(future)
        if not plain:
            self.post(self._take_in)
        elif self.full:
            return  # rule 4
        else:
            self._ring()
        self._ensure_worker()

    def post(self, do: Callable[..., None], *args: Any) -> None:
        """Have `do(*args)` called by who has the role."""
        if not self._inbox.put(do, args):
            self._refuse_leftovers()

    def post_in_turn(self, do: Callable[..., None], *args: Any) -> None:
        """As `post`; after all calls that were handed in before, and before those that come."""
        self._fresh.append((do, args))
        self.post(self._take_in)

    def _ring(self) -> None:
        if self._inbox.closed:
            self._refuse_leftovers()
        else:
            self._inbox.wake()

    def _ensure_worker(self) -> None:
        """Wait for a worker to be made, where none could be made any more at the program's end."""
        if self._launcher.works_at_exit or self._crew.peers or self._in_loop():
            return
        made = threading.Event()
        if self._inbox.put(made.set, ()):
            made.wait(START_PATIENCE)

    def _in_loop(self) -> bool:
        return threading.current_thread() is self.thread

    @property
    def ended(self) -> bool:
        """Nothing is done any more."""
        return self._inbox.closed

    def snapshot(self) -> dict[str, Any]:
        peers = list(self._crew.peers.values())
        return {
            "workers": len(peers),
            "pending": len(self._fresh) + self._state.waiting,
            "running": self._state.running,
            "finished": self.finished_calls,
            "killed": self.killed,
            "crashed": self.crashed,
            "pids": tuple(peer.pid for peer in peers if peer.pid is not None),
            **self._totals.told(peers),
        }

    def running_names(self) -> list[str]:
        return [future.name for future in self.role.do(self._state.calls) if future.running()]

    def lead(self, future: ProcessFuture, until: float | None) -> bool:
        """Read the answers of the worker that has this call, until the call has ended.

        False if somebody else does, or if `until` passed; then the caller has to wait.
        """
        peer = future._peer
        if peer is None or not self._shares_role or self._in_loop():
            return False
        return self._callers.lead(peer, future, until)

    # -- what is posted: with the role from here on ---------------------------------------------

    def _take_in(self) -> None:
        """Calls that were handed in become known; before anything else that was posted later."""
        while self._fresh:
            take = self._fresh.popleft
            items: list[Any] = [take() for _ in range(len(self._fresh))]
            while tuple in map(type, items):
                at = list(map(type, items)).index(tuple)
                self._submit(items[:at])
                items[at][0](*items[at][1])
                del items[: at + 1]
            self._submit(items)

    def _submit(self, futures: list[ProcessFuture]) -> None:
        for future in [future for future in futures if not future.kind]:
            self._deadlines.of_waiting(future)
        self.do(self._state.submit(futures))

    def _send_at_once(self, future: ProcessFuture) -> bool:
        """By the caller itself, where that only takes an idle worker; False if it takes more."""
        worker = None if self._inbox or self._fresh else self._state.give(future)
        if worker is None:
            return False
        peer = self._crew.peers[worker]
        self._callers.expect(peer)
        orders = self._send(peer, [future])
        if "started" in _observe.wanted:
            telling.began(self._state, peer)
        if orders:
            self.do(orders)
        return True

    # -- orders ---------------------------------------------------------------------------------

    def do(self, orders: list[Order]) -> None:
        todo, crew = deque(orders), self._crew
        while todo:
            match order := todo.popleft():
                case Finish():
                    self.news.end(order)
                case Send(worker, calls):
                    todo += self.give(crew.peers[worker], calls)
                case Start(worker):
                    crew.start(worker)
                case Stop(worker):
                    crew.stop(crew.peers[worker])
                case Kill(worker):
                    self.inner.condemned(crew.peers[worker])
                    crew.kill(crew.peers[worker])
                case Hold(worker):
                    self._crowd.hold(crew.peers[worker])
                case Resume(worker):
                    crew.peers[worker].resume()

    def finish(self, order: Finish) -> None:
        """Settle these calls, once the role was given up."""
        self._finished.append(order)

    def _send(self, peer: Peer, futures: list[ProcessFuture]) -> list[Order]:
        """Give calls to a worker; returns what is to be done about those that cannot be sent."""
        orders: list[Order] = []
        if len(futures) == 1 and futures[0]._begin() and peer.send_one(futures[0]):
            self._crowd.sent_to(peer)
            return orders
        going = begin_all(futures)
        if len(going) < len(futures):
            for future in futures:
                if not future.running():  # cancelled a moment ago
                    orders += self._state.unsent(peer.number, future)
        for future in going:
            if future.reason is not None:  # taken back before it was killed
                future.reason = future.victim_of = None
        for future, exc in peer.send(going):
            outcomes.settle_unsent(future, exc)
            orders += self._state.unsent(peer.number, future)
        if going and going[0].kind == ALONE:
            self._deadlines.of_running(going[0])
            if going[0].options.memory is not None:
                self._memory.begin(going[0])
        self._crowd.sent_to(peer)
        return orders

    def be_watched(self) -> None:
        """Somebody watches from now on, or nobody any more; from any thread, and at once: the next
        call may be sent by the thread that watches."""
        for peer in list(self._crew.peers.values()):
            peer.be_watched()

    # -- what the crew tells ----------------------------------------------------------------------

    def read(self, peer: Peer) -> bool:
        """Read once; False at the end of the pipe or when nothing is there."""
        try:
            messages = peer.receive()
        except BlockingIOError:
            return False
        except (EOFError, OSError):
            self._crew.pipe_ended(peer)
            return False
        except ValueError:  # not our protocol: a task wrote into the pipe
            self._crew.pipe_ended(peer)
            self._crew.force(peer)
            return False
        for message in messages:
            self._hear(peer, message)
        return True

    def _hear(self, peer: Peer, message: wire.Message) -> None:
        code = message[0]
        if code == wire.ANSWERS:
            if message[5]:
                telling.keep_figures(self._state.held(peer.number), peer.answered, message)
            self._totals.busy += message[2]
            self.answered(peer, peer.news_of(message), message[2] / len(message[3]))
        elif code == wire.READY:
            peer.told_pid = peer.pid  # before a task could write anything else there
            if _observe.watchers:
                telling.worker("worker_started", peer, self.source)
            self.do(self._state.worker_ready(peer.number))
            if not self._state.held(peer.number):
                peer.teach(self._pace.functions)
        elif code == wire.BROKEN:
            self.cannot_start(outcomes.initializer_failure(message[1], message[2]))
        elif code == wire.PART:
            future = self.news.teller(peer, message[1])
            if future is not None and future.on_part is not None:
                future.on_part(message[2], peer.record)
        elif code == wire.NEWS:
            self.news.hear(peer, message)
            self.finish(NOTHING)  # once the role was given up, what was heard is looked after
        else:
            self.inner.hear(peer, message)

    def answered(self, peer: Peer, answers: Sequence[Any], pace: float | None = None) -> None:
        """These are the answers to the first calls that it holds; `pace`: microseconds for each."""
        if not answers:
            return
        future = None
        for future, answer in zip(self._state.held(peer.number), answers, strict=False):
            future._answer, future._pid, future._peer = answer, peer.told_pid, None
        if pace is not None and future is not None and future.kind:
            window = self._pace.learn(future.kind, pace, future._profile.function)
            if window is not None:
                self._state.set_window(future.kind, window)
        self.inner.answered(peer, len(answers))
        peer.idle_since = time.monotonic()
        limit = self._spec.max_tasks_per_child
        last = (limit is not None and peer.sent >= limit) or self._memory.has_grown(peer)
        self._totals.replaced += last
        self.do(self._state.worker_answered(peer.number, len(answers), last=last))
        if "started" in _observe.wanted:
            telling.began(self._state, peer)
        if peer.doomed is not None and self._crowd.begun(peer) is None:
            self._crew.kill_hard(peer)  # its body is over: no need to be patient

    def exited(self, peer: Peer, status: int | None) -> None:
        self.answered(peer, peer.take_unsent())
        begun = self._crowd.begun(peer)
        self._crew.note_end(peer, status, 0 if begun is None else begun._index)
        self._totals.gone(peer, replaced=peer.doomed is not None or peer.tasks >= 0)
        if begun is not None:
            telling.keep_last(begun, peer)
        if _observe.watchers:
            telling.gone(peer, self.source)
        self.news.gone(peer)
        if self._state.is_starting(peer.number) and not self._state.broken:
            self._crew.note_failed_start(peer)
        self.inner.exited(peer, 0 if begun is None else begun._index)  # before its slot is free
        self.do(self._state.worker_gone(peer.number, begun, excused=peer.is_excused))

    def is_starting(self, peer: Peer) -> bool:
        return self._state.is_starting(peer.number)

    def stopped_late(self, peer: Peer) -> None:
        self.do(self._state.hurry(peer.number))

    def cannot_start(self, failure: BaseException) -> None:
        self._crew.failure = failure
        self.do(self._state.break_down())

    # -- futures ----------------------------------------------------------------------------------

    def _settle(self, order: Finish) -> None:
        """Without the role: rule 3."""
        if order is NOTHING:
            self.news.attend()
        how, count = order.how, len(order.calls)
        self.finished_calls += count
        if how == "answered":
            outcomes.settle_answered(order.calls)
            return
        self.killed += count if how == "killed" else 0
        self.crashed += count if how == "crashed" else 0
        settle = self._refuse if how == "refused" else outcomes.SETTLE[how]
        for future in order.calls:
            settle(future)

    def _refuse(self, future: ProcessFuture) -> None:
        future._payload = future._side = None
        if future._begin() or future.running():
            future._fail(self.refusal())

    def refusal(self) -> BaseException:
        """Why a call is not taken."""
        if self._crash is not None:
            return outcomes.loop_crashed(self._crash)
        if self._state.broken or self._state.is_hopeless:
            return outcomes.no_workers(self._crew.failure)
        return ExecutorShutdown("cannot schedule new futures after shutdown")

    @property
    def refuses(self) -> bool:
        """Every call that is submitted now would be refused."""
        return self._state.broken or self._crash is not None or self.ended

    # -- the loop ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.role.do(self._deadlines.of_idleness, self._crew, self._spec.idle_timeout)
            while not (self._state.finished and self.role.is_free and self.news.is_quiet):
                self._turn()
                if self.role.torn is not None:
                    raise self.role.torn
            self.news.leave()
        except BaseException as exc:  # a bug of ours: no future may wait for ever because of it
            from traceback import clear_frames

            self._crash = exc
            clear_frames(exc.__traceback__)  # they hold workers, and these hold memory
            raise
        finally:
            self.role.close(self._clean_up)

    def _turn(self) -> None:
        self._inbox.asleep = True
        busy = self._inbox or (self._fresh and not self.full)
        self._inbox.until = self._alarms.next_at
        ready = self._selector.select(0 if busy else self._alarms.delay())
        self._inbox.asleep = False
        self.role.do(self._work, ready)

    def _work(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        self._take_in()  # first: what was submitted before a worker answered may outrank others
        self._inbox.work(self._take_in)
        for key, _ in ready:
            if self._selector.get_map().get(key.fd) is key:  # not closed by an earlier one
                key.data()
        self._alarms.ring()

    # -- for the role -----------------------------------------------------------------------------

    def before_giving_up(self) -> list[Finish]:
        """What is left to do without the role."""
        if self._state.broken:
            self.open = False
        self.full = self._shares_role and self._state.saturated
        self.ready = self._shares_role and self._state.has_room
        finished, self._finished = self._finished, []
        return finished

    def after_giving_up(self, finished: list[Finish]) -> None:
        try:
            for order in finished:
                self._settle(order)
        except BaseException as exc:  # a bug of ours: no future may wait for ever because of it
            self._crash, self.open = exc, False
            for future in [future for order in finished for future in order.calls]:
                self._refuse(future)
            raise

    def look_after(self) -> None:
        """The loop is to look at what a guest has left."""
        ended = self._state.finished or self.role.torn is not None
        if ended or self._alarms.next_at < self._inbox.until or (self._fresh and not self.full):
            self._ring()

    def _clean_up(self) -> None:
        self.open = self.full = self.ready = False
        self._crew.close()
        self._selector.close()
        self._inbox.close()
        for future in self._state.calls():
            self._refuse(future)
        for order in [*self._finished, *self.news.let_all_go()]:
            self._settle(order)
        self._refuse_leftovers()
        self.callbacks.close()
        self._alarms.clear()
        self._on_end()  # the backend lets go of what it kept for us

    def _refuse_leftovers(self) -> None:
        """The loop has ended: nothing will be run any more."""
        while self._fresh:
            try:
                future = self._fresh.popleft()
            except IndexError:
                return  # another thread was quicker
            if not isinstance(future, tuple):
                self._refuse(future)

    def abandon(self) -> list[int]:
        """In a forked child, which has no loop; returns what it must close."""
        self.open = self.full = self.ready = self._shares_role = False
        self._selector.close()
        return [*self._inbox.abandon(), *self._crew.fds()]
