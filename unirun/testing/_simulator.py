"""The two pure machines in virtual time, with simulated workers, delays, clocks and faults.

    simulator = Simulator(seed)
    simulator.run()          # raises invariants.Broken if anything does not hold
    simulator.trace          # what happened, line by line; the same for the same seed

A few calls are submitted to a pool of a few workers, where they work, crash, and share locks,
queues and the like; meanwhile they are cancelled, killed and timed out, the pool is resized and at
last shut down.  And things go wrong, as often as the seed says: workers die before, amid and after
any message, are stopped, never come up, or are said to be dead late or twice; the zygote dies, or
the manager.  Every order of the pool's machine is held against the books of `_pool_world`, every
reply of the coordinator against the model of `_coordinator_model`, and what the workers have in
truth begun, hold and received against the `invariants`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from unirun.coordinator import Coordinator
from unirun.testing import invariants
from unirun.testing._pool_world import Job, World, new_pool
from unirun.testing._simulated_host import Host
from unirun.testing._simulated_plan import Call, draw
from unirun.testing._simulated_time import SECOND, Clock
from unirun.testing._simulated_workers import Crew, SimulatedWorker
from unirun.testing.invariants import Broken, check

MOST_EVENTS = 50_000
TAIL = 40  # lines of the trace in the text of what is found


class _Pool(World):
    """The pool's machine and its books; what it orders is done by the simulated crew."""

    def __init__(self, simulator: Simulator, size: int, make: Callable[[int], Any]) -> None:
        self._simulator = simulator
        super().__init__(size, make)

    def _start(self, order: Any, book: Any) -> None:
        super()._start(order, book)
        self._ordered(order)
        self._simulator.crew.start(order.worker)

    def _send(self, order: Any, book: Any) -> None:
        dropped = self.dropped.intersection(order.calls)
        was_idle = not self.hands[order.worker].calls
        super()._send(order, book)
        if was_idle:
            invariants.slots(len(self.busy()), self._simulator.slots, self._simulator.blocked)
        self._ordered(order)
        heard = [each for each in order.calls if each not in dropped]
        if heard:
            self._simulator.crew.send(order.worker, heard)

    def _stop(self, order: Any, book: Any) -> None:
        super()._stop(order, book)
        self._ordered(order)
        self._simulator.crew.stop(order.worker)

    def _kill(self, order: Any, book: Any) -> None:
        super()._kill(order, book)
        self._ordered(order)
        self._simulator.crew.kill(order.worker)

    def _hold(self, order: Any, book: Any) -> None:
        super()._hold(order, book)
        self._ordered(order)
        self._simulator.crew.hold(order.worker)

    def _resume(self, order: Any, book: Any) -> None:
        super()._resume(order, book)
        self._ordered(order)
        self._simulator.crew.resume(order.worker)

    def _finish(self, order: Any, book: Any) -> None:
        super()._finish(order, book)
        self._ordered(order)
        for each in order.calls:
            self._simulator.ended(each, order.how)

    def _ordered(self, order: Any) -> None:
        self._simulator.clock.note(f"    {order}")


class _Future:
    """What the user has of one call, over all its attempts."""

    def __init__(self, call: Call, parent: tuple[SimulatedWorker, Job] | None = None) -> None:
        self.call = call
        self.parent = parent  # which waits for it
        self.job = Job(-1)  # the latest attempt
        self.attempts = 0
        self.starts = 0


