"""Spans and metrics of OpenTelemetry for the calls of a program, or of one executor.

    from unirun.integrations.opentelemetry import instrument

    instrument()          # all executors; `instrument(executor)` for one

A span for each call, or each attempt of one that is retried, from the beginning of its body to its
end, wherever that ran.  Its parent is the span in which it was submitted, or that of the call that
submitted it.  A call that never began has one that begins when it was submitted.  Spans that a
task makes itself are children of what was current at the submit, as the trace context travels with
calls.

    metric                          kind                unit        attributes
    unirun.calls                    counter             {call}      outcome and those below
    unirun.call.duration            histogram           s           outcome and those below
    unirun.call.queue.duration      histogram           s           those below
    unirun.call.cpu.time            counter             s           those below
    unirun.calls.waiting            up-down counter     {call}      unirun.backend, unirun.kind
    unirun.calls.running            up-down counter     {call}      unirun.backend, unirun.kind
    unirun.retries                  counter             {attempt}   code.function.name, ...
    unirun.bytes                    counter             By          unirun.direction, unirun.backend
    unirun.workers                  up-down counter     {worker}    unirun.backend
    unirun.worker.deaths            counter             {worker}    unirun.backend

Attempts of a call that is retried count each.  Needs the package opentelemetry-api; what becomes of
spans and metrics is up to the program's providers, as ever.
"""

from __future__ import annotations

import atexit
import time
from typing import TYPE_CHECKING, Any, Self

from opentelemetry import metrics, trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode

from unirun import _observe
from unirun._events import Courier, Sources, log
from unirun._observe import ENDS, Event

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from opentelemetry.metrics import Meter, MeterProvider
    from opentelemetry.trace import Tracer, TracerProvider

    from unirun._executor import Executor

__all__ = ["Instrumentation", "instrument"]

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0)
_MOST_OPEN = 100_000
"""Calls that are remembered while they are open; there are more only if ends were dropped."""


def instrument(
    executor: Executor | None = None,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    spans: bool = True,
) -> Instrumentation:
    """Tell OpenTelemetry of calls from now on: of that executor, or of all of the program.

    Args:
        executor: None for all, those that are made later included.
        tracer_provider, meter_provider: None for the global ones.
        spans: False for metrics only.

    Returns:
        A handle: `close()` ends it, as does leaving a `with` block of it.
    """
    tracer = trace.get_tracer("unirun", tracer_provider=tracer_provider) if spans else None
    meter = metrics.get_meter("unirun", meter_provider=meter_provider)
    return Instrumentation(executor, tracer, meter)


class Instrumentation:
    """Made by `instrument`; owns a thread that does what providers may take their time for."""

    def __init__(self, executor: Executor | None, tracer: Tracer | None, meter: Meter) -> None:
        self._tracer = tracer
        self._figures = _Figures(meter)
        self._open: dict[int, _Call] = {}  # by number; touched by the courier's thread alone
        self._courier = Courier(self._tell, "unirun-telemetry")
        self._sources = None if executor is None else Sources(executor, self._courier.stop)
        self._courier.start()
        self._unwatch: Callable[[], None] | None = _observe.watch(self._see)
        atexit.register(self.close)  # before that of the provider, which was made earlier

    @property
    def dropped(self) -> int:
        """How many events the providers were too slow for."""
        return self._courier.dropped

    def flush(self, seconds: float = 5.0) -> bool:
        """Wait until what has happened is told; False if that takes longer."""
        return self._courier.flush(seconds)

    def close(self) -> None:
        """Tell what has happened so far, and no more."""
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()
            self._courier.close()
            atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _see(self, event: Event) -> None:
        """As `_observe.Watcher` says; the current span is the submitter's, whose thread this is."""
        if self._sources is not None and not self._sources.has(event):
            return
        current = None
        if event.what in ("submitted", "held"):
            current = trace.get_current_span().get_span_context()
        self._courier.put((Event(event.__dict__), current))  # without the future

    # -- the thread -------------------------------------------------------------------------------

    def _tell(self, told: tuple[Event, SpanContext | None]) -> None:
        event, current = told
        try:
            self._handle(event, current)
        except Exception:  # noqa: BLE001  # a provider's; the calls go on
            log().exception("OpenTelemetry was not told of event %r", event.what)

    def _handle(self, event: Event, current: SpanContext | None) -> None:
        if event.call is None:
            self._figures.of_worker(event)
            return
        if event.what == "retried":  # its attempt has been told as failed
            self._figures.of_retry(event)
            return
        call = self._open.get(event.call)
        if call is None:
            if len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open)))
            call = self._open[event.call] = _Call()
        if current is not None and call.submitted_in is None:
            call.submitted_in, call.parent = current, event.parent
        if event.what == "started":
            call.begun = event
        self._figures.of_call(event, call)
        if event.what in ENDS:
            self._end_span(call, event)
            del self._open[event.call]

    def _span_of(self, call: _Call, event: Event, began: float) -> None:
        """Begin its span, if that was not done."""
        if call.span is None and self._tracer is not None:
            call.span = self._tracer.start_span(
                event.task or "call",
                context=self._context_of(call),
                kind=SpanKind.INTERNAL,
                attributes={"code.function.name": event.task or "", **_place(event)},
                start_time=_epoch(began),
            )

    def _context_of(self, call: _Call) -> Any:
        """Its parent is the span of the call that has submitted it, unless the task was in another
        one by then."""
        above = None if call.parent is None else self._open.get(call.parent)
        span: Span | None = None
        if above is not None and above.begun is not None:
            inside = call.submitted_in
            self._span_of(above, above.begun, above.begun.at)
            if inside is None or not inside.is_valid or inside == above.submitted_in:
                span = above.span
        if span is None and call.submitted_in is not None:
            span = NonRecordingSpan(call.submitted_in)
        return None if span is None else trace.set_span_in_context(span)

    def _end_span(self, call: _Call, event: Event) -> None:
        began = event.started or event.queued or event.at  # exactly, which only the end tells
        self._span_of(call, event, began)
        span, call.span = call.span, None
        if span is None:
            return
        span.set_attributes(_what_it_took(event))
        if event.what != "finished":
            span.set_attribute("error.type", event.error or event.what)
            span.set_status(Status(StatusCode.ERROR, _reason(event)))
        span.end(end_time=_epoch(max(event.finished or event.at, began)))


