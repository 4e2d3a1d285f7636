"""`unirun.trace` and UNIRUN_TRACE: real calls on every backend, and what their file tells."""

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from traces import breaches

import unirun
from unirun import ConfigError, _trace
from unirun.report.reading import read


def double(n):
    return 2 * n


def fail():
    raise ValueError("no")


def nap(seconds):
    time.sleep(seconds)


def spin(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


async def rest():
    await asyncio.sleep(0.01)


def outer(n):
    futures = [unirun.submit(double, i) for i in range(n)]
    return sum(future.result() for future in futures)


@pytest.fixture(scope="module")
def executor():
    """One thread, which is there before the first test."""
    with unirun.Executor(1, backend="thread") as executor:
        executor.submit(double, 1).result()
        yield executor


@pytest.fixture
def own():
    """For tests that start and end workers; one of each."""
    with unirun.Executor(1) as executor:
        yield executor


def traced(path):
    return read(path.read_bytes(), path.name)


def rules_of(path):
    return breaches(json.loads(path.read_text()))


def calls_of(path, name):
    return [call for call in traced(path).calls if call.name.endswith(name)]


@pytest.mark.parametrize("kind", ["cpu", "io", "async"])
def test_every_call_of_a_block_is_drawn(own, tmp_path, kind):
    path = tmp_path / "run.json"
    with unirun.trace(path):
        work, args = (rest, ()) if kind == "async" else (double, (2,))
        for future in [own.options(kind=kind).submit(work, *args) for _ in range(5)]:
            future.result()
    calls = [call for call in traced(path).calls if call.name.endswith(work.__name__)]
    assert len(calls) == 5
    assert {call.state for call in calls} == {"finished"}
    assert len({call.number for call in calls}) == 5
    assert all(call.end > call.start and call.kind == kind for call in calls)
    assert rules_of(path) == []


def test_inline_calls_are_drawn_in_the_thread_that_runs_them(tmp_path):
    path = tmp_path / "run.json"
    with unirun.trace(path), unirun.Executor(backend="inline") as executor:
        executor.submit(double, 2).result()
    (call,) = calls_of(path, "double")
    assert call.lane == (os.getpid(), os.getpid())
    assert rules_of(path) == []


def test_a_call_in_a_process_tells_what_it_used_and_what_travelled(own, tmp_path):
    path = tmp_path / "run.json"
    data = b"x" * 300_000
    with unirun.trace(path):
        own.options(kind="cpu").submit(spin, 0.03).result()
        own.options(kind="cpu").submit(bytes.upper, data).result()
    (spun,) = calls_of(path, "spin")
    assert spun.cpu is not None
    assert spun.cpu >= 0.02
    (sent,) = calls_of(path, "upper")
    assert 300_000 <= sent.bytes_in <= 310_000
    assert 300_000 <= sent.bytes_out <= 310_000
    assert spun.lane[0] != os.getpid()


def test_failures_are_states_of_slices(own, tmp_path):
    path = tmp_path / "run.json"
    with unirun.trace(path):
        own.options(kind="cpu").submit(fail).exception()
        own.options(kind="io").submit(fail).exception()
    calls = calls_of(path, "fail")
    assert [(call.state, call.error) for call in calls] == [("failed", "ValueError")] * 2


def test_kills_crashes_and_time_outs_are_marked(own, tmp_path):
    path = tmp_path / "run.json"
    remote = own.options(kind="cpu")
    with unirun.trace(path):
        running = remote.submit(nap, 60)
        while not running.running():
            time.sleep(0.001)
        running.kill(0)
        remote.submit(os._exit, 3).exception()
        own.options(kind="cpu", timeout=0.05).submit(nap, 60).exception()
        own.options(kind="cpu", retries=1).submit(fail).exception()
    kinds = {mark.kind for mark in traced(path).marks}
    assert {"killed", "crashed", "timed_out", "retried", "worker_died"} <= kinds
    assert sorted(call.attempt for call in calls_of(path, "fail")) == [1, 2]
    assert rules_of(path) == []


def test_a_nested_call_knows_who_submitted_it(own, tmp_path):
    path = tmp_path / "run.json"
    with unirun.trace(path):
        assert own.options(kind="io").submit(outer, 3).result() == 6
    (parent,) = calls_of(path, "outer")
    assert {call.parent for call in calls_of(path, "double")} == {parent.number}
    assert rules_of(path) == []


def test_counters_tell_of_the_program_and_its_workers(own, tmp_path):
    path = tmp_path / "run.json"
    with unirun.trace(path):
        own.options(kind="cpu").submit(nap, 0.35).result()
    run = traced(path)
    assert {"waiting", "running", "memory", "cpu"} <= {name for name, _ in run.counters}
    memory = {counter.pid: counter for counter in run.counted("memory")}
    assert os.getpid() in memory
    assert len(memory) >= 2
    assert all(value > 1_000_000 for counter in memory.values() for _, value in counter.points)


def test_a_trace_compresses_if_its_name_says_so(executor, tmp_path):
    path = tmp_path / "run.json.gz"
    with unirun.trace(str(path)):
        executor.submit(double, 1).result()
    assert json.loads(gzip.decompress(path.read_bytes()))
    assert len(calls_of(path, "double")) == 1


def test_it_is_a_decorator_also_of_coroutine_functions(executor, tmp_path):
    path = tmp_path / "run.json"

    @unirun.trace(path)
    def job(n):
        """Says so."""
        return executor.submit(double, n).result()

    @unirun.trace(path)
    async def job_async(n):
        return await executor.submit(double, n)

    assert (job(3), job.__name__, job.__doc__) == (6, "job", "Says so.")
    assert len(calls_of(path, "double")) == 1
    assert asyncio.run(job_async(4)) == 8
    assert len(calls_of(path, "double")) == 1


def test_start_and_stop_may_be_called_anywhere_and_stop_twice(executor, tmp_path):
    tracer = unirun.trace(tmp_path / "a-%p.json")
    assert tracer.start() is tracer
    assert tracer.path == str(tmp_path / f"a-{os.getpid()}.json")
    executor.submit(double, 1).result()
    stopper = threading.Thread(target=tracer.stop)
    stopper.start()
    stopper.join()
    tracer.stop()
    executor.submit(double, 1).result()
    assert len(calls_of(Path(tracer.path), "double")) == 1
    with tracer:  # once more, the same file
        pass
    assert calls_of(Path(tracer.path), "double") == []


def test_two_traces_at_once_tell_the_same_and_one_file_is_never_shared(executor, tmp_path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    with unirun.trace(one) as first, unirun.trace(two):
        with pytest.raises(ConfigError, match="another trace writes to"):
            unirun.trace(one).start()
        with pytest.raises(ConfigError, match="is on already"):
            first.start()
        executor.submit(double, 1).result()
    assert len(calls_of(one, "double")) == len(calls_of(two, "double")) == 1


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "9"])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(ConfigError, match="is no number of calls"):
        unirun.trace("x.json", limit=limit)