class Simulator:
    """One simulation; two with the same seed are the same, byte for byte.

    seed: any integer.
    pool: makes the pool's machine, given its size; the process backend's unless said otherwise.
    coordinator: makes the coordinator, given the kinds of objects and its first id.
    """

    def __init__(
        self,
        seed: int,
        *,
        pool: Callable[[int], Any] = new_pool,
        coordinator: Callable[..., Coordinator] = Coordinator,
    ) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.clock = Clock()
        self.plan = draw(self.rng)
        self.make_coordinator = coordinator
        self.crew = Crew(self)
        self.host = Host(self)
        self.slots = self.plan.size
        self.blocked = 0  # calls that wait for one of their own, and lend their slot meanwhile
        self.pool = _Pool(self, self.plan.size, pool)
        self._futures: dict[int, _Future] = {}  # by the call's place in the plan
        self._by_job: dict[Job, _Future] = {}
        self._jobs = 0
        self._over: set[_Future] = set()
        self._ran: dict[Job, SimulatedWorker] = {}

    @property
    def trace(self) -> str:
        """What has happened, one line each: virtual microseconds, and what."""
        return self.clock.trace

    def run(self) -> Simulator:
        """Let everything happen, until all is over.

        Raises:
            Broken: an invariant or a rule of a machine does not hold, or a machine failed; the
                text says which, how to see it again, and what happened last.
        """
        try:
            self._run()
        except Exception as exc:
            what = str(exc) if isinstance(exc, Broken) else f"{type(exc).__name__}: {exc}"
            raise Broken(
                f"seed {self.seed}: {what}; run: python -m unirun.testing.simulate "
                f"--seed {self.seed}\n{self.clock.tail(TAIL)}"
            ) from exc
        return self

    def _run(self) -> None:
        for kind, window in self.plan.windows.items():
            self.happen("set_window", kind, window)
        self.happen("keep_spare", self.plan.spares)
        for at, action in self.plan.actions:
            self.clock.after(at, self._do, action)
        self.clock.run(MOST_EVENTS)
        check(self.pool.state.finished, "nothing will happen any more, and the pool is not over")
        living = [each.session for each in self.crew.workers.values() if each.alive]
        left = [f"call {n}" for n, each in self._futures.items() if each not in self._over]
        invariants.nothing_left(left, [*living, *self.pool.hands])
        self.host.check_end()

    # -- events ------------------------------------------------------------------------------------

    def happen(self, *event: Any) -> None:
        """Tell the pool's machine, and hold what it says against its books."""
        self.clock.note(" ".join(map(str, event)))
        self.pool.happen(event)
        self.pool.check()

    def _do(self, action: tuple[Any, ...]) -> None:
        what, *args = action
        if what == "submit":
            self._submit([self._future(call) for call in args[0]])
        elif what in ("cancel", "kill", "drop"):
            self._on_call(what, args[0])
        elif what in ("crash", "freeze"):
            getattr(self.crew, what)(*args)
        elif what == "stuck":
            if args[0] in self.pool.hands:  # whether it is or not
                self.happen(what, *args)
        elif what == "zygote":
            self.crew.zygote_dies()
        elif what == "manager":
            self.host.crash()
        elif what == "resize":
            self._resize(slots=args[0])
        else:
            self.happen(what, *args)

    def _resize(self, slots: int | None = None, blocked: int = 0) -> None:
        self.slots = self.slots if slots is None else slots
        self.blocked += blocked
        self.happen("resize", self.slots + self.blocked, self.blocked)

    def _on_call(self, what: str, number: int) -> None:
        future = self._futures.get(number)
        if future is not None and future not in self._over:
            self.happen(what, future.job.number)

    def _future(self, number: int) -> _Future:
        future = self._futures[number] = _Future(self.plan.calls[number])
        return future

    def _submit(self, futures: list[_Future]) -> None:
        jobs = []
        for future in futures:
            self._jobs += 1
            future.attempts += 1
            future.job = Job(self._jobs, future.call.kind, future.call.priority)
            self._by_job[future.job] = future
            jobs.append(future.job)
        self.happen("submit", *jobs)

    # -- what workers and the machine report -------------------------------------------------------

    def call_of(self, job: Job) -> Call:
        return self._by_job[job].call

    def begins(self, worker: SimulatedWorker, job: Job) -> None:
        """The body of a call starts there, whatever the pool knows of it."""
        self.clock.note(f"{worker.session} begins {job}")
        future = self._by_job[job]
        future.starts += 1
        check(job not in self._ran, f"{job} runs in {worker.session} after it ran elsewhere")
        self._ran[job] = worker
        invariants.starts(f"call of {job}", future.starts, future.call.retries)
        if future.call.timeout is not None:
            self.clock.after(future.call.timeout, self._timed_out, job)

    def lends(self, worker: SimulatedWorker, job: Job, call: Call) -> None:
        """A call submits another one and waits: there is one slot more until that is over."""
        future = _Future(call, (worker, job))
        self._futures[len(self.plan.calls) + len(self._futures)] = future
        self._resize(blocked=1)
        self._submit([future])
        self.happen("prefer", future.job.number)

    def _given_back(self, future: _Future) -> None:
        assert future.parent is not None
        self._resize(blocked=-1)
        self.crew.child_ended(*future.parent)

    def orphans(self, worker: SimulatedWorker) -> None:
        """What a worker that died has submitted is killed."""
        for future in self._futures.values():
            if future.parent is not None and future.parent[0] is worker:
                self.clock.after(self.rng.randint(10, 400), self._kill, future)

    def _kill(self, future: _Future) -> None:
        if future not in self._over:
            self.happen("kill", future.job.number)

    def _timed_out(self, job: Job) -> None:
        if job not in self.pool.ended:
            self.clock.note(f"{job} is out of time")
            self.happen("kill", job.number)

    def ended(self, job: Job, how: str) -> None:
        """The machine says that a call is over."""
        future, worker = self._by_job[job], self._ran.get(job)
        if how == "killed":
            lives = worker is not None and worker.alive and worker.current is job
            invariants.dead_then_resolved(job, lives)
        if how == "cancelled" or how == "refused":
            check(worker is None, f"{job} has begun, and ended as {how}")
        if how == "crashed" and future.attempts <= future.call.retries and not self.pool.closed:
            self.clock.after(self.rng.randint(100, SECOND // 10), self._submit, [future])
            return
        invariants.ends_once(future, self._over)
        self._over.add(future)
        if future.parent is not None:
            self.clock.after(0, self._given_back, future)
