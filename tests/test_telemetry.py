"""OpenTelemetry with its real SDK, and Prometheus with its own parser."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import watching

import unirun
from unirun import Executor, _observe

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")
prometheus_parser = pytest.importorskip("prometheus_client.parser", reason="not installed")

from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: E402
    InMemorySpanExporter,
)
from opentelemetry.trace import StatusCode  # noqa: E402

from unirun.integrations import prometheus  # noqa: E402
from unirun.integrations.opentelemetry import Instrumentation, instrument  # noqa: E402


class Sdk:
    """Providers of the real SDK that keep what they are told."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def instrument(self, executor: Executor | None = None, **how: Any) -> Instrumentation:
        return instrument(executor, tracer_provider=self.tracers, meter_provider=self.meters, **how)

    def spans(self) -> dict[str, ReadableSpan]:
        """By name."""
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def metrics(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        """By name, attributes and point of each series."""
        data, found = self.reader.get_metrics_data(), {}
        assert data is not None
        for resource in data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = [
                        (dict(each.attributes or {}), each) for each in metric.data.data_points
                    ]
                    found[metric.name] = points
        return found

    def total(self, name: str) -> float:
        return sum(point.value for _, point in self.metrics()[name])


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    made = Sdk()
    yield made
    made.tracers.shutdown()
    made.meters.shutdown()


@pytest.fixture(scope="module", params=("thread", "process", "inline"))
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor(2, backend=request.param) as made:
        watching.warm_up(made, 2)
        yield made


# -- spans ---------------------------------------------------------------------------------------


def test_a_call_is_a_span_in_that_of_its_submitter(sdk: Sdk, executor: Executor) -> None:
    tracer = sdk.tracers.get_tracer("test")
    with sdk.instrument(executor), tracer.start_as_current_span("request"):
        executor.submit(watching.sleep, 0.01).result()
    spans = sdk.spans()
    call, request = spans["watching.sleep"], spans["request"]
    assert call.parent is not None
    assert request.context is not None
    assert call.parent.span_id == request.context.span_id
    assert call.end_time is not None
    assert call.start_time is not None
    assert 0.01 <= (call.end_time - call.start_time) / 1e9 < 10
    told = dict(call.attributes or {})
    assert told["code.function.name"] == "watching.sleep"
    assert told["unirun.outcome"] == "finished"
    assert told["unirun.backend"] == executor.explain(watching.sleep).backend
    assert told["unirun.cpu.time"] >= 0
    assert call.status.status_code is StatusCode.UNSET


def test_a_call_without_a_span_around_it_begins_a_trace(sdk: Sdk, executor: Executor) -> None:
    with sdk.instrument(executor):
        executor.submit(watching.echo, 1).result()
    assert sdk.spans()["watching.echo"].parent is None


def test_nested_calls_are_spans_in_those_of_their_callers(sdk: Sdk, executor: Executor) -> None:
    with sdk.instrument(executor):
        executor.submit(watching.nest, 1).result()
    inner, outer = sorted(sdk.exporter.get_finished_spans(), key=lambda span: span.end_time or 0)
    assert outer.parent is None
    assert inner.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == outer.context.span_id


def test_a_failure_is_told_by_type(sdk: Sdk, executor: Executor) -> None:
    with sdk.instrument(executor):
        executor.submit(watching.fail).exception()
    span = sdk.spans()["watching.fail"]
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {})["error.type"] == "ValueError"


def test_each_attempt_is_a_span(sdk: Sdk, executor: Executor) -> None:
    with sdk.instrument(executor):
        again = executor.options(retries=unirun.Retry(2, backoff=0))
        again.submit(watching.fail).exception()
    spans = sdk.exporter.get_finished_spans()
    assert [dict(span.attributes or {})["unirun.attempt"] for span in spans] == [1, 2, 3]


def test_a_killed_call_is_a_span_that_ends_with_its_worker(sdk: Sdk) -> None:
    with sdk.instrument(), Executor(1, backend="process") as single:
        single.options(timeout=0.05).submit(watching.sleep, 30).exception()
    span = sdk.spans()["watching.sleep"]
    assert dict(span.attributes or {})["unirun.outcome"] == "timed_out"
    assert span.end_time is not None
    assert span.start_time is not None
    assert 0 < (span.end_time - span.start_time) / 1e9 < 20


# -- metrics -------------------------------------------------------------------------------------


def test_metrics_count_calls_and_what_they_take(sdk: Sdk, executor: Executor) -> None:
    with sdk.instrument(executor, spans=False):
        for _ in range(3):
            executor.submit(watching.sleep, 0.002).result()
        executor.submit(watching.fail).exception()
    assert sdk.exporter.get_finished_spans() == ()
    calls = {about["unirun.outcome"]: point.value for about, point in sdk.metrics()["unirun.calls"]}
    assert calls == {"finished": 3, "failed": 1}
    durations = sdk.metrics()["unirun.call.duration"]
    assert sum(point.count for _, point in durations) == 4
    assert sum(point.sum for _, point in durations) >= 0.006
    assert sum(point.count for _, point in sdk.metrics()["unirun.call.queue.duration"]) == 4
    assert sdk.total("unirun.calls.waiting") == 0
    assert sdk.total("unirun.calls.running") == 0