@pytest.mark.parametrize("path", ["", b"x.json"])
def test_a_name_that_is_none_is_refused(path):
    with pytest.raises(ConfigError, match="no name of a file"):
        unirun.trace(path)


def test_a_file_that_cannot_be_made_is_an_oserror_and_nothing_is_watched(tmp_path):
    before = _trace._observe.watchers
    with pytest.raises(OSError, match="No such file"), unirun.trace(tmp_path / "no" / "x.json"):
        pass
    assert _trace._observe.watchers == before


def test_a_disk_that_is_full_costs_the_trace_and_not_the_calls(executor):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="No space"), unirun.trace("/dev/full"):
        pass
    assert executor.submit(double, 1).result() == 2


def test_what_comes_too_fast_is_dropped_counted_and_said(executor, tmp_path, monkeypatch):
    monkeypatch.setattr(_trace, "MOST", 0)
    path = tmp_path / "run.json"
    with unirun.trace(path):
        executor.submit(double, 1).result()
    assert traced(path).calls == []
    assert traced(path).dropped >= 2


@pytest.mark.parametrize("kind", ["cpu", "io", "async"])
def test_what_waits_to_be_written_keeps_no_future_and_so_no_result(own, kind):
    seen = []
    stop = _trace._observe.watch(seen.append)
    try:
        future = own.options(kind=kind).submit(rest if kind == "async" else fail)
        future.exception()
    finally:
        stop()
    of_call = [event for event in seen if event.call is not None]
    assert {event.future for event in of_call} == {future}
    assert all(future not in event.__dict__.values() for event in seen)


