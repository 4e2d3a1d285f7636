"""Nothing that a task does to its worker harms another call."""

import os
import select
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from process import bodies, watch
from process.line import PATIENCE, Line

import unirun
from unirun import DeserializationError, SerializationError, WorkerCrashed

Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]


def is_inheritable(fd: str) -> bool:
    try:
        return os.get_inheritable(int(fd))
    except OSError:
        return False  # the one that listed them all


def still_works(executor: unirun.Executor) -> bool:
    return executor.submit(bodies.double, 21).result(PATIENCE) == 42


# -- fork, and other processes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("child", "status"), [("returns", 0), ("exits", 3), ("raises", 1), ("forks", 0)]
)
def test_a_child_that_a_task_forked_ends_where_the_task_ends(
    pool: Pool, child: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    executor = pool(1)
    assert executor.submit(bodies.fork_and, child).result(PATIENCE) == status
    assert executor.submit(bodies.fork_and, child).result(PATIENCE) == status
    assert still_works(executor)
    executor.shutdown()
    printed = capfd.readouterr().err
    assert ("ValueError: in the child" in printed) is (child == "raises")
    assert "ignored" not in printed
    assert executor.stats()["process"].crashed == 0


def test_a_forked_child_may_ask_about_the_task(pool: Pool) -> None:
    executor = pool(1)
    assert executor.submit(bodies.fork_and_ask).result(PATIENCE) == 0
    assert still_works(executor)


@pytest.mark.scenario(55, "Process and Pool work in a task")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_task_may_use_multiprocessing(pool: Pool, method: str) -> None:
    executor = pool(1)
    future = executor.submit(bodies.use_multiprocessing, method)
    assert future.result(PATIENCE) == [7, 2, 4]
    assert still_works(executor)


def test_programs_that_a_task_starts_inherit_none_of_our_pipes(pool: Pool, method: str) -> None:
    executor = pool(1, method)
    listing = executor.submit(bodies.use_subprocess).result(PATIENCE)
    assert "fine" in listing
    pid = executor.submit(bodies.pid).result(PATIENCE)
    ours = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if int(fd.name) > 2}
    pipes = {target for target in ours if target.startswith(("pipe:", "socket:"))}
    assert len(pipes) >= 3
    pipes -= {  # a fork has what its parent hands down to everybody
        str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if is_inheritable(fd.name)
    }
    assert not [pipe for pipe in pipes if pipe in listing]


@pytest.mark.parametrize("method", ["zygote", "spawn"])
def test_workers_inherit_nothing_but_our_pipes(pool: Pool, method: str) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        pid = pool(1, method).submit(bodies.pid).result(PATIENCE)
        held = {fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir()}
        assert Path(f"/proc/self/fd/{writer}").readlink() not in held
    finally:
        os.close(reader)
        os.close(writer)


# -- descriptors and streams --------------------------------------------------------------------


def test_a_task_that_closes_our_pipes_crashes_alone(pool: Pool, method: str) -> None:
    executor = pool(1, method)
    with pytest.raises(WorkerCrashed):
        executor.submit(bodies.close_fds, 3, 255).result(PATIENCE)
    assert still_works(executor)


@pytest.mark.scenario("a task closes descriptors 0 to 2", "nothing of ours is lost")
def test_a_task_may_close_its_standard_streams(pool: Pool, method: str) -> None:
    executor = pool(1, method)
    pid = executor.submit(bodies.pid).result(PATIENCE)
    assert executor.submit(bodies.close_fds, 0, 2).result(PATIENCE) == "closed"
    assert executor.submit(bodies.pid).result(PATIENCE) == pid


@pytest.mark.parametrize("how", ["nonsense", "none", "deleted", "closed"])
def test_a_task_may_do_anything_to_sys_stdout(pool: Pool, how: str) -> None:
    executor = pool(1)
    pid = executor.submit(bodies.pid).result(PATIENCE)
    assert executor.submit(bodies.replace_stdout, how).result(PATIENCE) == how
    assert executor.submit(bodies.pid).result(PATIENCE) == pid


@pytest.mark.parametrize(
    "garbage",
    [b"garbage " * 100, b"\xff" * 100, bytes(64), (3).to_bytes(8, "little") + b"abc", b"\x01"],
)
def test_a_task_that_writes_into_our_pipe_crashes_alone(pool: Pool, garbage: bytes) -> None:
    executor = pool(1)
    future = executor.submit(bodies.write_into_every_pipe, garbage)
    if garbage == b"\x01":  # the beginning of a frame: nobody can tell
        with pytest.raises(TimeoutError):
            future.result(0.3)
        assert future.kill()
    else:
        with pytest.raises(WorkerCrashed):
            future.result(PATIENCE)
    assert still_works(executor)


# -- what cannot be sent ------------------------------------------------------------------------


