"""`Executor.on`: what happens to calls and workers is told, in order, and hurts nobody."""

import gc
import logging
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator

import pytest
import watching

import unirun
from unirun import CallEvent, Executor, _events, _observe
from unirun.testing._gate import comes_true

BACKENDS = ("thread", "process", "inline")


class Told(list[CallEvent]):
    """Events as they come."""

    def whats(self, call: int | None = None) -> list[str]:
        return [event.what for event in self if call is None or event.call == call]

    def only(self, what: str) -> CallEvent:
        (found,) = (event for event in self if event.what == what)
        return found


@pytest.fixture(scope="module", params=BACKENDS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor(3, backend=request.param) as made:
        watching.warm_up(made, 3)
        yield made


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with Executor(2, backend="process") as made:
        watching.warm_up(made, 2)
        yield made


def calls_of(executor: Executor, run: Callable[[], object]) -> Told:
    """What is told of the calls that `run` makes."""
    told = Told()
    with executor.on(_observe.CALLS, told.append):
        run()
    return told


# -- what is told --------------------------------------------------------------------------------


def test_a_call_is_told_as_submitted_started_and_finished(executor: Executor) -> None:
    told = calls_of(executor, lambda: executor.submit(watching.echo, 1).result())
    assert told.whats() == ["submitted", "started", "finished"]
    assert len({event.call for event in told}) == 1
    end = told[-1]
    assert end.task == "watching.echo"
    assert end.queued is not None
    assert end.started is not None
    assert end.finished is not None
    assert end.queued <= end.started <= end.finished <= time.monotonic()
    assert end.cpu is not None
    assert end.worker


def test_the_end_of_a_call_is_told_before_its_result_is_there(executor: Executor) -> None:
    ends: list[str] = []
    stop = _observe.watch(lambda event: ends.append(event.what), _observe.ENDS)
    try:
        executor.submit(watching.echo, 1).result()
        assert ends == ["finished"]
    finally:
        stop()


def test_a_call_that_raises_is_told_as_failed(executor: Executor) -> None:
    told = calls_of(executor, lambda: executor.submit(watching.fail).exception())
    assert told.whats()[-1] == "failed"
    assert told[-1].error == "ValueError"
    assert isinstance(told[-1].future.exception(), ValueError)


def test_retries_are_told_under_one_number(executor: Executor) -> None:
    again = executor.options(retries=unirun.Retry(2, backoff=0))
    told = calls_of(executor, lambda: again.submit(watching.fail).exception())
    attempt = ["submitted", "started", "failed"]
    assert told.whats() == [*attempt, "retried", *attempt, "retried", *attempt]
    assert len({event.call for event in told}) == 1
    assert [event.attempt for event in told if event.what == "started"] == [1, 2, 3]


def test_a_call_that_waits_in_a_view_is_told_as_held() -> None:
    gate, told = threading.Event(), Told()
    with Executor(1, backend="thread") as single:
        single.on(_observe.CALLS, told.append)
        limited = single.options(limit=1)
        first, second = limited.submit(gate.wait), limited.submit(watching.echo, 2)
        third = limited.submit(watching.echo, 3)
        assert third.cancel()
        gate.set()
        assert first.result()
        assert second.result() == 2
    held = [event.call for event in told if event.what == "held"]
    assert told.whats(held[0]) == ["held", "submitted", "started", "finished"]
    assert told.whats(held[1]) == ["held", "cancelled"]


def test_kill_time_out_and_crash_are_told_apart() -> None:
    def run(processes: Executor) -> None:
        killed = processes.submit(watching.sleep, 30)
        assert comes_true(lambda: killed._tell_info().get("begun") is not None)  # and not just sent
        killed.kill(0)
        late = processes.options(timeout=0.05).submit(watching.sleep, 30)
        assert isinstance(late.exception(), unirun.TaskTimeout)
        crashed = processes.submit(watching.die)
        assert isinstance(crashed.exception(), unirun.WorkerCrashed)

    told = Told()
    with Executor(1, backend="process") as single:
        single.on(["ended", "worker_killed", "worker_died"], told.append)
        run(single)
    ends = [event.what for event in told if event.call is not None]
    assert ends == ["killed", "timed_out", "crashed"]
    assert told.whats().count("worker_killed") == 2
    assert told.only("worker_died").exitcode == 3
    assert told.only("crashed").pid == told.only("worker_died").pid
    assert told.only("killed").started is not None


def test_a_call_that_is_cancelled_in_the_queue_is_told_as_cancelled() -> None:
    told = Told()
    with Executor(1, backend="thread") as single:
        single.on("cancelled", told.append)
        gate = threading.Event()
        first = single.submit(gate.wait)
        assert single.submit(watching.echo, 1).cancel()
        gate.set()
        first.result()
    assert told.whats() == ["cancelled"]


def test_an_abandoned_thread_is_told_as_timed_out() -> None:
    told = Told()
    with Executor(1, backend="thread") as single:
        single.on("ended", told.append)
        gate = threading.Event()
        late = single.options(timeout=0.02).submit(gate.wait)
        assert isinstance(late.exception(), unirun.TaskTimeout)
        gate.set()
    assert told.whats() == ["timed_out"]


def test_coroutines_are_told_of() -> None:
    told = Told()
    with Executor(backend="coroutine") as loop:
        loop.on("all", told.append)
        assert loop.submit(watching.wait_a_little).result() == 7
    whats = ["worker_started", "submitted", "started", "finished", "worker_ended"]
    assert sorted(told.whats()) == sorted(whats)
    assert told.whats()[-1] == "worker_ended"


def test_workers_are_told_of_to_the_last() -> None:
    for backend in ("thread", "process"):
        told = Told()
        with Executor(1, backend=backend) as single:
            single.on(["worker_started", "worker_ended"], told.append)
            single.submit(watching.echo, 1).result()
        assert told.whats() == ["worker_started", "worker_ended"]
        assert told[0].pid == told[1].pid


def test_the_number_of_a_call_is_that_of_its_task(executor: Executor) -> None:
    numbers: list[int] = []
    told = calls_of(executor, lambda: numbers.append(executor.submit(watching.who).result()))
    assert {event.call for event in told} == set(numbers)


def test_nested_calls_are_told_with_their_parents(executor: Executor) -> None:
    told = calls_of(executor, lambda: executor.submit(watching.nest, 2).result())
    submitted = [event for event in told if event.what == "submitted"]
    outer, middle, inner = submitted
    assert (outer.parent, middle.parent, inner.parent) == (None, outer.call, middle.call)
    for event in submitted:
        assert told.whats(event.call) == ["submitted", "started", "finished"]


def test_a_nested_call_that_its_caller_runs_itself_is_told_once() -> None:
    with Executor(1, backend="process") as single:
        told = calls_of(single, lambda: single.submit(watching.nest, 1).result())
    outer, inner = (event for event in told if event.what == "submitted")
    assert inner.parent == outer.call
    assert told.whats(inner.call) == ["submitted", "started", "finished"]
    assert len({event.pid for event in told if event.what == "finished"}) == 1


def test_what_tasks_start_in_their_process_is_told_to_its_executor() -> None:
    inside: list[int] = []
    with Executor(1, backend="process") as single:
        told = calls_of(single, lambda: inside.append(single.submit(watching.in_a_thread).result()))
        pids = single.stats()["process"].pids
    assert told.whats(inside[0]) == ["submitted", "started", "finished"]
    end = next(event for event in told if event.what == "finished" and event.call == inside[0])
    assert end.backend == "thread"
    assert (end.pid,) == pids


def test_a_map_is_told_by_pieces_with_how_many_items_they_have(processes: Executor) -> None:
    told = calls_of(processes, lambda: list(processes.map(watching.echo, range(100), chunksize=30)))
    ends = [event for event in told if event.what == "finished"]
    assert sorted(event.items or 0 for event in ends) == [10, 30, 30, 30]
    assert {event.task for event in ends} == {"watching.echo"}


def test_what_happens_elsewhere_is_not_told(executor: Executor) -> None:
    with Executor(1, backend="thread") as other:
        told = calls_of(executor, lambda: other.submit(watching.echo, 1).result())
    assert told == []


# -- callbacks -----------------------------------------------------------------------------------


def test_on_is_a_decorator_too() -> None:
    told = Told()
    with Executor(1, backend="thread") as single:

        @single.on("finished")
        def note(event: CallEvent) -> None:
            told.append(event)

        single.submit(watching.echo, 1).result()
    assert callable(note)
    assert told.whats() == ["finished"]


def test_an_event_that_does_not_exist_is_refused_with_what_was_meant(executor: Executor) -> None:
    with pytest.raises(ValueError, match="no event 'finnished'; did you mean 'finished'"):
        executor.on("finnished", print)
    with pytest.raises(TypeError, match="not callable"):
        executor.on("finished", 3)  # type: ignore[call-overload]


def test_a_closed_handle_calls_back_no_more(executor: Executor) -> None:
    told = Told()
    handle = executor.on("finished", told.append)
    executor.submit(watching.echo, 1).result()
    handle.close()
    assert len(told) == 1  # what had happened was told
    executor.submit(watching.echo, 1).result()
    assert len(told) == 1
    handle.close()


def test_nobody_is_watched_for_when_all_handles_are_closed(executor: Executor) -> None:
    assert _observe.watchers == ()
    with executor.on("finished", print):
        assert len(_observe.watchers) == 1
    assert _observe.watchers == ()


def test_a_callback_that_raises_is_logged_and_harms_nothing(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()

    def bad(event: CallEvent) -> None:
        raise RuntimeError("in a callback")

    caplog.set_level(logging.ERROR, "unirun")
    with executor.on("finished", bad) as handle, executor.on("finished", told.append):
        assert executor.submit(watching.echo, 5).result() == 5
    assert handle.failures == 1
    assert len(told) == 1
    assert "a callback for event 'finished' failed" in caplog.text
    assert "in a callback" in caplog.text


def test_a_slow_callback_holds_up_no_call_and_drops_are_counted_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_events, "MOST", 5)
    gate, begun = threading.Event(), threading.Event()

    def slow(event: CallEvent) -> None:
        begun.set()
        gate.wait()

    with caplog.at_level(logging.WARNING, "unirun"), Executor(1, backend="thread") as single:
        handle = single.on("finished", slow)
        single.submit(watching.echo, 0).result()
        assert begun.wait(5)
        for number in range(20):
            single.submit(watching.echo, number).result()
        assert handle.dropped == 15
        gate.set()
        handle.close()
        assert "15 events were dropped" in caplog.text


def test_a_log_filter_that_raises_ends_no_delivery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told, failures = [], []

    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError("in a filter")

    def bad(event: CallEvent) -> None:
        raise ValueError("in a callback")

    monkeypatch.setattr(threading, "excepthook", lambda args: failures.append(str(args.exc_value)))
    logger = logging.getLogger("unirun")
    logger.addFilter(refuse)
    try:
        with Executor(1, backend="thread") as single:
            single.on("finished", bad)
            single.on("finished", told.append)
            for number in range(3):
                single.submit(watching.echo, number).result()
    finally:
        logger.removeFilter(refuse)
    assert failures == ["in a filter"] * 3
    assert len(told) == 3


def test_who_takes_rows_learns_the_same_as_who_takes_events(executor: Executor) -> None:
    rows: list[tuple[object, ...]] = []
    events: list[CallEvent] = []
    stop_rows = _observe.watch(lambda _: None, _observe.ENDS, rows.append)
    stop_events = _observe.watch(events.append, _observe.ENDS)
    try:
        for kind in ("cpu", "io"):
            executor.options(kind=kind).submit(watching.echo, 1).result()
            executor.options(kind=kind).submit(int, "no").exception()
    finally:
        stop_rows()
        stop_events()
    ends = [_observe.known_of(row)[0] for row in rows if row[0] != "submitted"]
    assert len(ends) == 4
    for known, event in zip(ends, events, strict=True):
        assert {**known, "at": 0.0} == {**event.__dict__, "at": 0.0}


def test_a_callback_may_submit_and_wait(executor: Executor) -> None:
    results: list[object] = []

    def more(event: CallEvent) -> None:
        if event.task == "first":
            results.append(executor.submit(watching.echo, 2).result())

    with executor.on("finished", more):
        executor.options(name="first").submit(watching.echo, 1).result()
    assert results == [2]


def test_a_handle_can_be_closed_in_its_callback(executor: Executor) -> None:
    told: list[str] = []

    def once(event: CallEvent) -> None:
        told.append(event.what)
        handle.close()

    handle = executor.on("finished", once)
    for _ in range(3):
        executor.submit(watching.echo, 1).result()
    assert executor._delivery is not None
    executor._delivery.courier.flush()
    assert told == ["finished"]


def test_events_of_a_call_come_in_order_whoever_tells_them(processes: Executor) -> None:
    told = calls_of(
        processes,
        lambda: [
            each.result() for each in [processes.submit(watching.echo, n) for n in range(200)]
        ],
    )
    assert len(told) == 600
    by_call: dict[int | None, list[str]] = {}
    for event in told:
        by_call.setdefault(event.call, []).append(event.what)
    assert set(map(tuple, by_call.values())) == {("submitted", "started", "finished")}


# -- the end -------------------------------------------------------------------------------------


def test_a_shutdown_tells_all_and_ends_the_thread() -> None:
    told = Told()
    executor = Executor(1, backend="thread", name="events-end")
    executor.on("finished", told.append)
    for number in range(50):
        executor.submit(watching.echo, number)
    executor.shutdown()
    assert len(told) == 50
    assert not [each for each in threading.enumerate() if each.name == "events-end-events"]
    assert _observe.watchers == ()
    with pytest.raises(unirun.ExecutorShutdown):
        executor.on("finished", print)


def test_a_subscription_keeps_no_executor_alive() -> None:
    executor = Executor(1, backend="thread", name="events-gone")
    executor.on("all", print)
    gone = weakref.ref(executor)
    del executor
    gc.collect()
    assert gone() is None
    assert comes_true(lambda: _observe.watchers == ())
    assert comes_true(
        lambda: not [each for each in threading.enumerate() if each.name == "events-gone-events"]
    )


def test_one_who_watches_and_raises_is_counted_and_hurts_nobody(executor: Executor) -> None:
    def bad(event: CallEvent) -> None:
        raise MemoryError

    stop = _observe.watch(bad)
    try:
        watcher = _observe.watchers[-1]
        assert executor.submit(watching.echo, 1).result() == 1
        assert watcher.lost >= 3
    finally:
        stop()


# -- what comes at the wrong time ------------------------------------------------------------------


def test_a_watcher_that_ends_amid_a_change_is_gone_and_the_other_one_is_there() -> None:
    seen: list[CallEvent] = []
    ends = [_observe.watch(lambda event: None, ["held"])]
    before = len(_observe.watchers)
    watcher = _observe.Watcher(seen.append, ["held"])

    def change(now: tuple[_observe.Watcher, ...]) -> tuple[_observe.Watcher, ...]:
        if ends:
            ends.pop()()  # as a garbage collection may do, in this very thread
        return (*now, watcher)

    _observe._change(change)
    try:
        assert len(_observe.watchers) == before
        assert _observe.watchers[-1] is watcher
        _observe.tell("held")
        assert len(seen) == 1
    finally:
        _observe._change(lambda now: tuple([each for each in now if each is not watcher]))


def test_executors_may_be_made_while_somebody_begins_to_watch() -> None:
    class Pool:
        def be_watched(self, watched: bool) -> None:
            """Here another thread makes executors."""
            made.extend(Pool() for _ in range(2))
            for each in made[-2:]:
                _observe.pools.add(each)

    made = [Pool()]
    _observe.pools.add(made[0])
    _observe.watch(lambda event: None)()
    assert len(made) >= 3
    for each in made:
        _observe.pools.discard(each)


def test_an_error_is_told_of_while_another_thread_imports_those_of_crashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The module is half made then: no error that there is can be one of its classes."""
    monkeypatch.setitem(sys.modules, "unirun._broken", types.ModuleType("unirun._broken"))
    future: unirun.Future[None] = unirun.Future()
    future._fail(ValueError("no"))

    assert _observe.how(future) == "failed"
