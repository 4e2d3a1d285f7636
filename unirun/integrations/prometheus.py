"""Figures of a program's executors as Prometheus reads them.

    from unirun.integrations.prometheus import text          # needs no other package
    body = text()                                            # of all executors; text(executor)

    from unirun.integrations.prometheus import UnirunCollector
    prometheus_client.REGISTRY.register(UnirunCollector())   # beside a program's own metrics

What is told is what `Executor.stats` knows at that moment; nothing is watched for it.

    unirun_calls_ended_total{executor, backend}       well or badly
    unirun_calls_failed_total{..., outcome}           those that ended badly: failed, timed_out, ...
    unirun_calls{..., state}                          that wait, and that run
    unirun_retries_total, unirun_worker_restarts_total, unirun_busy_seconds_total
    unirun_transfer_bytes_total{..., direction}       to worker processes, and from them
    unirun_workers, unirun_workers_max, unirun_threads_abandoned, unirun_shared_objects
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from unirun._ending import living

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from unirun._executor import Executor
    from unirun._stats import Stats

__all__ = ["CONTENT_TYPE", "UnirunCollector", "text"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What to send `text()` as, over HTTP."""


class Family(NamedTuple):
    """A metric: its samples are (labels, value)."""

    name: str
    kind: str
    about: str
    samples: list[tuple[dict[str, str], float]]


def text(executor: Executor | Iterable[Executor] | None = None) -> str:
    """The figures in Prometheus' text format, version 0.0.4.

    Args:
        executor: one or several; None: all of this process that were not shut down.
    """
    lines: list[str] = []
    for family in families(executor):
        name = f"{family.name}_total" if family.kind == "counter" else family.name
        lines += [f"# HELP {name} {family.about}", f"# TYPE {name} {family.kind}"]
        for labels, value in family.samples:
            inside = ",".join(f'{key}="{_escaped(each)}"' for key, each in labels.items())
            lines.append(f"{name}{{{inside}}} {_number(value)}")
    return "\n".join([*lines, ""])


class UnirunCollector:
    """For `registry.register` of prometheus_client."""

    def __init__(self, executor: Executor | Iterable[Executor] | None = None) -> None:
        """As for `text`."""
        self._executor = executor

    def collect(self) -> Iterator[Any]:
        """Called by the registry."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for family in families(self._executor):
            made: Any = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            names = list(family.samples[0][0]) if family.samples else []
            metric = made(family.name, family.about, labels=names)
            for labels, value in family.samples:
                metric.add_metric(list(labels.values()), value)
            yield metric


def families(executor: Executor | Iterable[Executor] | None) -> list[Family]:
    """The figures of these executors, or of all."""
    made = {name: Family(f"unirun_{name}", kind, about, []) for name, kind, about in _FAMILIES}
    for each, name in _named(_those(executor)):
        for backend, stats in each.stats().items():
            for family, labels, value in _samples(stats):
                about = {"executor": name, "backend": backend, **labels}
                made[family].samples.append((about, value))
    return [family for family in made.values() if family.samples]


_FAMILIES = (
    ("calls_ended", "counter", "Calls that have ended, well or badly."),
    ("calls_failed", "counter", "Calls that have ended badly, by outcome."),
    ("calls", "gauge", "Calls that wait, and that run."),
    ("retries", "counter", "Attempts that failed and were followed by another."),
    ("workers", "gauge", "Workers that are there."),
    ("workers_max", "gauge", "Workers that there may be."),
    ("worker_restarts", "counter", "Workers that were replaced."),
    ("threads_abandoned", "gauge", "Threads whose call went past its time and runs on."),
    ("shared_objects", "gauge", "Shared objects that live outside of their caller's memory."),
    ("transfer_bytes", "counter", "Sent to worker processes (in), and received (out)."),
    ("busy_seconds", "counter", "Time that bodies of calls have run."),
)
_BAD = ("failed", "timed_out", "cancelled", "killed", "crashed")


def _samples(stats: Stats) -> Iterator[tuple[str, dict[str, str], float]]:
    yield "calls_ended", {}, stats.finished
    for outcome in _BAD:
        yield "calls_failed", {"outcome": outcome}, getattr(stats, outcome)
    yield "calls", {"state": "waiting"}, stats.pending
    yield "calls", {"state": "running"}, stats.running
    yield "retries", {}, stats.retried
    yield "workers", {}, stats.workers
    yield "workers_max", {}, stats.max_workers
    yield "worker_restarts", {}, stats.restarts
    yield "threads_abandoned", {}, stats.abandoned
    yield "shared_objects", {}, stats.objects
    yield "transfer_bytes", {"direction": "in"}, stats.bytes_in
    yield "transfer_bytes", {"direction": "out"}, stats.bytes_out
    yield "busy_seconds", {}, stats.busy


def _those(executor: Executor | Iterable[Executor] | None) -> list[Executor]:
    if executor is None:
        return living()
    several: Any = executor
    return [several] if hasattr(executor, "stats") else list(several)


def _named(executors: list[Executor]) -> list[tuple[Executor, str]]:
    """With names that tell them apart: Prometheus refuses two samples with the same labels."""
    named, seen = [], dict.fromkeys((each._name for each in executors), 0)
    for each in executors:
        seen[each._name] += 1
        count = seen[each._name]
        named.append((each, each._name if count == 1 else f"{each._name}-{count}"))
    return named


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
