"""What people see of calls on Dask, and what travels with them: as on one machine."""

import contextlib
import io
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import engine_bodies as bodies
import pytest
from dask_bodies import sleep
from dask_clusters import Cluster

import unirun
from unirun import CallEvent, Executor, Retry, TaskKilled, UnsupportedByBackend, _far_setup
from unirun.testing import Gate
from unirun.testing._gate import comes_true

pytest.importorskip("distributed")
PATIENCE = 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One worker with one slot."""
    with Cluster("") as cluster, Executor(backend=cluster.name) as keeper:
        keeper.submit(divmod, 7, 2).result(60)
        yield cluster


@pytest.fixture
def dask(cluster: Cluster) -> Iterator[Executor]:
    with Executor(backend=cluster.name, seed=5) as executor:
        yield executor
        executor.shutdown(timeout=PATIENCE, kill=True)


# -- what a call knows ----------------------------------------------------------------------------


def test_a_call_knows_all_of_itself_that_it_knows_on_processes(dask: Executor) -> None:
    view = dask.options(name="mine", timeout=PATIENCE, kind="cpu")
    future = view.submit(bodies.facts)
    told = future.result(PATIENCE)
    assert (told["name"], told["attempt"], told["kind"]) == ("mine", 1, "cpu")
    assert told["id"] == future.number  # type: ignore[attr-defined]
    assert told["backend"] == next(iter(dask.stats()))
    assert told["worker"] == f"pid {told['pid']}"
    assert told["deadline"] is not None
    assert told["parent"] is None


def test_an_attempt_after_a_failure_knows_its_number(dask: Executor) -> None:
    view = dask.options(retries=Retry(1, backoff=0))
    assert view.submit(bodies.second_time, "").result(PATIENCE) == 2


def test_seeds_are_those_of_any_other_backend(cluster: Cluster) -> None:
    def numbers(name: str) -> list[Any]:
        with Executor(backend=name, seed=7) as executor:
            futures = [executor.submit(bodies.facts) for _ in range(3)]
            return [(each["seed"], each["random"]) for each in map(_result, futures)]

    found = numbers(cluster.name)
    assert found == numbers("thread")
    assert len(set(found)) == 3


def test_context_variables_travel_and_what_a_call_sets_stays_there(dask: Executor) -> None:
    def inside() -> list[Any]:
        bodies.colour.set("red")
        found = [dask.submit(bodies.facts).result(PATIENCE)["colour"]]
        found.append(dask.submit(bodies.paint).result(PATIENCE))
        found.append(dask.submit(bodies.facts).result(PATIENCE)["colour"])
        found.append(dask.options(context=False).submit(bodies.facts).result(PATIENCE)["colour"])
        return [*found, bodies.colour.get()]

    assert copy_context().run(inside) == ["red", "black", "red", "none", "red"]


def test_a_call_of_a_call_runs_on_the_one_slot_and_knows_its_parent(dask: Executor) -> None:
    def inside() -> Any:
        bodies.colour.set("blue")
        return dask.submit(bodies.both).result(PATIENCE)

    outer, inner = copy_context().run(inside)
    assert inner["parent"] == outer["id"]
    assert inner["backend"] == outer["backend"]
    assert inner["colour"] == outer["colour"] == "blue"
    assert inner["seed"] not in (None, outer["seed"])


def test_who_is_cancelled_asks_the_calls_that_it_has_submitted_to_stop(dask: Executor) -> None:
    begun: list[Any] = []

    def submit_there() -> str:
        begun.append(dask.submit(bodies.until_cancelled))
        return str(begun[0].result(PATIENCE))

    with Executor(1, backend="thread") as threads:
        outer = threads.options(timeout=PATIENCE).submit(submit_there)
        assert comes_true(lambda: bool(begun) and begun[0].running(), PATIENCE)
        outer._backend.request_stop(outer)  # type: ignore[union-attr]
        assert outer.result(PATIENCE) == "cancelled"


# -- what it tells --------------------------------------------------------------------------------


def test_records_are_handled_here_before_the_result_is_there(
    dask: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "seen.here"):
        dask.options(name="teller").submit(bodies.log, logging.INFO, "first").result(PATIENCE)
        assert [record.getMessage() for record in caplog.records] == ["first"]
        record: Any = caplog.records[0]
        assert (record.name, record.unirun_task) == ("seen.here", "teller")
        assert record.unirun_worker.startswith("pid ")
        assert record.process != os.getpid()


def test_a_level_that_changes_is_followed_from_the_next_call_on(
    dask: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    for level, expected in ((logging.ERROR, 0), (logging.DEBUG, 1), (logging.ERROR, 1)):
        logging.getLogger("seen.here").setLevel(level)
        dask.submit(bodies.log, logging.DEBUG, "quiet").result(PATIENCE)
        assert len(caplog.records) == expected
    logging.getLogger("seen.here").setLevel(logging.NOTSET)


@pytest.mark.engines
def test_what_calls_import_is_found_after_levels_have_changed(dask: Executor) -> None:
    """The worker's pool is in a process that imports otherwise, which is not to be followed."""
    logging.getLogger("seen.other").setLevel(logging.ERROR)
    assert dask.submit(bodies.busy, 0).result(PATIENCE) > 0
    logging.getLogger("seen.other").setLevel(logging.NOTSET)
    assert dask.submit(bodies.busy, 0).result(PATIENCE) > 0