def test_nothing_watches_and_no_thread_runs_when_it_is_over(executor, tmp_path):
    before = _trace._observe.watchers
    with unirun.trace(tmp_path / "run.json"):
        assert "unirun-trace" in {thread.name for thread in threading.enumerate()}
    assert "unirun-trace" not in {thread.name for thread in threading.enumerate()}
    assert _trace._observe.watchers == before
    assert _trace._on == set()


# -- programs of their own ------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, time, unirun
def double(n): return 2 * n
def main():
    executor = unirun.Executor(1, backend="thread")
    executor.submit(double, 3).result()
    {end}
if __name__ == "__main__": main()
"""


def ran(tmp_path, end, *, name="run.json", **variables):
    """A program traced by its environment, until it is over."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM).format(end=end))
    environment = {**os.environ, "UNIRUN_TRACE": str(tmp_path / name), **variables}
    return subprocess.run(
        [sys.executable, "-P", str(program)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("pass", 0),
        ("sys.exit(7)", 7),
        ("raise RuntimeError('no')", 1),
    ],
)
def test_a_program_that_ends_by_itself_leaves_a_whole_trace(tmp_path, end, status):
    done = ran(tmp_path, end)
    assert done.returncode == status, done.stderr
    assert len(calls_of(tmp_path / "run.json", "double")) == 1
    assert traced(tmp_path / "run.json").is_whole


def test_a_program_that_drains_after_sigterm_leaves_a_whole_trace(tmp_path):
    end = "unirun.drain_on_sigterm(5); os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)"
    done = ran(tmp_path, end)
    assert done.returncode == 143, done.stderr
    assert len(calls_of(tmp_path / "run.json", "double")) == 1
    assert traced(tmp_path / "run.json").is_whole


@pytest.mark.parametrize("name", ["run.json", "run.json.gz"])
def test_a_program_that_is_killed_leaves_what_was_written_by_then(tmp_path, name):
    wait = "time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)"
    done = ran(tmp_path, wait, name=name)
    assert done.returncode == -signal.SIGKILL
    assert len(calls_of(tmp_path / name, "double")) == 1
    assert not traced(tmp_path / name).is_whole


def test_a_forked_child_writes_nothing_and_its_parent_goes_on(tmp_path):
    end = """pid = os.fork()
    if not pid:
        unirun.Executor(1, backend="thread").submit(double, 4).result()
        sys.exit(0)
    os.waitpid(pid, 0)
    executor.submit(double, 5).result()"""
    done = ran(tmp_path, end)
    assert done.returncode == 0, done.stderr
    assert len(calls_of(tmp_path / "run.json", "double")) == 2
    assert traced(tmp_path / "run.json").unread == 0


def test_a_setting_that_cannot_be_followed_is_a_warning(tmp_path):
    done = ran(tmp_path, "print('fine')", name="no/run.json")
    assert (done.returncode, done.stdout) == (0, "fine\n")
    assert "RuntimeWarning: the setting trace has no effect" in done.stderr