def test_arguments_that_cannot_be_unpickled_end_their_own_call(pool: Pool) -> None:
    executor = pool(1)
    pid = executor.submit(bodies.pid).result(PATIENCE)
    error = executor.submit(bodies.hand_back, bodies.Unread()).exception(PATIENCE)
    assert isinstance(error, DeserializationError)
    assert "could not unpickle the call of process.bodies.hand_back: ValueError" in str(error)
    assert isinstance(error.__cause__, ValueError)
    assert executor.submit(bodies.pid).result(PATIENCE) == pid


@pytest.mark.scenario(9, "exception while the result is unpickled")
def test_results_that_cannot_be_unpickled_end_their_own_call(pool: Pool) -> None:
    executor = pool(1)
    future = executor.submit(bodies.UnreadAtHome, os.getpid())
    with pytest.raises(DeserializationError, match="could not be unpickled: LookupError: not here"):
        future.result(PATIENCE)
    assert still_works(executor)


@pytest.mark.scenario("unpicklable result, exception, traceback with frames", "its own call fails")
@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, MemoryError])
def test_results_that_cannot_be_pickled_end_their_own_call(
    pool: Pool, kind: type[BaseException]
) -> None:
    executor = pool(1)
    pid = executor.submit(bodies.pid).result(PATIENCE)
    error = executor.submit(bodies.fail_to_pickle, kind).exception(PATIENCE)
    assert isinstance(error, SerializationError)
    assert not isinstance(error, DeserializationError)
    assert executor.submit(bodies.pid).result(PATIENCE) == pid


def test_an_exception_without_a_text_harms_nobody(pool: Pool) -> None:
    executor, home = pool(1), os.getpid()
    pid = executor.submit(bodies.pid).result(PATIENCE)
    assert type(executor.submit(bodies.raise_silent).exception(PATIENCE)) is bodies.Silent
    for kind in (bodies.RaisesSilentAtHome, bodies.RaisesSilentAway):
        future = executor.submit(bodies.hand_back, kind(home))
        assert isinstance(future.exception(PATIENCE), DeserializationError)
    assert executor.submit(bodies.pid).result(PATIENCE) == pid