def test_warnings_are_shown_here(dask: Executor) -> None:
    with pytest.warns(UserWarning, match="mind the gap"):
        dask.submit(bodies.warn, "mind the gap").result(PATIENCE)


def test_what_is_printed_is_printed_here_in_order_and_all_of_it(dask: Executor) -> None:
    """More than may be on its way at a time."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        dask.submit(bodies.say, 1500).result(PATIENCE)
    assert out.getvalue().splitlines() == [f"line {number}" for number in range(1500)]
    assert err.getvalue() == "an aside\n"


def test_what_is_captured_is_on_the_future_and_nowhere_else(
    dask: Executor, capsys: pytest.CaptureFixture[str]
) -> None:
    future = dask.options(capture=True).submit(bodies.say, 2)
    future.result(PATIENCE)
    assert str(future.output) == "line 0\nline 1\nan aside\n"
    assert capsys.readouterr() == ("", "")


@pytest.mark.engines
def test_capture_without_a_relay_is_refused(cluster: Cluster) -> None:
    with (
        Executor(backend=cluster.name, output="direct") as executor,
        pytest.raises(UnsupportedByBackend, match="output='direct'"),
    ):
        executor.options(capture=True).submit(bodies.say, 1)


def test_progress_is_known_while_it_runs_and_the_last_of_it_with_the_result(
    dask: Executor, gate: Gate
) -> None:
    future = dask.submit(bodies.halfway, gate.address)
    arrival = gate.arrival()
    assert comes_true(lambda: future.progress is not None, PATIENCE)
    assert str(future.progress) == "50% half"
    arrival.release()
    future.result(PATIENCE)
    assert str(future.progress) == "100% whole"


@pytest.mark.engines
def test_a_handler_that_hangs_does_not_keep_results_back_for_ever(
    dask: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    over, entered = threading.Event(), threading.Event()

    class Hangs(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            entered.set()
            over.wait(PATIENCE)

    handler = Hangs()
    logging.getLogger("seen.here").addHandler(handler)
    try:
        future = dask.submit(bodies.log, logging.ERROR, "stuck")
        future.result(PATIENCE / 2)
        assert entered.is_set()
        assert not over.is_set()
        assert dask.submit(divmod, 7, 2).result(PATIENCE / 2) == (3, 1)
    finally:
        over.set()
        logging.getLogger("seen.here").removeHandler(handler)
    with caplog.at_level(logging.INFO, "seen.here"):
        dask.submit(bodies.log, logging.INFO, "goes on").result(PATIENCE)
    assert "goes on" in caplog.text


# -- what happens to it ---------------------------------------------------------------------------


def test_events_tell_of_calls_there_and_of_those_that_these_submit(cluster: Cluster) -> None:
    seen: list[CallEvent] = []
    with Executor(backend=cluster.name) as executor, executor.on("all", seen.append):
        outer, inner = executor.submit(bodies.both).result(PATIENCE)
        executor.submit(bodies.halfway, ("127.0.0.1", 9)).exception(PATIENCE)
    mine = [event for event in seen if event.call == outer["id"]]
    assert [event.what for event in mine] == ["submitted", "started", "finished"]
    assert {event.backend for event in seen} == {outer["backend"]}
    assert mine[1].pid == outer["pid"]
    assert mine[0].at <= mine[1].at <= mine[2].at
    assert mine[2].started is not None
    assert mine[2].cpu is not None
    theirs = [event for event in seen if event.call == inner["id"]]
    assert [event.what for event in theirs] == ["submitted", "started", "finished"]
    assert theirs[0].parent == outer["id"]
    failed = [event.what for event in seen if event.call not in (outer["id"], inner["id"], None)]
    assert failed == ["submitted", "started", "progress", "failed"]
    assert "worker_started" in {event.what for event in seen}


@pytest.mark.engines
def test_a_kill_is_an_event_of_the_call_and_of_its_worker(cluster: Cluster, gate: Gate) -> None:
    seen: list[CallEvent] = []
    with Executor(backend=cluster.name) as executor, executor.on("all", seen.append):
        future = executor.submit(bodies.halfway, gate.address)
        gate.arrival()
        future.kill(grace=0)
        with pytest.raises(TaskKilled):
            future.result(PATIENCE)
        assert comes_true(lambda: "worker_killed" in {event.what for event in seen}, PATIENCE)
        error: Any = executor.options(timeout=0.2).submit(sleep, 60).exception(PATIENCE)
    # A time-out names the call, and nothing of ours.
    assert len(error.__notes__) == 1
    assert "of dask_bodies.sleep(...), attempt 1 in pid " in error.__notes__[0]
    assert "run_call" not in str(error)
    assert "killed" in {event.what for event in seen}


def test_info_tells_where_a_call_runs_and_what_it_took(dask: Executor, gate: Gate) -> None:
    future = dask.submit(bodies.halfway, gate.address)
    arrival = gate.arrival()
    info = future.info
    assert (info.state, info.pid, info.worker) == ("running", arrival.pid, f"pid {arrival.pid}")
    assert info.started_at is not None
    arrival.release()
    future.result(PATIENCE)
    future = dask.submit(bodies.busy, 0.02)
    pid = future.result(PATIENCE)
    info = future.info
    assert (info.state, info.pid) == ("finished", pid)
    assert info.took is not None
    assert info.cpu_seconds is not None
    assert info.cpu_seconds >= 0.01
    assert info.bytes_in
    assert info.bytes_out


def test_stats_tell_of_workers_and_bytes(dask: Executor) -> None:
    dask.submit(divmod, 7, 2).result(PATIENCE)
    before = next(iter(dask.stats().values()))
    pid = dask.submit(bodies.busy, 0.02).result(PATIENCE)
    dask.submit(bodies.fail, 1).exception(PATIENCE)
    stats = next(iter(dask.stats().values()))
    assert pid in stats.pids
    assert stats.failed == before.failed + 1
    assert stats.busy > before.busy
    assert stats.bytes_in > before.bytes_in
    assert stats.bytes_out > before.bytes_out
    assert stats.utilisation is not None


def test_a_failure_names_the_call_and_can_be_run_again_here(dask: Executor) -> None:
    future = dask.submit(bodies.fail, 3, of="four")
    error: Any = future.exception(PATIENCE)
    assert f"call {future.number} of " in error.__notes__[0]  # type: ignore[attr-defined]
    assert "(3, of='four'), attempt 1 in pid " in error.__notes__[0]
    with pytest.raises(ValueError, match="3 of four"):
        future.replay()


def test_explain_tells_why_a_call_goes_there(dask: Executor) -> None:
    assert "the executor was made with backend=" in str(dask.explain(divmod))


@pytest.mark.engines
def test_top_sees_calls_there_and_finds_them_by_number(dask: Executor, gate: Gate) -> None:
    from unirun import _snapshot

    future = dask.submit(bodies.halfway, gate.address)
    arrival = gate.arrival()
    number = future.number  # type: ignore[attr-defined]
    assert future.info.pid == arrival.pid
    told = [
        call
        for executor in _snapshot.snapshot()["executors"]
        for backend in executor["backends"]
        for call in backend["calls"]
        if call["id"] == number
    ]
    assert [call["state"] for call in told] == ["running"]
    assert told[0]["worker"] == f"pid {arrival.pid}"
    assert told[0]["ran"] is not None
    assert _snapshot.find(number) is future
    arrival.release()
    future.result(PATIENCE)


# -- on another machine ---------------------------------------------------------------------------


@pytest.mark.engines
def test_a_worker_of_another_machine_is_told_from_those_of_this_one(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In names, and in a trace, where it has a lane that no process here could have."""
    monkeypatch.setattr(_far_setup, "machine", lambda: "another one")
    host, path = socket.gethostname(), tmp_path / "trace.json"
    with unirun.trace(str(path)), Executor(backend=cluster.name) as executor:
        executor._backend(cluster.name).patience = PATIENCE  # type: ignore[attr-defined]
        future = executor.options(deadline=time.monotonic() + PATIENCE).submit(bodies.facts)
        told = future.result(PATIENCE)
        assert told["worker"] == f"pid {told['pid']} on {host}"
        assert told["deadline"] is not None
        assert (future.info.worker, future.info.pid) == (told["worker"], told["pid"])
        assert future.info.took is not None
        assert 0 <= future.info.took < PATIENCE
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    lanes = {row["args"]["name"]: row["pid"] for row in rows if row.get("name") == "process_name"}
    lane = lanes[f"worker {told['pid']} on {host}"]
    assert lane != told["pid"]
    slices = [row for row in rows if row.get("cat") == "call" and row["pid"] == lane]
    assert [row["args"]["call"] for row in slices] == [told["id"]]


def test_a_trace_has_a_lane_for_each_worker_process(dask: Executor, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with unirun.trace(str(path)):
        pid = dask.submit(bodies.busy, 0.005).result(PATIENCE)
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    assert pid in {row["pid"] for row in rows if row.get("cat") == "call"}


def _result(future: "unirun.Future[Any]") -> Any:
    return future.result(PATIENCE)
