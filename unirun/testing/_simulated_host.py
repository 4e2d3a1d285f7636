"""The manager of a simulation: the coordinator, its model, and links that take time and break.

What a session sends arrives in order; of a dead one, all that was on its way comes before the news
of its death.  When the manager dies every object is lost, and another one takes its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unirun.testing import invariants
from unirun.testing._coordinator_world import Twins
from unirun.testing.invariants import check

if TYPE_CHECKING:
    from unirun.testing._simulated_workers import SimulatedWorker
    from unirun.testing._simulator import Simulator


class _Twins(Twins):
    """They hand their replies on."""

    host: Host

    def replied(self, replies: list[Any]) -> None:
        self.host.reply(replies)


class Host:
    """Where requests of workers arrive, and their replies come from."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._clock, self._rng = simulator.clock, simulator.rng
        self._workers: dict[str, SimulatedWorker] = {}
        self._tokens: dict[str, int] = {}  # by session: which of its requests is served
        self._lost: set[str] = set()  # sessions whose death was told
        self._delivered: set[bytes] = set()
        self._items = 0
        self.epoch = -1
        self._replace()

    def _replace(self) -> None:
        self.epoch += 1
        make = self._simulator.make_coordinator
        self._twins = _Twins(self._simulator.plan.spec, make, 1 + 1000 * self.epoch)
        self._twins.host = self
        self._tokens.clear()
        self._alarm: int | None = None

    # -- what workers see of it -------------------------------------------------------------------

    def ask(self, worker: SimulatedWorker, op: str, name: str, args: Any, within: Any) -> None:
        """Send a request; the reply comes to `worker.replied`, if it lives."""
        self._workers[worker.session] = worker
        self._send(worker, self._asked, worker.epoch, worker.token, op, name, args, within)

    def acknowledge(self, worker: SimulatedWorker, item: bytes) -> None:
        """The item has arrived: it is delivered, and to nobody else."""
        check(item not in self._delivered, f"item {item!r} was delivered twice")
        self._delivered.add(item)
        self._send(worker, self._acknowledged, worker.epoch, worker.token)

    def interrupt(self, worker: SimulatedWorker) -> None:
        """It waits no longer for what it asked last."""
        self._send(worker, self._interrupted, worker.epoch, worker.token)

    def end_task(self, worker: SimulatedWorker) -> None:
        if worker.session in self._workers:
            self._send(worker, self._ended, worker.epoch)

    def lost(self, worker: SimulatedWorker, delay: int) -> None:
        """It died; that is noticed so much later."""
        if worker.session in self._workers:
            at = max(worker.sent, self._clock.now + delay)
            self._clock.after(at - self._clock.now, self._session_lost, worker)

    def _send(self, worker: SimulatedWorker, do: Any, *args: Any) -> None:
        worker.sent = max(worker.sent, self._clock.now + self._rng.randint(5, 60))
        self._clock.after(worker.sent - self._clock.now, do, worker, *args)

    # -- what arrives -----------------------------------------------------------------------------

    def _asked(
        self,
        worker: SimulatedWorker,
        epoch: int,
        token: int,
        op: str,
        name: str,
        args: tuple[Any, ...],
        within: Any,
    ) -> None:
        if worker.session in self._lost:
            return
        if epoch != self.epoch:  # its handle is one on an object of the manager that died
            self._note(f"{worker.session} {op} {name}, which went with its manager")
            gone = self._twins.coordinator.request(worker.session, token, op, 1 + 1000 * epoch)
            check([reply[2] for reply in gone] == ["lost"], f"{gone}, and the object is lost")
            self._clock.after(20, self._deliver, worker, token, self.epoch, "lost", None)
            return
        self._note(f"{worker.session} {op} {name} {args} within {within}")
        self._tokens[worker.session] = token
        if op == "put":
            self._items += 1
            args = (str(self._items).encode(),)
        self._at_now().ask(worker.session, op, name, *args, within=within)
        self._set_alarm()

    def _acknowledged(self, worker: SimulatedWorker, epoch: int, token: int) -> None:
        if self._still_serves(worker, epoch, token):
            self._note(f"{worker.session} has its item")
            self._twins.acknowledge(worker.session)

    def _interrupted(self, worker: SimulatedWorker, epoch: int, token: int) -> None:
        if self._still_serves(worker, epoch, token):
            self._note(f"{worker.session} gives up")
            self._at_now().cancel(worker.session)
            self._set_alarm()

    def _still_serves(self, worker: SimulatedWorker, epoch: int, token: int) -> bool:
        session, twins = worker.session, self._twins
        known = session in twins.pending or session in twins.answered
        return epoch == self.epoch and self._tokens.get(session) == token and known

    def _ended(self, worker: SimulatedWorker, epoch: int) -> None:
        if epoch == self.epoch and worker.session not in self._lost:
            self._note(f"a task of {worker.session} has ended")
            self._at_now().end_task(worker.session)
            self._set_alarm()

    def _session_lost(self, worker: SimulatedWorker) -> None:
        if worker.session in self._lost:  # told a second time
            again = self._twins.coordinator.session_lost(worker.session)
            check(not again, f"a second notice of a death had an effect: {again}")
            return
        self._lost.add(worker.session)
        self._note(f"{worker.session} is lost")
        self._at_now().die(worker.session)
        self._set_alarm()

    def _at_now(self) -> Twins:
        self._twins.now = self._clock.now
        return self._twins

    def _set_alarm(self) -> None:
        due = self._twins.coordinator.next_deadline()
        if due is not None and due != self._alarm:
            self._alarm = int(due)
            self._clock.after(max(0, self._alarm - self._clock.now), self._expire, self.epoch)

    def _expire(self, epoch: int) -> None:
        if epoch != self.epoch:
            return
        self._alarm = None
        due = self._twins.coordinator.next_deadline()
        while due is not None and due <= self._clock.now:
            self._note("a wait is over")
            self._twins.tick()
            due = self._twins.coordinator.next_deadline()
        self._set_alarm()

    # -- what goes back ---------------------------------------------------------------------------

    def reply(self, replies: list[Any]) -> None:
        for session, _, status, value in replies:
            self._note(f"{session} is answered {status}")
            worker, token = self._workers[session], self._tokens[session]
            delay = self._rng.randint(5, 60)
            self._clock.after(delay, self._deliver, worker, token, self.epoch, status, value)

    def _deliver(
        self, worker: SimulatedWorker, token: int, epoch: int, status: str, value: Any
    ) -> None:
        if epoch == self.epoch:
            worker.crew.act(worker, 0, worker.crew.replied, token, status, value)

    # -- disasters, and the end -------------------------------------------------------------------

    def crash(self) -> None:
        """The manager dies: whoever waits is told, and whoever holds something has lost it."""
        self._note("the manager dies")
        waiting = list(self._twins.pending)
        tokens = self._tokens.copy()
        answered = [worker for worker in self._workers.values() if worker.waits]
        self._replace()
        for worker in self._workers.values():
            worker.owns.clear()
        for worker in answered:
            self._clock.after(50, self._deliver, worker, worker.token, self.epoch, "lost", None)
        unknown = [session for session in waiting if session not in tokens]
        check(not unknown, f"{unknown} wait for what they never asked")

    def check_end(self) -> None:
        """Every session is gone: nobody waits, and nothing is held."""
        invariants.nothing_left(self._twins.pending)
        for name, thing in self._twins.model.things.items():
            subject = self._twins.subject(name)
            if thing.is_lock:
                check(subject.owner is None, f"{name} is held by {subject.owner}, who is dead")
            elif thing.kind == "Semaphore":
                check(subject._value == thing.number, f"{name} has {subject._value} permits")

    def _note(self, what: str) -> None:
        self._clock.note(what)