def test_a_function_that_cannot_be_imported_says_so_each_time(
    pool: Pool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent to a worker only once, so the second failure must not be another one."""
    name = "only_at_home_" + os.urandom(4).hex()
    (tmp_path / f"{name}.py").write_text(
        f"import os\nif os.getpid() != {os.getpid()}:\n    raise ImportError('not here')\n"
        "def f(): return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    function = __import__(name).f
    executor = pool(1)
    for _ in range(3):
        error = executor.submit(function).exception(PATIENCE)
        assert isinstance(error, DeserializationError)
        assert "ImportError: not here" in str(error)
    del sys.modules[name]


# -- large things -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [65_536, 262_144 - 50, 262_144, 1_000_000, 64 << 20])
def test_payloads_of_any_size_go_there_and_back(pool: Pool, size: int) -> None:
    executor, data = pool(1), os.urandom(4096) * (size // 4096) + bytes(size % 4096)
    assert executor.submit(bodies.echo, data).result(PATIENCE) == data


def test_payloads_that_are_a_good_part_of_a_gigabyte(pool: Pool) -> None:
    if psutil.virtual_memory().available < 2 << 30:
        pytest.skip("needs 2 GiB of memory")
    executor, size = pool(1), 150 << 20
    assert executor.submit(bodies.length, bytes(size)).result(PATIENCE) == size
    assert len(executor.submit(bodies.allocate, size).result(PATIENCE)) == size


def test_a_large_payload_does_not_hold_up_the_other_worker(pool: Pool, line: Lines) -> None:
    executor, ready, go = pool(2), line(), line()
    stopped = executor.submit(bodies.wait_for, go, ready)
    psutil.Process(int(ready.wait())).suspend()
    futures = [executor.submit(bodies.length, bytes(1 << 20)) for _ in range(5)]
    assert [future.result(PATIENCE) for future in futures] == [1 << 20] * 5
    assert stopped.kill(grace=0)


@pytest.mark.scenario(32, "what no frame can hold is a clear error of its own call")
@pytest.mark.parametrize("direction", ["call", "result"])
def test_what_no_frame_can_hold_ends_its_own_call(
    pool: Pool, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of 2 GiB, made smaller for this test."""

    def pack(*message: Any) -> bytes:
        frame = original(*message)
        if message[0] in (wire.CALLS, wire.ANSWERS) and len(frame) > 1500:
            raise ValueError("unmarshallable object")
        return frame

    from unirun.backends.process import wire

    original = wire.pack
    monkeypatch.setattr(wire, "pack", pack)
    executor = pool(1, "fork")
    if direction == "call":
        error = executor.submit(bodies.length, bytes(2000)).exception(PATIENCE)
    else:
        error = executor.submit(bodies.allocate, 2000).exception(PATIENCE)
    assert isinstance(error, SerializationError)
    assert "cannot be sent" in str(error)
    assert still_works(executor)


# -- cancellation -------------------------------------------------------------------------------


def test_a_running_call_learns_that_it_was_cancelled(pool: Pool, line: Lines) -> None:
    executor, ready = pool(1), line()
    future = executor.submit(bodies.sleep_until_cancelled, ready)
    ready.wait()
    assert not future.cancel()
    assert future.result(PATIENCE) == "cancelled"
    assert still_works(executor)


def test_a_thread_that_outlives_its_task_steals_nothing(pool: Pool, line: Lines) -> None:
    executor = pool(1)
    pid = executor.submit(bodies.pid).result(PATIENCE)
    future = executor.submit(bodies.leave_a_thread_asking, line(), line())
    assert future.result(PATIENCE) == "answer"
    for number in range(300):
        assert executor.submit(bodies.double, number).result(PATIENCE) == 2 * number
    assert executor.submit(bodies.pid).result(PATIENCE) == pid


# -- the pool while its parent does strange things ----------------------------------------------


def test_thousands_of_waiting_calls_are_cancelled_while_the_loop_is_busy(
    pool: Pool, line: Lines
) -> None:
    """The loop learns of each only when it tries to send it."""
    executor, ready, go, release = pool(2), line(), line(), line()
    other = executor.submit(bodies.wait_for, release, ready)
    ready.wait()
    slow = [executor.submit(bodies.make_slow, go, ready) for _ in range(2)]
    waiting = [executor.submit(bodies.double, number) for number in range(3000)]
    ready.wait()  # the loop is busy with the first; the second is on its way
    until_answered(executor, 1)
    release.send()
    until_answered(executor, 2)
    go.send()
    ready.wait()  # and now with the second, while the other worker's answer has come, too
    assert sum(future.cancel() for future in waiting) >= 2998
    go.send()
    assert [type(future.result(PATIENCE)) for future in slow] == [bodies.Slow] * 2
    other.result(PATIENCE)
    assert still_works(executor)


def until_answered(executor: unirun.Executor, count: int) -> None:
    """Until so many workers have written what the loop has not read."""
    peers = executor._backends["process"]._pool._crew.peers.values()  # type: ignore[attr-defined]

    def unread() -> int:
        return sum(bool(select.select([peer.results], [], [], 0)[0]) for peer in peers)

    watch.until(lambda: unread() >= count, f"{count} answers have come")


def test_many_threads_may_submit(pool: Pool) -> None:
    executor, results = pool(2), []

    def submit(start: int) -> None:
        futures = [executor.submit(bodies.double, start + n) for n in range(100)]
        results.extend(future.result(PATIENCE) for future in futures)

    threads = [threading.Thread(target=submit, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(results) == sorted(2 * (1000 * n + k) for n in range(8) for k in range(100))


def test_callbacks_may_submit_and_wait(pool: Pool, line: Lines) -> None:
    executor, results = pool(1), []
    done = threading.Event()

    def again(future: "unirun.Future[int]") -> None:
        value = future.result(0)
        results.append(value)
        if value < 64:
            results.append(executor.submit(bodies.double, -value).result(PATIENCE))
            executor.submit(bodies.double, value).add_done_callback(again)
        else:
            done.set()

    executor.submit(bodies.double, 1).add_done_callback(again)
    assert done.wait(PATIENCE)
    assert results == [2, -4, 4, -8, 8, -16, 16, -32, 32, -64, 64]


def test_a_finalizer_may_submit(pool: Pool) -> None:
    executor = pool(1)
    futures: list[unirun.Future[int]] = []

    class Last:
        def __del__(self) -> None:
            futures.append(executor.submit(bodies.double, 4))

    for _ in range(100):
        cycle: list[Any] = [Last()]
        cycle.append(cycle)
        del cycle
        futures.append(executor.submit(bodies.double, 4))
    import gc

    gc.collect()
    assert len(futures) == 200
    assert {future.result(PATIENCE) for future in futures} == {8}


def test_a_parent_may_fork_while_its_pool_works(pool: Pool, method: str, line: Lines) -> None:
    executor, ready, go = pool(2, method), line(), line()
    running = executor.submit(bodies.wait_for, go, ready)
    ready.wait()
    for _ in range(3):
        child = os.fork()
        if not child:
            try:
                executor.submit(bodies.double, 1)
            except unirun.ExecutorShutdown:
                os._exit(5)
            finally:
                os._exit(6)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        assert still_works(executor)
    go.send()
    running.result(PATIENCE)
    pids = executor.stats()["process"].pids
    executor.shutdown()
    watch.until_gone(*pids)


def test_the_child_of_a_fork_does_not_keep_workers_alive(pool: Pool, line: Lines) -> None:
    executor, hold = pool(2), line()
    assert still_works(executor)
    pids = executor.stats()["process"].pids
    child = os.fork()
    if not child:
        try:
            hold.wait()
        finally:
            os._exit(0)
    try:
        executor.shutdown(timeout=3)
        watch.until_gone(*pids, timeout=3)
    finally:
        hold.send()
        os.waitpid(child, 0)
