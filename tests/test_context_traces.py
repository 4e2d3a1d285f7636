"""The current span of OpenTelemetry is that of the caller, in worker processes too."""

from collections.abc import Iterator
from typing import Any

import pytest
from contexts import PATIENCE, apart

import unirun
from unirun import Executor

pytest.importorskip("opentelemetry.sdk.trace")

from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(1, backend="process") as executor:
        executor.submit(abs, 1).result(PATIENCE)
        yield executor


def place(_: int = 0) -> Any:
    """The trace and the span this is in, and the baggage."""
    from opentelemetry import baggage, trace

    span = trace.get_current_span().get_span_context()
    return span.trace_id, span.span_id, dict(baggage.get_all())


def parent_of_a_span() -> Any:
    """Of one that is begun in a worker, and of what a call of a call sees."""
    from opentelemetry.sdk.trace import TracerProvider

    with TracerProvider().get_tracer("worker").start_as_current_span("inner") as span:
        inner: Any = span
        of_inner = inner.get_span_context()
        below = unirun.submit(place).result(PATIENCE)
    return (inner.parent.trace_id, inner.parent.span_id), of_inner.span_id == below[1]


@apart
def test_spans_made_in_workers_have_the_span_of_the_caller_as_their_parent(
    executor: Executor,
) -> None:
    with TracerProvider().get_tracer("tests").start_as_current_span("outer") as span:
        here = span.get_span_context()
        future = executor.submit(parent_of_a_span)
    assert future.result(PATIENCE) == ((here.trace_id, here.span_id), True)


@apart
def test_calls_and_items_are_in_the_span_and_have_the_baggage(executor: Executor) -> None:
    with TracerProvider().get_tracer("tests").start_as_current_span("outer") as span:
        here = span.get_span_context()
        context.attach(baggage.set_baggage("key", "value"))
        expected = here.trace_id, here.span_id, {"key": "value"}
        found = [executor.submit(place), executor.options(timeout=PATIENCE).submit(place)]
        items = executor.map(place, range(8), chunksize=4)
        assert [future.result(PATIENCE) for future in found] == [expected] * 2
        assert list(items) == [expected] * 8
    assert trace.get_current_span() is trace.INVALID_SPAN


@apart
def test_a_call_outside_of_any_span_is_in_none(executor: Executor) -> None:
    assert executor.submit(place).result(PATIENCE) == (0, 0, {})


@apart
def test_a_worker_imports_it_only_if_there_is_a_span() -> None:
    with Executor(1, backend="process") as executor:
        modules = executor.submit(eval, "[*__import__('sys').modules]").result(PATIENCE)
        assert not [name for name in modules if name.startswith("opentelemetry")]