class _Call:
    """One that has not ended."""

    __slots__ = ("begun", "parent", "running", "span", "submitted_in", "waiting")

    def __init__(self) -> None:
        self.parent: int | None = None
        self.submitted_in: SpanContext | None = None
        self.begun: Event | None = None
        self.span: Span | None = None  # from the first on that needs it: its end, or a nested call
        self.waiting: dict[str, str] | None = None  # counted as one that waits, with these
        self.running: dict[str, str] | None = None


class _Figures:
    """The metrics."""

    def __init__(self, meter: Meter) -> None:
        count, up_down = meter.create_counter, meter.create_up_down_counter
        self._calls = count("unirun.calls", "{call}", "calls that have ended")
        self._duration = meter.create_histogram(
            "unirun.call.duration",
            "s",
            "time that bodies ran",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._queue = meter.create_histogram(
            "unirun.call.queue.duration",
            "s",
            "time from submit to the beginning of the body",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._cpu = count("unirun.call.cpu.time", "s", "processor time of bodies")
        self._waiting = up_down("unirun.calls.waiting", "{call}", "calls that have not begun")
        self._running = up_down("unirun.calls.running", "{call}", "calls that run")
        self._retries = count("unirun.retries", "{attempt}", "attempts that were followed by more")
        self._bytes = count("unirun.bytes", "By", "encoded arguments and results")
        self._workers = up_down("unirun.workers", "{worker}", "workers that are there")
        self._deaths = count("unirun.worker.deaths", "{worker}", "workers that died by themselves")

    def of_worker(self, event: Event) -> None:
        where = {"unirun.backend": event.backend or ""}
        self._workers.add(1 if event.what == "worker_started" else -1, where)
        if event.what == "worker_died":
            self._deaths.add(1, where)

    def of_call(self, event: Event, call: _Call) -> None:
        where = _where(event)
        if event.what in ("submitted", "held") and call.waiting is None:
            call.waiting = where
            self._waiting.add(1, where)
        elif event.what == "started" and call.running is None:
            self._no_longer(call)
            call.running = where
            self._running.add(1, where)
        elif event.what in ENDS:
            self._no_longer(call)
            self._ended(event, _about(event))

    def of_retry(self, event: Event) -> None:
        self._retries.add(1, _about(event))

    def _no_longer(self, call: _Call) -> None:
        """Count it neither as waiting nor as running."""
        if call.waiting is not None:
            self._waiting.add(-1, call.waiting)
        if call.running is not None:
            self._running.add(-1, call.running)
        call.waiting = call.running = None

    def _ended(self, event: Event, about: dict[str, str]) -> None:
        outcome = {**about, "unirun.outcome": event.what}
        if event.error is not None:
            outcome["error.type"] = event.error
        self._calls.add(1, outcome)
        if event.started is not None and event.finished is not None:
            self._duration.record(max(0.0, event.finished - event.started), outcome)
        if event.started is not None and event.queued is not None:
            self._queue.record(max(0.0, event.started - event.queued), about)
        if event.cpu is not None:
            self._cpu.add(max(0.0, event.cpu), about)
        for direction, size in (("in", event.bytes_in), ("out", event.bytes_out)):
            if size:
                where = {"unirun.direction": direction, "unirun.backend": event.backend or ""}
                self._bytes.add(size, where)


def _where(event: Event) -> dict[str, str]:
    return {"unirun.backend": event.backend or "", "unirun.kind": event.kind or ""}


def _about(event: Event) -> dict[str, str]:
    return {"code.function.name": event.task or "", **_where(event)}


def _place(event: Event) -> dict[str, Any]:
    known = {
        "process.pid": event.pid,
        "thread.name": event.worker if event.worker and "pid" not in event.worker else None,
        "unirun.backend": event.backend,
        "unirun.kind": event.kind,
        "unirun.call.id": event.call,
        "unirun.attempt": event.attempt,
        "unirun.items": event.items,
    }
    return {name: value for name, value in known.items() if value is not None}


def _what_it_took(event: Event) -> dict[str, Any]:
    waited = None
    if event.started is not None and event.queued is not None:
        waited = max(0.0, event.started - event.queued)
    known = {
        **_place(event),
        "unirun.outcome": event.what,
        "unirun.queue.duration": waited,
        "unirun.cpu.time": event.cpu,
        "unirun.memory.peak": event.peak,
        "unirun.bytes.in": event.bytes_in,
        "unirun.bytes.out": event.bytes_out,
        "process.exit.code": event.exitcode,
    }
    return {name: value for name, value in known.items() if value is not None}


def _reason(event: Event) -> str:
    return f"{event.what}: {event.error}" if event.error else event.what


# As in `_info`: so that spans keep their distances.
_offset = time.time() - time.monotonic()


def _epoch(moment: float) -> int:
    """Nanoseconds since the epoch, of a moment of `time.monotonic()`."""
    return int((moment + _offset) * 1e9)
