"""A place where an engine runs calls of a program: a pool of our worker processes, and a line.

    an engine's worker process                        the program (`_far_hub`)
      its thread ── hold(ticket, lease) ─┐
      the line's thread ◀── run, kill ───┼──────────── Line
      our pool: worker processes ──done──┘

The engine's own process runs no code of the user: what crashes, exits or is killed is a process of
ours, and nobody beside it notices.

1. There is one place for each program in a process of the engine, made by the first lease.
2. A place whose line has ended ends all that it runs: nobody could ask for the outcome, and the
   program takes these calls for lost.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from unirun import _opaque
from unirun._blobs import can_map
from unirun._call_notes import drop_call_notes
from unirun._errors import TaskKilled, UnirunError
from unirun._far_blobs import Spares
from unirun._far_body import prepare, run_call
from unirun._far_lines import Line, dial
from unirun._far_pulse import Pulse
from unirun._far_relay import Relay, figures_of
from unirun._far_tunnel import Entrance
from unirun._payload import loads
from unirun._record import as_bytes, standalone
from unirun._registry import load
from unirun._ship import unpacked
from unirun.backend import CallOptions, WorkerSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from tempfile import TemporaryDirectory
    from typing import Any

__all__ = ["hold", "machine", "versions"]

PROTOCOL = 1
STATS = ("workers", "pids", "restarts", "busy", "utilisation")
"""What a place tells of its pool, for `Executor.stats`."""
_NOTHING = (None, None, None, None)
REACH = 10.0
"""Seconds in which the program must be reached."""


def versions() -> dict[str, str]:
    """What both sides must have in common, and what is good to know."""
    import cloudpickle

    return {
        "unirun protocol": str(PROTOCOL),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "unirun": sys.modules["unirun"].__version__,
        "cloudpickle": cloudpickle.__version__.partition(".")[0],
        "byte order": sys.byteorder,
        "implementation": platform.python_implementation(),
    }


def machine() -> str:
    """Stands for this machine since its start, and for who sees the same files as we do."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        return f"{boot} {os.stat('/').st_ino} {os.stat('/').st_dev}"
    except OSError:
        return f"{socket.gethostname()} {platform.platform()}"


def hold(ticket: bytes, lease: int, slots: int, security: ssl.SSLContext | None = None) -> str:
    """Keep a slot of the engine's worker for as long as the program has calls for it.

    Returns "" or, as JSON, why it could not.
    """
    facts = json.loads(ticket)
    mine, theirs = versions(), facts["versions"]
    wrong = {name: (mine[name], theirs.get(name)) for name in mine}
    wrong = {name: pair for name, pair in wrong.items() if pair[0] != pair[1]}
    if wrong:
        return json.dumps({"mismatch": wrong, "where": _where()})
    try:
        place = _place(facts, slots, security)
    except OSError as exc:
        return json.dumps({"unreachable": f"{type(exc).__name__}: {exc}", "where": _where()})
    place.hold(lease)
    return ""


def _where() -> str:
    return f"{socket.gethostname()} (pid {os.getpid()})"


_places: dict[str, Place] = {}  # by run; guarded by the lock, under which one is made
_making = threading.Lock()


def _place(facts: dict[str, Any], slots: int, security: ssl.SSLContext | None) -> Place:
    run = facts["run"]
    with _making:
        place = _places.get(run)
        if place is None or place.over:
            address = facts["address"][0], int(facts["address"][1])
            inside = security if facts["tls"] else None
            reach = partial(dial, address, bytes.fromhex(run), inside, REACH)
            is_ours = facts["machine"] == machine()
            sees = is_ours and can_map(facts["pid"])
            place = _places[run] = Place(run, reach, slots, is_ours, sees)
        return place


