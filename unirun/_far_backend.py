"""Backends whose calls run at places of an engine: an agent asks for leases, a hub fills them.

    submit ─▶ line ─▶ Leases ──ask──▶ agent ─▶ engine ─▶ a place begins a lease ─▶ hub
                         └──────────────run, kill──────────────────────────────────▶ place
                              ◀──────────done, parts───────────────────────────────

1. What runs where, and when, is decided by `_far_state`, under the lock; what it orders is carried
   out after that, since it writes to pipes.
2. A place whose line has ended is lost with what ran there: these calls end with ResultLost, and
   are never run again unasked.
3. When the engine is lost, everything open ends with BackendLost, places are told to end what they
   run, and later submits are refused.
"""

from __future__ import annotations

import os
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable
from functools import partial

from unirun import _opaque
from unirun._connect import run_key
from unirun._errors import BackendLost, BackendUnavailable, NoSuitableWorker, SerializationError
from unirun._far_calls import FarFuture
from unirun._far_crew import FarCrew
from unirun._far_hub import Hub, new_key
from unirun._far_setup import again, setup_of, ticket_for, unmet, why_not
from unirun._far_state import ASK, DROP, OVER, RUN, Leases, Order
from unirun._far_telling import FarTelling
from unirun._future import Future
from unirun._machine import cpu_count
from unirun._opaque_calls import OpaqueFuture
from unirun._payload import dumps
from unirun._place import Place
from unirun._ship import pack
from unirun.backend import Capability, WorkerSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any

    from unirun._far_agent import Agent, SharedAgent

__all__ = ["FarBackend"]

GOODBYE = 5.0
"""Seconds in which places end after the last call."""

_all: weakref.WeakSet[FarBackend] = weakref.WeakSet()


