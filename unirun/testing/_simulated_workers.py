"""The workers of a simulation: processes that come up, do what they are sent, and die anywhere.

What a worker has begun and done is known here exactly, however late the pool hears of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from unirun.testing import invariants
from unirun.testing._pool_world import Job
from unirun.testing._simulated_plan import SHARED, Step
from unirun.testing._simulated_time import MILLISECOND, SECOND
from unirun.testing.invariants import check

if TYPE_CHECKING:
    from unirun.testing._simulator import Simulator

WATCH = 20 * MILLISECOND  # between two looks for workers that are long at one call
STOP_PATIENCE = 5 * SECOND
SHARES = {"semaphore": 2}  # how many may hold it at a time
BEHIND = {name: each[1] for name, each in SHARED.items() if each[0] == "Condition"}
"""The lock of each condition."""


class SimulatedWorker:
    """One process."""

    def __init__(self, number: int, crew: Crew) -> None:
        self.number = number
        self.crew = crew
        self.session = f"w{number}"
        self.alive = True
        self.spawned = False
        self.frozen_until = 0
        self.inbox: deque[Job] = deque()  # read, and not begun
        self.batches = 0  # so many times was taken back what was on its way to it
        self.arrival = 0  # when the latest of it arrives
        self.current: Job | None = None
        self.step = 0  # of its script
        self.news: list[str] = []  # what it wrote and the pool has not read: "ready", "answer"
        self.answers = 0
        self.seen = -1  # so many answers when the pool looked whether it is stuck
        self.held = False
        self.doomed = False
        self.excused = False  # another one that died with the same zygote counts
        self.leaving = False  # nothing more will be sent to it
        self.epoch = 0  # of the manager whose objects its call has handles on
        self.token = 0  # of its latest request
        self.waits: Step | None = None  # for the reply to that
        self.sent = 0  # when that arrives
        self.owns: list[str] = []
        self.left = 0  # how often it owned the lock of the condition it waits on


class Crew:
    """All workers, and what makes and ends them."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._clock, self._rng, self._plan = simulator.clock, simulator.rng, simulator.plan
        self.workers: dict[int, SimulatedWorker] = {}
        self._zygote_back = 0  # when there is one again
        self._watching = False
        self.deaths = 0

    # -- what the machine orders ------------------------------------------------------------------

    def start(self, number: int) -> None:
        worker = self.workers[number] = SimulatedWorker(number, self)
        if self._rng.random() < self._plan.lost_spawn:
            self._clock.note(f"the start of {worker.session} is lost")
            self._clock.after(self._rng.choice([MILLISECOND, 2 * SECOND]), self._dies, worker)
        else:
            self._clock.after(self._rng.randint(300, 4000), self._spawned, worker)

    def send(self, number: int, calls: list[Job]) -> None:
        worker = self.workers[number]
        worker.arrival = max(worker.arrival, self._clock.now + self._rng.randint(5, 60))
        self.act(worker, worker.arrival - self._clock.now, self._read_calls, calls, worker.batches)
        if not self._watching:
            self._watching = True
            self._clock.after(WATCH, self._watch)

    def stop(self, number: int) -> None:
        self.act(self.workers[number], 30, self._told_to_stop)
        self._clock.after(STOP_PATIENCE, self._hurry, number)

    def kill(self, number: int) -> None:
        worker = self.workers[number]
        worker.held = worker.doomed = True
        patient = self._rng.random() < self._plan.ignores_terminate
        if worker.spawned:
            delay = self._plan.grace if patient else 0
            self._clock.after(delay + self._rng.randint(10, 100), self._dies, worker)

    def hold(self, number: int) -> None:
        worker = self.workers[number]
        worker.held = True
        self._clock.after(self._rng.randint(0, 100), self._look, worker)

    def resume(self, number: int) -> None:
        worker = self.workers[number]
        worker.held = worker.doomed
        self.act(worker, self._rng.randint(5, 60), self._begin)

    # -- a life -----------------------------------------------------------------------------------

    def act(self, worker: SimulatedWorker, delay: int, do: Callable[..., None], *args: Any) -> None:
        """Have a worker do something, if it lives then; one that is frozen does it later."""
        self._clock.after(delay, self._acts, worker, do, args)

    def _acts(self, worker: SimulatedWorker, do: Callable[..., None], args: Any) -> None:
        if self._clock.now < worker.frozen_until and worker.alive:
            later = worker.frozen_until - self._clock.now
            self._clock.after(later, self._acts, worker, do, args)
        elif worker.alive:
            do(worker, *args)

    def _spawned(self, worker: SimulatedWorker) -> None:
        if self._clock.now < self._zygote_back:
            self._clock.after(self._zygote_back - self._clock.now, self._spawned, worker)
        elif worker.alive:
            worker.spawned = True
            if worker.doomed:  # killed as soon as its number was known
                self._dies(worker)
            else:
                self.act(worker, self._rng.randint(100, 3000), self._say, "ready")

    def _say(self, worker: SimulatedWorker, what: str) -> None:
        """Write a message to the pool; a death before or amid it, and nobody ever reads it."""
        fault = self._fault(worker)
        if fault not in ("before", "amid"):
            if what == "answer":
                self._end_task(worker)
            worker.news.append(what)
            self._clock.after(self._rng.randint(5, 200), self._read, worker)
        if fault:
            self._dies(worker)
        else:
            self.act(worker, self._rng.randint(1, 10), self._begin)

    def _end_task(self, worker: SimulatedWorker) -> None:
        worker.answers += 1
        worker.current = None
        worker.owns.clear()
        self._simulator.host.end_task(worker)

    def _read_calls(self, worker: SimulatedWorker, calls: list[Job], batches: int) -> None:
        """A message from the pool; it may die having read none, a part or all of it."""
        if batches != worker.batches:
            return  # that was taken back
        fault = self._fault(worker)
        worker.inbox.extend([] if fault == "before" else calls[:1] if fault == "amid" else calls)
        if fault:
            self._dies(worker)
        self._begin(worker)

    def _begin(self, worker: SimulatedWorker) -> None:
        if not worker.alive or worker.held or worker.current is not None:
            return
        if worker.inbox:
            job = worker.current = worker.inbox.popleft()
            worker.step = 0
            worker.epoch = self._simulator.host.epoch
            self._simulator.begins(worker, job)
            self._go_on(worker, job)
        elif worker.leaving:
            slow = self._rng.random() < self._plan.slow_exit
            self._clock.after(8 * SECOND if slow else 50, self._dies, worker)

    def _told_to_stop(self, worker: SimulatedWorker) -> None:
        worker.leaving = True
        self._begin(worker)

    def _go_on(self, worker: SimulatedWorker, job: Job) -> None:
        """The next step of what it runs."""
        if worker.current is not job:
            return
        script = self._simulator.call_of(job).script
        if worker.step == len(script):
            self._say(worker, "answer")
            return
        step = script[worker.step]
        worker.step += 1
        if step[0] == "work":
            self.act(worker, step[1], self._go_on, job)
        elif step[0] == "crash":
            self._dies(worker)
        elif step[0] == "call":
            self._simulator.lends(worker, job, step[1])
        else:
            self._ask(worker, step, job)

    # -- shared objects ---------------------------------------------------------------------------

    def child_ended(self, worker: SimulatedWorker, job: Job) -> None:
        """The call that this one waited for is over."""
        self.act(worker, self._rng.randint(5, 60), self._go_on, job)

    def _ask(self, worker: SimulatedWorker, step: Step, job: Job) -> None:
        op, name, *args = step
        lock = BEHIND.get(name, name)
        if op == "misuse":  # a release of what it does not own
            if lock in worker.owns:
                self._go_on(worker, job)
                return
            op = "release"
        elif op in ("release", "notify") or name == "condition":
            if lock not in worker.owns:
                self._go_on(worker, job)  # it never got what it would need
                return
            worker.left = worker.owns.count(lock)  # so often, a wait gets it back
            if op == "wait":
                worker.owns = [each for each in worker.owns if each != lock]
            elif op == "release":
                worker.owns.remove(lock)  # from here on it does nothing that needs it
        fault = self._fault(worker)
        if fault in ("before", "amid"):
            self._dies(worker)
            return
        worker.token += 1
        worker.waits = step
        within = args.pop(0) if op in ("acquire", "wait", "put", "get") else None
        self._simulator.host.ask(worker, op, name, tuple(args), within)
        if fault:
            self._dies(worker)
        elif op in ("acquire", "put", "get") and self._rng.random() < self._plan.interrupt:
            self.act(worker, self._rng.randint(1, 3000), self._interrupted, worker.token)

    def replied(self, worker: SimulatedWorker, token: int, status: str, value: Any) -> None:
        """The host has answered that request, if it is the one it waits for."""
        if token != worker.token or worker.waits is None or worker.current is None:
            return
        fault = self._fault(worker)
        if fault in ("before", "amid"):
            self._dies(worker)
            return
        (op, name, *_), worker.waits = worker.waits, None
        if status == "item":
            self._simulator.host.acknowledge(worker, value)
        elif status == "ok" and op == "acquire":
            self._owns(worker, name)
        elif status == "ok" and op == "wait" and name in BEHIND:
            for _ in range(worker.left):
                self._owns(worker, BEHIND[name])
        if fault:
            self._dies(worker)
        else:
            self._go_on(worker, worker.current)

    def _owns(self, worker: SimulatedWorker, name: str) -> None:
        worker.owns.append(name)
        living = [each for each in self.workers.values() if each.alive]
        holders = [each.session for each in living if name in each.owns]
        invariants.exclusion(name, holders, SHARES.get(name, 1))

    def _interrupted(self, worker: SimulatedWorker, token: int) -> None:
        if token == worker.token and worker.waits is not None and worker.current is not None:
            worker.waits = None
            self._simulator.host.interrupt(worker)
            self._go_on(worker, worker.current)

    # -- deaths -----------------------------------------------------------------------------------

    def _fault(self, worker: SimulatedWorker) -> str:
        """Whether it dies at this message, and when; "" if not."""
        if self._rng.random() >= self._plan.per_message:
            return ""
        when = self._rng.choice(["before", "amid", "after"])
        self._clock.note(f"{worker.session} dies {when} a message")
        return when

    def crash(self, which: int) -> None:
        """One of those that live dies."""
        living = [each for each in self.workers.values() if each.alive and each.spawned]
        if living:
            self._dies(living[which % len(living)])

    def freeze(self, which: int) -> None:
        """One of those that live is stopped for a while."""
        living = [each for each in self.workers.values() if each.alive]
        if living:
            worker = living[which % len(living)]
            worker.frozen_until = self._clock.now + 5 * SECOND
            self._clock.note(f"{worker.session} is stopped for 5 s")

    def zygote_dies(self) -> None:
        """With it goes whoever has not come out of it; another one takes its place."""
        self._clock.note("the zygote dies")
        self._zygote_back = self._clock.now + self._rng.choice([500, 20 * MILLISECOND])
        unborn = [each for each in self.workers.values() if each.alive and not each.spawned]
        for worker in unborn:
            worker.excused = worker is not unborn[0]
            self._dies(worker)

    def _dies(self, worker: SimulatedWorker) -> None:
        if not worker.alive:
            return
        worker.alive = False
        worker.owns.clear()
        self.deaths += 1
        self._clock.note(f"{worker.session} dies")
        late = self._rng.random() < self._plan.late_notice
        delay = self._rng.randint(10, 2 * SECOND if late else 400)
        self._clock.after(delay, self._noticed, worker)
        self._simulator.host.lost(worker, self._rng.randint(10, 2 * SECOND if late else 400))
        self._simulator.orphans(worker)
        if self._rng.random() < self._plan.double_notice:
            again = delay + self._rng.randint(1, SECOND)
            self._clock.after(again, self._noticed_again, worker)
            self._simulator.host.lost(worker, again)

    def _noticed(self, worker: SimulatedWorker) -> None:
        """The pool hears of a death: first it reads what the dead one still had to say."""
        self._read(worker)
        self._check_books(worker)
        begun = worker.current is not None
        self._simulator.happen("gone", worker.number, begun, worker.excused)

    def _noticed_again(self, worker: SimulatedWorker) -> None:
        job = worker.current
        self._simulator.happen("echo", worker.number, None if job is None else job.number)

    # -- what the pool does of its own accord -----------------------------------------------------

    def _read(self, worker: SimulatedWorker) -> None:
        """All that a worker has written."""
        news, worker.news = worker.news, []
        if worker.number not in self._simulator.pool.hands:
            return
        if "ready" in news:
            self._simulator.happen("ready", worker.number)
        if count := news.count("answer"):
            most = self._plan.most_tasks
            last = most is not None and worker.answers >= most
            self._simulator.happen("answer", worker.number, count, last)
            if self._plan.idle_timeout is not None:
                self._clock.after(self._plan.idle_timeout, self._retire, worker, worker.answers)

    def _look(self, worker: SimulatedWorker) -> None:
        """What has a worker that is held begun?  If nothing, it is left with its next call."""
        pool = self._simulator.pool
        if worker.number in pool.hands:
            self._read(worker)
        hand = pool.hands.get(worker.number)
        if hand is None or not hand.held:
            return
        self._check_books(worker)
        begun = worker.current is not None
        left = not begun and bool(hand.calls) and hand.calls[0] not in pool.wanted
        worker.batches += 1
        worker.inbox = deque(hand.calls[:1] if left else ())
        self._simulator.happen("look", worker.number, begun, left)

    def _check_books(self, worker: SimulatedWorker) -> None:
        """What runs is the first of what the machine believes to be there."""
        held = self._simulator.pool.hands[worker.number].calls
        ran = worker.current
        check(ran is None or held[:1] == (ran,), f"{worker.session} runs {ran}, and has {held}")

    def _watch(self) -> None:
        """Of who is long at one call: what is done is told, what waits behind it goes to others."""
        pool = self._simulator.pool
        for number in pool.state.crowded():
            worker = self.workers[number]
            if worker.seen == worker.answers:
                self._read(worker)
                if number in pool.hands:
                    self._simulator.happen("stuck", number)
            worker.seen = worker.answers
        self._watching = bool(pool.state.crowded())
        if self._watching:
            self._clock.after(WATCH, self._watch)

    def _retire(self, worker: SimulatedWorker, answers: int) -> None:
        idle = worker.number in self._simulator.pool.idle()
        if idle and worker.answers == answers:
            self._simulator.happen("retire", worker.number)

    def _hurry(self, number: int) -> None:
        if number in self._simulator.pool.hands:
            self._simulator.happen("hurry", number)