class Place:
    """Owns the line, its thread, the pool, its pulse, and the entrance to shared objects."""

    def __init__(
        self, run: str, reach: Callable[[], Line], slots: int, is_ours: bool, sees: bool
    ) -> None:
        self._run_id = run
        self._reach = reach
        self._line = line = reach()
        self._slots = slots
        self._is_ours = is_ours
        self._machine = "" if is_ours else socket.gethostname()
        self.over = False
        # Guards the two below.
        self._lock = threading.Lock()
        self._leases: dict[int, threading.Event] = {}
        self._calls: dict[int, Any] = {}
        # Set by the first message.
        self._pool: Any = None
        self._relay: Relay
        self._levels: bytes
        self._entrance: Entrance | None = None
        self._pulse: Pulse | None = None
        self._thread = threading.Thread(target=self._serve, name="unirun-place", daemon=True)
        self._spares = Spares()  # of the line's thread
        self._shipped: TemporaryDirectory[str] | None = None
        self._seldom: dict[str, Callable[..., object]] = {
            "blob": self._spares.fill,
            "forget": self._spares.forget,
            "heard": lambda *args: self._relay.took(*args),
            "kill": self._kill,
            "kill all": lambda grace: self._pool._end_workers(grace),
            "levels": self._follow,
            "setup": self._set_up,
            "stats": self._tell_stats,
            "stop": partial(self._with_call, self._stop),
            "tell": partial(self._with_call, self._tell),
            "watch": lambda on: self._relay.watch(on, self._pool),
            "where": partial(self._with_call, self._tell_where),
        }
        line.send("hello", _where(), os.getpid(), slots, time.monotonic(), self._machine)
        line.send("sees", sees)
        self._thread.start()

    def hold(self, lease: int) -> None:
        """Return when that lease is over."""
        over = threading.Event()
        with self._lock:
            self._leases[lease] = over
        if not self.over:
            self._say("lease", lease)
            over.wait()
        with self._lock:
            self._leases.pop(lease, None)

    def _say(self, *message: Any) -> None:
        try:
            self._line.send(*message)
        except OSError:
            pass  # rule 2: the thread that receives sees to it

    # -- the line's thread ------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while True:
                message = self._line.receive()
                if message[0] == "bye":
                    break
                self._obey(*message)
        except (EOFError, OSError, ValueError):
            pass  # the program is gone
        finally:
            self._end()

    def _obey(self, what: str, *args: Any) -> None:
        if what == "run":
            self._spares.run_with(self._run, *args)
        elif what == "over":
            self._release(args[0])
        elif (do := self._seldom.get(what)) is not None:
            do(*args)

    def _tell_stats(self, token: int) -> None:
        found = self._pool.stats()
        self._say("stats", token, *(getattr(found, name) for name in STATS))

    def _follow(self, levels: bytes) -> None:
        self._levels = levels

    def _set_up(self, setup: bytes) -> None:
        told: dict[str, Any] = loads(setup)
        where = f" on {self._machine}" if self._machine else ""
        self._relay = Relay(self._say, where)
        self._levels = told["levels"]
        self._entrance = Entrance(self._reach, told["host"])
        there = told["path"], self._is_ours, told["directory"], self._entrance.tell()
        if told["ship"] and not self._is_ours:
            self._shipped = unpacked(told["ship"])
        shipped = self._shipped.name if self._shipped else ""
        initargs = (told["key"], told["engine"], where, self._levels, *there, shipped)
        spec = WorkerSpec(
            **told["spec"],
            max_workers=self._slots,
            initializer=prepare,
            initargs=(*initargs, told["initializer"]),
        )
        pool: Any = load("process")(spec)
        self._pool = pool
        pool.pass_on(self._relay.pass_on)
        self._pulse = Pulse(self._line, told["lost_after"], lambda: pool.stats().pids)

    def _run(self, lease: int, number: int, about: tuple[Any, ...], payload: bytes) -> None:
        name, kind, attempt, timeout, deadline, left, memory, parts, carried = about
        settings, variables, seed, parent = carried or _NOTHING
        if deadline is not None and not self._is_ours:
            deadline = time.monotonic() + left  # the clock of another machine
        options = CallOptions(
            timeout=timeout,
            deadline=deadline,
            name=name,
            memory=memory,
            kind=kind,
            attempt=attempt,
            call=number,  # by which the relay knows it
            seed=seed,
            settings=settings,
        )
        args = (payload, number, parent, variables, self._levels)
        try:
            if parts:
                hear = partial(self._part, number)
                call = self._pool.submit_with_parts(run_call, args, {}, options, hear)
            else:
                call = self._pool.submit(run_call, args, {}, options)
        except BaseException as exc:  # an initializer that failed, say  # noqa: BLE001
            self._say("done", lease, number, _opaque.FAILED, _opaque.encode_error(exc), None)
            return
        with self._lock:
            self._calls[number] = call
        call.add_done_callback(partial(self._done, lease, number, name, parts))

    def _with_call(self, do: Callable[[int, Any], object], number: int) -> None:
        with self._lock:
            call = self._calls.get(number)
        if call is not None and not call.done():
            do(number, call)

    def _kill(self, number: int, grace: float | None) -> None:
        def end(_: int, call: Any) -> None:
            if not call.cancel():
                call._request_kill(grace)

        if (lease := self._spares.withdraw(number)) is not None:
            error = _opaque.encode_error(TaskKilled("the call was killed before it began"))
            self._say("done", lease, number, _opaque.KILLED, error, None)
        self._with_call(end, number)

    def _stop(self, _: int, call: Any) -> None:
        self._pool.request_stop(call)

    def _tell_where(self, number: int, call: Any) -> None:
        self._say("began", number, figures_of(call))

    # -- in threads of the pool -------------------------------------------------------------------

    def _part(self, number: int, part: bytes, memory: memoryview) -> None:
        data = standalone(part, memory)
        self._pool.call_back(partial(self._say, "part", number, data))

    def _tell(self, number: int, call: Any) -> None:
        if (part := call.unsaid(0)) is not None:
            self._say("part", number, as_bytes(part))

    def _done(self, lease: int, number: int, name: str, parts: bool, call: Any) -> None:
        with self._lock:
            self._calls.pop(number, None)
        error = call._exception
        if call.cancelled():
            error = error or TaskKilled(f"{name} was killed")
            outcome = _opaque.KILLED, _opaque.encode_error(error)
        elif error is not None:
            drop_call_notes(error)  # they tell of `run_call`
            outcome = _opaque.FAILED, _opaque.encode_error(error)
        else:
            outcome = call._result
        if parts and error is not None:
            self._tell(number, call)
        try:
            self._say("done", lease, number, *outcome, figures_of(call))
        except ValueError as exc:  # larger than marshal can write
            failure = UnirunError(f"the result of {name} cannot be sent: {exc}")
            outcome = _opaque.UNSENDABLE, _opaque.encode_error(failure)
            self._say("done", lease, number, *outcome, figures_of(call))

    # -- the end ----------------------------------------------------------------------------------

    def _release(self, lease: int) -> None:
        with self._lock:
            over = self._leases.get(lease)
        if over is not None:
            over.set()

    def _end(self) -> None:
        self.over = True
        for each in (self._pulse, self._entrance):
            if each is not None:
                each.close()
        if self._pool is not None:
            self._pool.shutdown(kill=True)
            self._pool.join(10.0)
            self._relay.close()
        with self._lock:
            leases = list(self._leases.values())
        for over in leases:
            over.set()
        self._line.close()
        self._spares.close()
        if self._shipped is not None:
            self._shipped.cleanup()
        with _making:
            if _places.get(self._run_id) is self:
                del _places[self._run_id]