class FarBackend(FarTelling):
    """Base of the backends on engines that spread over machines."""

    capabilities = frozenset(
        {
            *(Capability.KILLABLE, Capability.ISOLATION, Capability.COOPERATIVE),
            *(Capability.PRIORITY, Capability.MEMORY, Capability.RESOURCES),
        }
    )
    carries_settings = True
    owns = True
    """Whether the cluster was started for us, and ends with us."""
    linger = 0.1
    span = 2.0
    patience = 20.0
    """Seconds to wait for a worker that could run a call, where there is none."""
    lost_after = 30.0
    """Seconds of silence after which a place is taken for gone."""

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self._shipped = pack(spec.ship) if spec.ship else b""
        self._initializer = None
        if spec.initializer is not None:
            setup = spec.initializer, spec.initargs
            self._initializer = dumps(setup, "the initializer or its initargs")
        self._key = new_key()
        self._run_id = self._key.hex()
        # What follows is guarded by the lock, but `_hub` and `_agent`, which are set once.
        most = None if self.owns else spec.max_workers
        limits = {"linger": self.linger, "span": self.span}
        take, near = self._take_for, self._near
        self._leases = Leases(self._waiting, take, near=near, most=most, **limits)
        self._hub: Hub | None = None
        self._agent: Agent | SharedAgent | None = None
        self._ticket = b""
        self._workers: list[dict[str, Any]] = []  # of the cluster, as the agent says
        self._hosts: dict[int, str] = {}  # by number: how a place calls itself
        self._wanting: dict[Any, float] = {}  # needs that nobody meets: since when
        self._failures = 0
        self._lost: BaseException | None = None
        self._released = False
        self._place: Any = None
        self._crew = FarCrew(self)
        _all.add(self)

    # -- of one engine ----------------------------------------------------------------------------

    @abstractmethod
    def _make_agent(self, heard: Callable[..., None]) -> Agent | SharedAgent:
        """The process that talks to the engine."""

    def _hub_security(self, told: dict[str, Any]) -> ssl.SSLContext | None:
        """TLS for the lines, where the engine has it."""
        return None

    def _engine_needs(self, needs: Any) -> dict[str, float]:
        """What the engine is to reserve for a lease."""
        return dict(needs)

    # -- beginning --------------------------------------------------------------------------------

    @property
    def max_workers(self) -> int:
        if self.spec.max_workers is not None:
            return self.spec.max_workers
        return self._leases.slots if self._workers else cpu_count()

    def _start(self) -> None:
        self._clock.start()
        self._agent = self._make_agent(self._agent_says)

    def _check_open(self) -> None:
        if self._lost is not None:
            raise again(self._lost)
        super()._check_open()

    def submit_with_parts(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Any,
        on_part: Callable[[bytes, Any], None] | None,
    ) -> OpaqueFuture:
        """Submit a call that may `emit` bytes while it runs; `on_part` gets them."""
        return self._take(fn, args, kwargs, options, on_part)

    def _pump(self) -> None:
        with self._lock:
            lost = self._lost
            orders = []
            if self._hub is not None and lost is None:
                now = time.monotonic()
                for needs in list(self._lines):
                    orders += self._leases.submitted(needs, now)
                if orders:
                    self._stir()
        if lost is not None:
            self._fail_all(lost)
        self._carry_out(orders)

    def _carry_out(self, orders: list[Order]) -> None:
        """Rule 1: without the lock."""
        asked = []
        for order in orders:
            if order.what == RUN:
                self._hand_over(order)
            elif order.what == ASK:
                asked.append((order.lease, self._engine_needs(order.needs)))
            elif order.what == OVER:
                self._tell(order.host, "over", order.lease)
            elif order.what == DROP and self._agent is not None:
                self._agent.send("drop", self._run_id, order.lease)
        if asked and self._agent is not None:
            self._agent.send("ask", self._run_id, self._ticket, asked)

    def _tell(self, host: int | None, *message: Any) -> None:
        if self._hub is not None and host is not None:
            self._hub.send(host, *message)

    def _hand_over(self, order: Order) -> None:
        future = order.call
        assert isinstance(future, FarFuture)
        options, end = future.options, future.options.deadline
        about = (
            future.name,
            options.kind,
            options.attempt,
            options.timeout,
            end,
            None if end is None else end - time.monotonic(),
            options.memory,
            future.on_part is not None,
            future.carried,
        )
        future.place = order.host
        self._precede(order.host or 0, future)
        future.worker = self._hosts.get(order.host or 0)
        try:
            needed = self._deliveries.deliver(order.host or 0, future.blobs)
            call = future.number, about, future.payload, needed
            self._tell(order.host, "run", order.lease, *call)
            self._has_left(future)
        except ValueError as exc:  # larger than marshal can write
            future._fail(SerializationError(f"the call of {future.name} cannot be sent: {exc}"))
            self._lease_ended(order.lease)

    # -- what places say: in the threads of their lines -------------------------------------------

    def _place_says(self, host: int, what: str, *args: Any) -> None:
        if what == "done":
            self._done(host, *args)
        elif what == "part":
            future = self._call(args[0])
            if future is not None and future.on_part is not None:
                future.on_part(args[1], None)
        elif what == "lease":
            with self._lock:
                orders = self._leases.begun(args[0], host, time.monotonic())
                self._failures = 0
                self._stir()
            self._carry_out(orders)
        elif what == "hello":
            with self._lock:
                self._hosts[host] = args[0]
            self._comes(host, *args[3:5])
        elif what == "sees":
            self._deliveries.arrived(host, sees=args[0])
        elif what == "hung up":
            self._host_gone(host)
        else:
            self._hear(host, what, *args)

    def _setup_of(self, host: int, levels: bytes) -> bytes:
        told = self._initializer, host, self.lost_after, levels, self._shipped
        return setup_of(self.spec, self.name, *told)

    def _done(
        self, host: int, lease: int, number: int, code: int, data: bytes, figures: Any
    ) -> None:
        future = self._call(number)
        self._lease_ended(lease)  # first: the next call need not wait until this one is decoded
        if future is not None:
            if figures is not None:
                self._measured(host, future, figures, len(data))
            self._news.after(host, partial(_opaque.settle, future, future.name, code, data))

    def _lease_ended(self, lease: int) -> None:
        with self._lock:
            orders = self._leases.ended(lease, time.monotonic())
        self._carry_out(orders)

    def _host_gone(self, host: int) -> None:
        """Rule 2."""
        self._deliveries.gone(host)
        with self._lock:
            calls, orders = self._leases.host_gone(host)
            where = self._hosts.pop(host, "a worker")
            self._stir()
        for call in calls:
            assert isinstance(call, OpaqueFuture)
            self._news.after(host, partial(call._fail, self._lost_with(call, where)))
        self._news.gone(host)
        self._carry_out(orders)

    def _lost_with(self, call: OpaqueFuture, where: str) -> BaseException:
        if self._lost is not None:
            return again(self._lost)
        from unirun._broken import ResultLost

        return ResultLost(call.name, where, attempt=call.options.attempt)

    # -- what the agent says: in its thread -------------------------------------------------------

    def _agent_says(self, what: str, *args: Any) -> None:
        if what == "ready":
            self._connected(args[0])
        elif what == "info":
            self._resized(args[0])
        elif what == "gone":
            self._lease_gone(*args)
        elif what == "failed":
            self._lose(BackendUnavailable(args[0]))
        elif what == "lost":
            self._lose(BackendLost(f"the {self.name!r} backend has lost its cluster: {args[0]}"))
        elif what == "ended":
            ended = "the process that talks to it has ended"
            self._lose(BackendLost(f"the {self.name!r} backend has lost its cluster: {ended}"))

    def _connected(self, told: dict[str, Any]) -> None:
        try:
            security = self._hub_security(told)
            hub = Hub(
                told["interface"],
                self._key,
                security,
                self._place_says,
                self.spec.name,
                self.lost_after,
            )
        except (OSError, ValueError) as exc:
            text = f"no place of the {self.name!r} backend could reach this process"
            error = BackendUnavailable(f"{text}: {exc}")
            error.__cause__ = exc
            self._lose(error)
            return
        with self._lock:
            if taken := not self._released and self._lost is None:
                self._ticket = ticket_for(hub.address, self._run_id, tls=security is not None)
                self._hub = hub
        if not taken:  # the executor was shut down meanwhile
            hub.close()
            return
        self._resized(told)
        self._pump()

    def _resized(self, told: dict[str, Any]) -> None:
        with self._lock:
            self._workers = told["workers"]
            self._leases.may_grow = bool(told.get("may_grow"))
            slots = sum(worker["slots"] for worker in self._workers)
            orders = [] if self._hub is None else self._leases.resized(slots, self._lines)
            self._stir()
        self._carry_out(orders)

    def _lease_gone(self, run: str, lease: int, report: str) -> None:
        """The engine is done with it; `report`: "" or why that was not as it should be."""
        with self._lock:
            self._failures = self._failures + 1 if report else 0
            error = why_not(report, self.name, self._ticket, self._failures) if report else None
            # A call in it ends when the line of its place does, or by its answer.
            held = self._leases.leases.get(lease)
            orders: list[Order] = []
            if held is not None and held.call is None:
                _, orders = self._leases.gone(lease)
            if error is not None:
                orders = [order for order in orders if order.what != ASK]
        if error is not None:
            self._fail_waiting(error)
        self._carry_out(orders)

    # -- failing ----------------------------------------------------------------------------------

    def _lose(self, error: BaseException) -> None:
        """Rule 3."""
        with self._lock:
            if self._lost is not None or (self._closed and not self._open):
                return
            self._lost = error
            self._stir()
        if self._hub is not None:
            self._hub.send_all("bye")
        self._fail_all(error)

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            calls = list(self._open)
        for call in calls:
            call._fail(again(error))

    def _fail_waiting(self, error: BaseException, needs: Any = None) -> None:
        while True:
            with self._lock:
                lines = list(self._lines) if needs is None else [needs]
                calls = [call for line in lines if (call := self._next(line)) is not None]
            if not calls:
                return
            for call in calls:
                call._fail(again(error))

    # -- the keeper -------------------------------------------------------------------------------

    def _tick(self) -> float | None:
        now = time.monotonic()
        with self._lock:
            if self._hub is None or self._lost is not None:
                return None if self._lost is not None else 0.5
            orders = self._leases.tick(now, self._lines)
            impossible = self._impossible(now)
            pause = self._leases.next_tick(now)
            if pause is None and self._lines:
                pause = 0.5
        self._carry_out(orders)
        self._deliveries.forget()
        for needs, why in impossible:
            self._fail_waiting(NoSuitableWorker(why), needs)
        return pause

    def _impossible(self, now: float) -> list[tuple[Any, str]]:
        """With the lock held: the needs that nobody has met for too long."""
        found = []
        wanting, self._wanting = self._wanting, {}
        for needs in self._lines:
            if why := unmet(self._engine_needs(needs), self._workers, self.name, self.patience):
                since = self._wanting[needs] = wanting.get(needs, now)
                if now - since >= (0.0 if self.owns and self._workers else self.patience):
                    found.append((needs, why))
        return found

    # -- one call ---------------------------------------------------------------------------------

    def kill(self, future: Future[Any], grace: float | None) -> None:
        self._instruct(future, "kill", grace)

    def _end_running(self, future: OpaqueFuture) -> None:
        self.kill(future, None)

    def request_stop(self, future: Future[Any]) -> None:
        self._instruct(future, "stop")

    def _ask_for_parts(self, future: OpaqueFuture) -> None:
        if future.running():
            self._tell(future.place, "tell", future.number)

    def terminate_workers(self) -> None:
        """End all worker processes politely; the calls they run end as killed."""
        self._end_workers(None)

    def kill_workers(self) -> None:
        """End all worker processes at once; the calls they run end as killed."""
        self._end_workers(0.0)

    def _end_workers(self, grace: float | None) -> None:
        if self._hub is not None:
            self._hub.send_all("kill all", grace)

    def resize(self, max_workers: int) -> None:
        """Let so many calls run at a time from now on; the cluster stays as it is."""
        with self._lock:
            self._leases.most = max_workers
            self._stir()

    # -- shared objects ---------------------------------------------------------------------------

    def shared(self, kind: str, /, *args: Any, **kwargs: Any) -> Any:
        """Hosted on this machine; places on others come through the hub (`_far_tunnel`)."""
        with self._lock:
            if self._place is None:
                self._place = Place(self.spec.manager, run_key())
        return self._place.make(kind, *args, **kwargs)

    def _sharing_interface(self) -> str:
        """The interface, known before there is a cluster."""
        return "127.0.0.1"

    # -- the end ----------------------------------------------------------------------------------

    def _release(self) -> None:
        with self._lock:
            self._released = True
        if self._place is not None:
            self._place.let_go()
        if self._hub is not None:
            self._hub.send_all("bye")
            self._hub.wait_until_empty(GOODBYE)
            self._hub.close()
        self._news.leave()
        if self._agent is not None:
            self._agent.close()

    def disown(self) -> None:
        """In a forked child: all of it stays with the parent."""
        self.stays_in_parent = True
        if self._hub is not None:
            self._hub.disown()
        if self._agent is not None:
            self._agent.disown()


def _disown_all() -> None:
    for backend in list(_all):
        backend.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
