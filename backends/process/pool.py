"""Carries out what the state machine orders: processes, pipes, one loop thread.

    any thread ──post──> inbox ──┐                        ┌─> worker pipes (tasks)
                                 ├─> loop thread: state ──┤
    worker pipes (results) ──────┤                        ├─> launcher (start), signals (kill)
    launcher (started, exited) ──┘                        └─> futures ──> callback thread

1. Everything here is touched by the loop thread only, except the inbox, `post`, the counters of
   `snapshot` and what an at-fork hook closes.  So there is no lock: a thread that posts cannot
   leave anything half done, whatever signal interrupts it.
2. The loop never blocks on a worker: writes are non-blocking, what is left over waits in `out`.
3. Nothing of the user runs in the loop but unpickling of results; callbacks have their own
   thread, so a slow one delays nobody.
4. A worker is gone when its launcher says so: then its last words are read from the pipe, then
   the state machine is told, then futures end.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from unirun._errors import ExecutorShutdown, InitializerFailed

from . import forks, launch, outcomes, wire
from .alarms import Alarms
from .callbacks import CallbackThread
from .inbox import Inbox
from .limits import Doomed, is_alive
from .peer import Peer, make_pipe
from .state import Finish, Kill, Order, PoolState, Send, Start, Stop, Worker

if TYPE_CHECKING:
    from unirun.backend import WorkerSpec

    from .backend import ProcessFuture

STOP_PATIENCE = 5.0
"""Seconds an idle worker may take to end when asked to, exit functions included."""
EOF_PATIENCE = 0.5
"""Seconds a worker may live on after it closed its pipe."""
START_PATIENCE = 5.0
"""Seconds a caller may be held up until a worker has been forked."""
NEWS_PATIENCE = 5.0
"""Seconds to wait for a launcher to tell what must have happened."""


class Pool:
    def __init__(
        self,
        spec: WorkerSpec,
        state: PoolState,
        launcher: launch.Launcher,
        setup: Callable[[], bytes],
        on_end: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._state = state
        self._launcher = launcher
        self._setup = setup
        self._on_end = on_end
        self._workers: dict[Worker, Peer] = {}
        self._calls: dict[int, ProcessFuture] = {}
        self._answers: dict[int, tuple[int, bytes]] = {}
        self._alarms = Alarms()
        self._failure: BaseException | None = None  # why the last worker could not be made
        self._crash: BaseException | None = None  # a bug that ended the loop
        self.killed = self.crashed = self.finished_calls = 0

        self._inbox = Inbox()  # closed by the loop when it ends
        self._newborn: tuple[int, ...] = ()  # our ends of the pipes of a worker being made
        self._lifeline, self._lifeline_held = make_pipe([])  # closed by the loop when it ends
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._inbox.fd, selectors.EVENT_READ, self._inbox.quiet)
        launcher.attach(
            lambda fd: self._selector.register(fd, selectors.EVENT_READ, self._news),
            self._selector.unregister,
        )
        self.callbacks = CallbackThread(f"{spec.name}-callbacks")
        self.thread = threading.Thread(target=self._run, name=f"{spec.name}-loop", daemon=True)
        forks.watch(self)

    # -- from any thread ------------------------------------------------------------------------

    def close_unused(self) -> None:
        """Close what a pool holds that was never started; it will not be started any more."""
        self._clean_up()

    def post(self, do: Callable[..., None], *args: Any) -> None:
        """Have the loop thread call `do(*args)`."""
        if not self._inbox.put(do, args):
            self._refuse_leftovers()

    def ensure_worker(self) -> None:
        """Wait for a worker to be made, where none could be made any more at the program's end."""
        if self._launcher.works_at_exit or self._workers or self._in_loop():
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
        workers = list(self._workers.values())
        return {
            "workers": len(workers),
            "pending": self._state.waiting,
            "running": self._state.running,
            "finished": self.finished_calls,
            "killed": self.killed,
            "crashed": self.crashed,
            "pids": tuple(worker.pid for worker in workers if worker.pid is not None),
        }

    def running_names(self) -> list[str]:
        return [f.name for f in list(self._calls.values()) if f.running()]

    # -- what is posted: loop thread from here on -----------------------------------------------

    def submit(self, future: ProcessFuture) -> None:
        if future.done():
            return  # cancelled before it got here
        self._calls[future.number] = future
        self._limit_waiting(future)
        self._do(self._state.submit(future.number, future.options.priority))

    def withdraw(self, future: ProcessFuture) -> None:
        self._do(self._state.cancel(future.number))

    def cancel_running(self, future: ProcessFuture) -> None:
        worker = self._holder(future)
        if worker is not None:
            worker.write(wire.pack(wire.CANCEL, future.number))

    def kill(self, future: ProcessFuture, grace: float | None, reason: BaseException) -> None:
        worker = self._holder(future)
        if worker is not None and future.reason is None:
            future.reason, future.victim_of = reason, worker
            worker.grace = grace
        elif future.victim_of is not None:
            self._hasten(future.victim_of, grace)
        self._do(self._state.kill(future.number))

    def kill_all(self, grace: float | None, reason: BaseException) -> None:
        self._condemn_all(grace, reason)
        self._do(self._state.kill_all())

    def close(self, cancel: bool, kill: bool, reason: BaseException) -> None:
        if kill:
            self._condemn_all(None, reason)
        self._do(self._state.close(cancel=cancel, kill=kill))

    def _condemn_all(self, grace: float | None, reason: BaseException) -> None:
        for worker in self._workers.values():
            if worker.doomed is not None:
                self._hasten(worker, grace)
            elif worker.grace is None:
                worker.grace = grace
        for future in list(self._calls.values()):
            if future.running() and future.reason is None:
                future.reason = reason

    def _holder(self, future: ProcessFuture) -> Peer | None:
        holder = self._state.holder(future.number)
        return None if holder is None else self._workers.get(holder)

    # -- orders ---------------------------------------------------------------------------------

    def _do(self, orders: list[Order]) -> None:
        todo, finished = deque(orders), []
        while todo:  # workers first: a result that takes long to read delays no call
            match order := todo.popleft():
                case Send(worker, call):
                    todo += self._send(self._workers[worker], self._calls[call])
                case Start(worker):
                    self._start_worker(worker)
                case Stop(worker):
                    self._stop(self._workers[worker])
                case Kill(worker):
                    self._kill_worker(self._workers[worker])
                case Finish():
                    finished.append(order)
        for order in finished:
            self._finish(order)

    def _start_worker(self, number: Worker) -> None:
        fds: list[int] = []
        try:
            tasks, ours_tasks = make_pipe(fds)
            ours_results, results = make_pipe(fds)
            self._newborn = (ours_tasks, ours_results)
            self._launcher.start(number, (tasks, results, self._lifeline))
        except Exception as exc:  # out of descriptors, of processes, of memory  # noqa: BLE001
            self._newborn = ()
            for fd in fds:
                os.close(fd)
            self._failure = exc
            self._workers[number] = Peer(number, -1, -1, self._selector)
            self.post(self._exited, self._workers[number], None)
            return
        worker = self._workers[number] = Peer(number, ours_tasks, ours_results, self._selector)
        self._newborn = ()
        os.close(tasks)
        os.close(results)
        worker.listen(lambda: self._read(worker))
        worker.write(self._setup())
        self.post(self._news)  # what the launcher knows already

    def _send(self, worker: Peer, future: ProcessFuture) -> list[Order]:
        """Give a call to a worker; returns what is to be done if that cannot be."""
        if worker.is_deaf():  # it is dead, though we have not been told: the call has not begun
            return self._state.worker_deaf(worker.number, future.options.priority)
        if not future._begin():  # cancelled a moment ago: the worker is free again
            return self._state.worker_answered(worker.number)
        try:
            worker.send_call(*future.message())
        except (MemoryError, ValueError) as exc:  # larger than memory, or than marshal can write
            outcomes.settle_unsent(future, exc)
            return self._state.worker_answered(worker.number)
        self._limit_running(future)
        return []

    def _stop(self, worker: Peer) -> None:
        """End of its task pipe: it leaves when it has read everything."""
        worker.close_tasks()
        self._alarms.after(STOP_PATIENCE, lambda: self._do(self._state.hurry(worker.number)))

    def _kill_worker(self, worker: Peer) -> None:
        if worker.grace is None:
            worker.grace = self._spec.grace
        if worker.pid is None:  # not known yet: killed as soon as it is
            self._alarms.after(NEWS_PATIENCE, self._insist, worker)
            return
        if worker.doomed is not None:
            return
        worker.doomed = Doomed(worker.pid)
        if worker.grace > 0:
            worker.doomed.terminate()
            self._alarms.after(worker.grace, self._kill_hard, worker)
        else:
            worker.doomed.kill()

    def _hasten(self, worker: Peer, grace: float | None) -> None:
        """It was told to die before, and gets no more time than `grace` from now on."""
        grace = self._spec.grace if grace is None else grace
        if worker.grace is not None and grace < worker.grace:
            worker.grace = grace
            self._alarms.after(grace, self._kill_hard, worker)

    def _insist(self, worker: Peer) -> None:
        """It is to die, and whoever should have told us its pid does not answer."""
        if worker.pid is None and worker.number in self._workers:
            self._launcher.give_up()

    def _kill_hard(self, worker: Peer) -> None:
        if worker.number in self._workers and worker.doomed is not None:
            worker.doomed.kill()

    def _finish(self, order: Finish) -> None:
        future = self._calls[order.call]
        self.finished_calls += 1
        answer = self._answers.pop(order.call, None)
        if order.how == "answered":
            if answer is not None:  # None: it was not sent after all
                outcomes.settle(future, *answer)
        elif order.how == "killed":
            self.killed += 1
            outcomes.settle_killed(future)
        elif order.how == "crashed":
            self.crashed += 1
            worker = self._workers[order.worker] if order.worker is not None else None
            outcomes.settle_crashed(future, worker.pid if worker else None, self._exit_status)
        elif order.how == "cancelled":
            future.cancel_unsent()
        else:
            future._begin()
            future._fail(self.refusal())
        del self._calls[order.call]  # last: a bug above must leave no future waiting

    def refusal(self) -> BaseException:
        """Why a call is not taken."""
        if self._crash is not None:
            return outcomes.loop_crashed(self._crash)
        if self._state.broken:
            return outcomes.no_workers(self._failure)
        return ExecutorShutdown("cannot schedule new futures after shutdown")

    @property
    def refuses(self) -> bool:
        """Every call that is submitted now would be refused."""
        return self._state.broken or self._crash is not None or self.ended

    # -- workers ----------------------------------------------------------------------------------

    _exit_status: int | None = None  # of the worker whose end is being handled

    def _read(self, worker: Peer) -> bool:
        """Read once; False at the end of the pipe or when nothing is there."""
        try:
            messages = worker.receive()
        except BlockingIOError:
            return False
        except (EOFError, OSError):
            self._pipe_ended(worker)
            return False
        except ValueError:  # not our protocol: a task wrote into the pipe
            self._pipe_ended(worker)
            self._force(worker)
            return False
        for message in messages:
            self._hear(worker, message)
        return True

    def _hear(self, worker: Peer, message: wire.Message) -> None:
        code = message[0]
        if code == wire.READY:
            self._do(self._state.worker_ready(worker.number))
        elif code == wire.BROKEN:
            self._failure = outcomes.initializer_failure(message[1], message[2])
            self._do(self._state.break_down())
        elif code == wire.PART:
            future = self._calls.get(message[1])
            if future is not None and future.on_part is not None:
                future.on_part(message[2])
        elif self._state.held(worker.number) == message[1]:
            self._answers[message[1]] = (code, message[2])
            worker.idle_since = time.monotonic()
            limit = self._spec.max_tasks_per_child
            last = limit is not None and worker.calls >= limit
            self._do(self._state.worker_answered(worker.number, last=last))
        else:
            self._kill_hard(worker)  # told to die, and its body is over: no need to be patient

    def _pipe_ended(self, worker: Peer) -> None:
        """It closed its end: it is dying, or a task closed what was not its own."""
        worker.close_results()
        if worker.orphan:
            self._gone_unseen(worker)
        else:
            self._alarms.after(EOF_PATIENCE, self._force, worker)

    def _force(self, worker: Peer) -> None:
        """Without its pipe it is of no use: make sure it is dead."""
        self._news()  # where no descriptor tells of its end, this does
        if self._workers.get(worker.number) is not worker:
            return
        if worker.pid is not None:
            Doomed(worker.pid).kill()
        self._alarms.after(0 if worker.orphan else NEWS_PATIENCE, self._gone_unseen, worker)

    def _gone_unseen(self, worker: Peer) -> None:
        """Nobody reports its end, as its zygote has died or is stopped: look for ourselves."""
        if self._workers.get(worker.number) is not worker:
            return
        if worker.pid is not None and is_alive(worker.pid):
            Doomed(worker.pid).kill()
            self._alarms.after(0.01, self._gone_unseen, worker)
        else:
            self._exited(worker, None)

    def _exited(self, worker: Peer, status: int | None) -> None:
        """Rule 4."""
        if worker.results >= 0:
            while self._read(worker):
                continue  # its last words
        if worker.doomed is not None:
            worker.doomed.sweep()
        if self._workers.get(worker.number) is not worker:
            return
        self._exit_status = status
        if self._state.is_starting(worker.number) and not self._state.broken:
            self._failure = outcomes.died_at_start(worker.pid, status) or self._failure
        self._do(self._state.worker_gone(worker.number))
        self._drop(worker)

    def _drop(self, worker: Peer) -> None:
        self._workers.pop(worker.number, None)
        worker.close_tasks()
        worker.close_results()

    def _news(self) -> None:
        for item in self._launcher.news():
            if isinstance(item, launch.Lost):
                for worker in list(self._workers.values()):
                    worker.orphan = True
                    if worker.results < 0:
                        self._gone_unseen(worker)
            elif isinstance(item, launch.Trouble):
                self._failure = InitializerFailed(item.text)
                self._do(self._state.break_down())
            elif (found := self._workers.get(item.worker)) is not None:
                self._heard_of(found, item)

    def _heard_of(self, worker: Peer, item: launch.Started | launch.Exited) -> None:
        if isinstance(item, launch.Exited):
            self._exited(worker, item.status)
            return
        worker.pid = item.pid
        if worker.grace is not None:
            self._kill_worker(worker)

    # -- time -------------------------------------------------------------------------------------

    def _limit_waiting(self, future: ProcessFuture) -> None:
        for end in future.ends_of_waiting():
            self._alarms.at(end, self._expire_waiting, future)

    def _limit_running(self, future: ProcessFuture) -> None:
        if (end := future.end_of_running()) is not None:
            self._alarms.at(end, self._expire_running, future)

    def _expire_waiting(self, future: ProcessFuture) -> None:
        if future.number in self._calls and future.expire_unsent():
            self._do(self._state.cancel(future.number))

    def _expire_running(self, future: ProcessFuture) -> None:
        worker = self._holder(future)
        if worker is not None and worker.results >= 0:
            self._read(worker)  # an answer that has arrived wins
        if future.number in self._calls:
            self.kill(future, None, outcomes.timeout_of(future))

    def _retire_idle(self) -> None:
        if self._spec.idle_timeout is None:
            return
        now = time.monotonic()
        for number in self._state.idle:
            if now - self._workers[number].idle_since >= self._spec.idle_timeout:
                self._do(self._state.retire(number))
        self._alarms.after(max(self._spec.idle_timeout / 2, 0.01), self._retire_idle)

    # -- the loop ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._retire_idle()
            while not self._state.finished:
                self._turn()
        except BaseException as exc:  # a bug of ours: no future may wait for ever because of it
            self._crash = exc
            raise
        finally:
            self._clean_up()

    def _turn(self) -> None:
        self._inbox.asleep = True
        timeout = 0 if self._inbox else self._alarms.delay()
        ready = self._selector.select(timeout)
        self._inbox.asleep = False
        self._inbox.work()  # first: what was submitted before a worker answered may outrank others
        for key, _ in ready:
            if self._selector.get_map().get(key.fd) is key:  # not closed by an earlier one
                key.data()
        self._alarms.ring()

    def _clean_up(self) -> None:
        for worker in list(self._workers.values()):  # none, unless the loop has crashed
            if worker.pid is not None:
                Doomed(worker.pid).kill()
            self._drop(worker)
        self._launcher.close()
        self._selector.close()
        os.close(self._lifeline)
        os.close(self._lifeline_held)
        self._inbox.close()
        for future in list(self._calls.values()):
            future._begin()
            future._fail(self.refusal())
        self._calls.clear()
        self._refuse_leftovers()
        self.callbacks.close()
        self._alarms = Alarms()
        self._on_end()  # the backend lets go of what it kept for us

    def _refuse_leftovers(self) -> None:
        """The loop has ended: nothing will be run any more."""
        for do, args in self._inbox.leftovers():
            if do == self.submit and args[0]._begin():
                args[0]._fail(self.refusal())

    def abandon(self) -> list[int]:
        """In a forked child, which has no loop; returns what it must close."""
        self._selector.close()
        ours = [fd for each in self._workers.values() for fd in (each.tasks, each.results)]
        ours += [*self._inbox.abandon(), self._lifeline_held, *self._newborn]
        return [fd for fd in (*ours, *self._launcher.fds()) if fd >= 0]