def test_metrics_show_what_runs_and_waits(sdk: Sdk) -> None:
    import threading

    gate, begun = threading.Event(), threading.Event()
    with sdk.instrument() as told, Executor(1, backend="thread") as single:
        single.submit(lambda: (begun.set(), gate.wait()))
        single.submit(watching.echo, 1)
        assert begun.wait(5)
        assert told.flush()
        assert sdk.total("unirun.calls.running") == 1
        assert sdk.total("unirun.calls.waiting") == 1
        assert sdk.total("unirun.workers") == 1
        gate.set()
        single.shutdown()
        assert told.flush()
        assert sdk.total("unirun.calls.running") == 0
        assert sdk.total("unirun.calls.waiting") == 0
        assert sdk.total("unirun.workers") == 0


def test_who_watches_beside_it_still_has_the_future(sdk: Sdk, executor: Executor) -> None:
    seen: list[Any] = []
    told = threading.Event()

    def see(event: Any) -> None:
        seen.append(event.future)
        told.set()

    with sdk.instrument(executor), executor.on("finished", see):
        future = executor.submit(pow, 2, 5)
        assert told.wait(20)
    assert seen == [future]


def test_closing_ends_it(sdk: Sdk, executor: Executor) -> None:
    told = sdk.instrument(executor)
    told.close()
    told.close()
    assert _observe.watchers == ()
    executor.submit(watching.echo, 1).result()
    assert sdk.exporter.get_finished_spans() == ()


def test_a_provider_that_raises_harms_no_call(
    sdk: Sdk, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def on_start(self, span: object, parent_context: object = None) -> None:
            raise RuntimeError("a processor")

        def on_end(self, span: object) -> None:
            raise RuntimeError("a processor")

        def shutdown(self) -> None:
            return

        def _on_ending(self, span: object) -> None:
            return

    sdk.tracers.add_span_processor(Broken())  # type: ignore[arg-type]
    with sdk.instrument(executor):
        assert executor.submit(watching.echo, 5).result() == 5
    assert "OpenTelemetry was not told" in caplog.text


# -- Prometheus ----------------------------------------------------------------------------------


def parsed(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in prometheus_parser.text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_the_text_is_what_prometheus_reads(executor: Executor) -> None:
    executor.submit(watching.fail).exception()
    samples = parsed(prometheus.text(executor))
    (stats,) = executor.stats().values()
    where = {"executor": "unirun", "backend": stats.backend}
    assert samples["unirun_workers"] == [(where, stats.workers)]
    assert samples["unirun_calls_ended_total"] == [(where, stats.finished)]
    failed = {about["outcome"]: value for about, value in samples["unirun_calls_failed_total"]}
    assert failed["failed"] == stats.failed >= 1
    assert failed["crashed"] == 0


def test_the_collector_tells_the_same(executor: Executor) -> None:
    import prometheus_client

    registry = prometheus_client.CollectorRegistry()
    registry.register(prometheus.UnirunCollector(executor))
    theirs = parsed(prometheus_client.generate_latest(registry).decode())
    ours = parsed(prometheus.text(executor))
    assert theirs.keys() == ours.keys()
    for name in theirs:
        assert [about for about, _ in theirs[name]] == [about for about, _ in ours[name]]


def test_all_executors_are_told_apart_though_their_names_are_equal() -> None:
    odd = 'a "b"\\c\nd'
    with (
        Executor(1, backend="thread") as one,
        Executor(1, backend="thread") as two,
        Executor(1, backend="thread", name=odd) as three,
    ):
        for each in (one, two, three):
            each.submit(watching.echo, 1).result()
        told = parsed(prometheus.text([one, two, three]))["unirun_workers"]
        assert [about["executor"] for about, _ in told] == ["unirun", "unirun-2", odd]
        everything = {about["executor"] for about, _ in parsed(prometheus.text())["unirun_workers"]}
        assert odd in everything
    assert odd not in prometheus.text()


def test_counters_never_become_less(executor: Executor) -> None:
    last: dict[tuple[str, str], float] = {}
    for number in range(30):
        executor.submit(watching.sleep if number % 3 else watching.echo, 0.001)
        for name, samples in parsed(prometheus.text(executor)).items():
            if name.endswith("_total"):
                for about, value in samples:
                    key = name, str(sorted(about.items()))
                    assert value >= last.get(key, 0)
                    last[key] = value
    executor.submit(watching.echo, 1).result()


def test_no_executor_is_no_text() -> None:
    assert prometheus.text([]) == ""
