"""Large arguments and results through the pool: what comes out, and what is left behind."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from process import large
from process.large import MIB, Insight, array, mapped
from process.line import PATIENCE, Line
from process.watch import run, until, until_gone, with_tests_on_path

import unirun
from unirun import ConfigError, TaskKilled, WorkerCrashed

Make = Callable[..., unirun.Executor]


@pytest.fixture
def nothing_kept() -> Iterator[None]:
    yield
    large._kept.clear()


# -- what comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("arrays", ["view", "copy"])
def test_large_objects_go_there_and_back(pool: Make, method: str, arrays: str) -> None:
    executor = pool(method=method, arrays=arrays)
    values = [array(), b"x" * MIB, bytearray(MIB), "\N{SNOWMAN}" * MIB, list(range(50_000))]
    for value in [*values, {"all": values}, array()[::2]]:
        for _ in range(2):
            np.testing.assert_equal(executor.submit(large.echo, value).result(PATIENCE), value)
    one, other = executor.submit(large.echo, array(), b"y" * MIB).result(PATIENCE)
    np.testing.assert_equal((one, other), (array(), b"y" * MIB))
    assert executor.submit(large.total, values=array()).result(PATIENCE) == array().sum()


@pytest.mark.parametrize("arrays", ["view", "copy"])
def test_a_task_may_write_to_its_argument_and_the_caller_to_its_result(
    pool: Make, arrays: str
) -> None:
    executor, value = pool(arrays=arrays), array()
    result = executor.submit(large.zeroed, value).result(PATIENCE)
    assert not result.any()
    np.testing.assert_equal(value, array())
    result += 1
    assert result.all()


def test_an_argument_is_a_snapshot(pool: Make, line: Callable[[], Line]) -> None:
    executor, busy, value = pool(1), line(), array()
    blocking = executor.submit(large.hold, busy, 0)
    busy.wait()
    future = executor.submit(large.total, value)
    value[:] = 0
    blocking.kill(0)
    assert future.result(PATIENCE) == array().sum()


def test_large_items_of_a_map(pool: Make) -> None:
    executor = pool()
    found = list(executor.map(large.echo, [np.full(MIB, n, np.uint8) for n in range(40)]))
    assert [int(each[-1]) for each in found] == list(range(40))


def test_a_result_of_300_mib(pool: Make) -> None:
    result = pool(1).submit(large.make, 300 * MIB).result(PATIENCE)
    assert len(result) == 300 * MIB
    assert result[0] == result[-1] == 1


def test_a_partial_with_a_large_array_in_it(pool: Make) -> None:
    import functools

    assert pool().submit(functools.partial(large.total, array())).result(PATIENCE) == array().sum()
    big = array()
    assert pool().submit(lambda: large.total(big)).result(PATIENCE) == array().sum()


# -- nothing is left ------------------------------------------------------------------------------


def test_two_hundred_calls_leave_nothing_behind(pool: Make) -> None:
    executor = pool()

    def figures() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text().count("unirun")
        return len(os.listdir("/proc/self/fd")), maps  # noqa: PTH208

    def work(count: int) -> None:
        futures = [executor.submit(large.echo, array(), b"x" * MIB) for _ in range(count)]
        for future in futures:
            future.result(PATIENCE)

    work(8)
    inside, before = Insight(executor), figures()
    for _ in range(10):
        work(20)
    executor.submit(large.drop).result(PATIENCE)
    until(lambda: inside.arguments == (0, 0), "no argument is held")
    assert inside.results == 0
    assert figures() <= (before[0] + 2, before[1] + 2)


def test_arguments_are_free_when_their_call_is_over(pool: Make, line: Callable[[], Line]) -> None:
    executor, busy = pool(1), line()
    inside = Insight(executor)
    blocking = executor.submit(large.hold, busy, array())
    busy.wait()
    futures = [executor.submit(large.fail, array()), executor.submit(large.total, array())]
    cancelled = executor.submit(large.total, array())
    late = executor.options(queue_timeout=0.05).submit(large.total, array())
    assert inside.arguments[0] == 5
    assert cancelled.cancel()
    with pytest.raises(unirun.QueueTimeout):
        late.result(PATIENCE)
    blocking.kill(0)
    with pytest.raises(ValueError, match=str(MIB // 8)):
        futures[0].result(PATIENCE)
    assert futures[1].result(PATIENCE) == array().sum()
    executor.submit(large.drop).result(PATIENCE)
    until(lambda: inside.arguments == (0, 0), "no argument is held", 5)


def test_an_argument_that_cannot_be_rebuilt_is_let_go(pool: Make) -> None:
    executor = pool(1)
    with pytest.raises(unirun.DeserializationError):
        executor.submit(large.echo, array(), large.Bad()).result(PATIENCE)
    executor.submit(large.drop).result(PATIENCE)
    assert Insight(executor).arguments == (0, 0)


def test_an_argument_that_its_task_keeps_stays_as_it_is(pool: Make, nothing_kept: None) -> None:
    executor = pool(1)
    inside = Insight(executor)
    executor.submit(large.keep, array()).result(PATIENCE)
    for _ in range(5):
        executor.submit(large.total, np.zeros(MIB // 8)).result(PATIENCE)
    assert executor.submit(large.kept_total).result(PATIENCE) == array().sum()
    assert inside.arguments[0] >= 1
    executor.submit(large.drop).result(PATIENCE)
    executor.submit(large.drop).result(PATIENCE)
    until(lambda: inside.arguments == (0, 0), "no argument is held")


def test_a_result_that_is_kept_stays_as_it_is(pool: Make) -> None:
    executor = pool(1)
    kept = [
        executor.submit(large.echo, np.full(MIB, n, np.uint8)).result(PATIENCE) for n in range(5)
    ]
    for _ in range(10):
        executor.submit(large.echo, np.zeros(MIB, np.uint8)).result(PATIENCE)
    assert [set(each.tolist()) for each in kept] == [{0}, {1}, {2}, {3}, {4}]
    assert Insight(executor).results == 5
    kept.clear()
    assert Insight(executor).results == 0


def test_an_idle_worker_gives_back_what_its_results_took(pool: Make) -> None:
    executor = pool(1)
    kept = [executor.submit(large.make, 24 * MIB).result(PATIENCE) for _ in range(16)]
    (side,) = Insight(executor).sides()

    def memory() -> int:
        return os.fstat(side.fd).st_blocks * 512

    assert memory() >= 16 * 24 * MIB
    kept.clear()
    until(lambda: memory() <= 288 * MIB, "no more than is kept for later results is left")


def test_results_outlive_their_pool(pool: Make) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    executor = pool()
    kept = [
        executor.submit(large.echo, np.full(MIB, n, np.uint8)).result(PATIENCE) for n in range(6)
    ]
    executor.shutdown()
    gc.collect()
    assert [int(each[0]) for each in kept] == list(range(6))
    for each in kept:
        each += 1
    assert [int(each[-1]) for each in kept] == [1, 2, 3, 4, 5, 6]
    kept.clear()
    del executor, each
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 4  # noqa: PTH208
    assert mapped() < 64 * MIB


# -- death ----------------------------------------------------------------------------------------


def test_a_killed_worker_holds_no_argument(pool: Make, line: Callable[[], Line]) -> None:
    executor, started = pool(2), line()
    inside = Insight(executor)
    for _ in range(3):
        victim = executor.submit(large.hold, started, array())
        pid = int(started.wait())
        assert inside.arguments[0] == 1
        assert victim.kill(0)
        with pytest.raises(TaskKilled):
            victim.result(PATIENCE)
        until_gone(pid)
        until(lambda: inside.arguments == (0, 0), "no argument is held")
    assert executor.submit(large.total, array()).result(PATIENCE) == array().sum()


def test_a_crashed_worker_holds_no_argument(pool: Make, nothing_kept: None) -> None:
    executor = pool(1)
    inside = Insight(executor)
    executor.submit(large.keep, array()).result(PATIENCE)
    victim = executor.submit(large.crash, array())
    waiting = [executor.submit(large.total, array()) for _ in range(5)]
    with pytest.raises(WorkerCrashed):
        victim.result(PATIENCE)
    assert [each.result(PATIENCE) for each in waiting] == [array().sum()] * 5
    executor.submit(large.drop).result(PATIENCE)
    until(lambda: inside.arguments == (0, 0), "no argument is held")


def test_the_results_of_a_dead_worker_stay_with_their_own_memory(pool: Make) -> None:
    executor = pool(1)
    inside = Insight(executor)
    kept = [executor.submit(large.make, MIB).result(PATIENCE) for _ in range(4)]
    dropped = [executor.submit(large.make, 16 * MIB).result(PATIENCE) for _ in range(3)]
    (side,) = inside.sides()
    fd = os.dup(side.fd)
    try:
        dropped.clear()
        del side
        victim = executor.submit(large.crash, None)  # whoever keeps it keeps no memory by that
        assert isinstance(victim.exception(PATIENCE), WorkerCrashed)
        until(lambda: os.fstat(fd).st_blocks * 512 <= 4 * MIB + 64 * 1024, "the rest is gone")
        assert all(each.all() and len(each) == MIB for each in kept)
        kept.clear()
        until(lambda: os.fstat(fd).st_blocks == 0, "all of it is gone")
    finally:
        os.close(fd)


def test_a_call_that_was_taken_back_still_has_its_argument(
    pool: Make, line: Callable[[], Line]
) -> None:
    executor, started = pool(1), line()
    for _ in range(3):
        victim = executor.submit(large.hold, started, array())
        others = [executor.submit(large.total, array() + n) for n in range(4)]
        started.wait()
        victim.kill(0)
        expected = [(array() + n).sum() for n in range(4)]
        assert [each.result(PATIENCE) for each in others] == expected
    executor.submit(large.drop).result(PATIENCE)
    until(lambda: Insight(executor).arguments == (0, 0), "no argument is held")


def test_an_argument_that_was_taken_back_from_a_worker_is_free_after_its_call(
    pool: Make, line: Callable[[], Line]
) -> None:
    executor, ready, go_on, value = pool(2), line(), line(), array(1 << 16)
    inside = Insight(executor)
    for _ in range(20):
        futures = [executor.submit(large.total_or_hold, value) for _ in range(20)]
        assert {future.result(PATIENCE) for future in futures} == {value.sum()}
    slow = executor.submit(large.total_or_hold, value, ready, go_on)
    futures = [executor.submit(large.total_or_hold, value) for _ in range(20)]
    ready.wait()
    assert {future.result(PATIENCE) for future in futures} == {value.sum()}
    executor.submit(large.total_or_hold, np.zeros(1)).result(PATIENCE)
    until(lambda: inside.arguments[0] == 1, "only the call that runs holds its argument")
    go_on.send()
    assert slow.result(PATIENCE) == value.sum()


@pytest.mark.scenario(62, "memory and sockets go with their owner")
@pytest.mark.parametrize("victim", ["parent", "everybody"])
def test_nothing_is_left_when_they_are_killed(
    tmp_path: Path, line: Callable[[], Line], victim: str
) -> None:
    before = set(os.listdir("/dev/shm"))  # noqa: PTH208
    started = line()
    source = f"""
    import os, signal
    import numpy as np
    import unirun
    from process import large
    from process.line import Line

    if __name__ == "__main__":
        executor = unirun.Executor(2, backend="process")
        kept = executor.submit(large.make, 1 << 22).result()
        executor.submit(large.hold, Line({started.path!r}), kept)
        worker = int(Line({started.path!r}).wait())
        if {victim!r} == "everybody":
            os.kill(worker, signal.SIGKILL)
        print(worker, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run(tmp_path, source, env=with_tests_on_path())
    assert done.returncode == -signal.SIGKILL, done.stderr
    until_gone(int(done.stdout))
    assert set(os.listdir("/dev/shm")) <= before  # noqa: PTH208


# -- forks ----------------------------------------------------------------------------------------


def test_what_a_child_of_a_task_writes_is_its_own(pool: Make) -> None:
    result = pool(1).submit(large.let_a_child_overwrite, array()).result(PATIENCE)
    np.testing.assert_equal(result, array())


def test_what_a_child_of_a_task_looks_at_is_not_used_again(
    pool: Make, line: Callable[[], Line]
) -> None:
    executor, go_on, told = pool(1), line(), line()
    executor.submit(large.leave_a_child, go_on, told, array()).result(PATIENCE)
    for _ in range(5):
        executor.submit(large.total, np.zeros(MIB // 8)).result(PATIENCE)
    go_on.send()
    assert int(told.wait()) == array().sum()


def test_a_child_of_the_program_writes_to_a_copy_of_a_result(pool: Make) -> None:
    executor = pool(1)
    result = executor.submit(large.echo, array()).result(PATIENCE)
    pid = os.fork()
    if pid == 0:
        result[:] = 0
        os._exit(0 if not result.any() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    np.testing.assert_equal(result, array())
    np.testing.assert_equal(executor.submit(large.echo, array()).result(PATIENCE), array())


# -- where it cannot be had -----------------------------------------------------------------------


def test_beyond_the_limit_objects_travel_in_the_pipes(pool: Make) -> None:
    executor = pool(2, arena_limit=2 * MIB)
    inside = Insight(executor)
    futures = [executor.submit(large.echo, array()) for _ in range(10)]
    assert inside.arguments[1] <= 2 * MIB
    for future in futures:
        np.testing.assert_equal(future.result(PATIENCE), array())
    big = executor.submit(large.make, 8 * MIB).result(PATIENCE)
    assert big.all()
    assert inside.results <= 4
    assert pool(1, arena_limit=0).submit(large.total, array()).result(PATIENCE) == array().sum()


@pytest.mark.parametrize(
    "options", [{"arrays": "views"}, {"arena_limit": -1}, {"arena_limit": 1.5}]
)
def test_an_option_that_means_nothing_is_refused(pool: Make, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        pool(1, **options).submit(os.getpid)


@pytest.mark.scenario("memfd_create refused by a sandbox", "files do for large objects")
@pytest.mark.parametrize("without", ["memfd", "memfd,epoll,pidfd,proc,sigio"])
def test_files_do_where_there_is_no_memory_without_a_name(tmp_path: Path, without: str) -> None:
    done = run(
        tmp_path,
        """
        import os
        import numpy as np
        import unirun
        from process import large

        if __name__ == "__main__":
            with unirun.Executor(2, backend="process") as executor:
                for size in (1 << 16, 1 << 20, 1 << 24):
                    value = np.arange(size)
                    print((executor.submit(large.echo, value).result() == value).all())
                print(executor._backends["process"]._exchange.arena.used()[0])
            print(os.listdir())
        """,
        env={**with_tests_on_path(), "UNIRUN_WITHOUT": without, "TMPDIR": str(tmp_path)},
    )
    assert done.stdout.split() == ["True", "True", "True", "0", "['program.py']"], done.stderr


def test_standard_streams_that_are_closed_stay_so(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import os, sys
        import numpy as np
        import unirun
        from process import large

        if __name__ == "__main__":
            out = os.dup(1)
            for fd in (0, 1, 2):
                os.close(fd)
            executor = unirun.Executor(1, backend="process")
            value = np.arange(1 << 20)
            results = [executor.submit(large.echo, value).result() for _ in range(3)]
            taken = [fd for fd in (1, 2) if os.path.exists(f"/proc/self/fd/{fd}")
                     and "unirun" in os.readlink(f"/proc/self/fd/{fd}")]
            same = all((each == value).all() for each in results)
            os.write(out, f"{same} {taken}".encode())
            executor.shutdown()
        """,
        env=with_tests_on_path(),
    )
    assert done.stdout.split() == ["True", "[]"], done.stderr
