"""An executor may get more workers, or fewer, while it works."""

import threading
from collections.abc import Callable

import pytest
from process import bodies, watch
from process.line import PATIENCE, Line

import unirun

Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]


def test_more_workers_take_what_waits(pool: Pool, line: Lines) -> None:
    executor, ready, go = pool(1), line(), line()
    futures = [executor.submit(bodies.wait_for, go, ready) for _ in range(3)]
    first = int(ready.wait())
    executor.resize(3)
    pids = {first, int(ready.wait()), int(ready.wait())}  # all three run now
    assert len(pids) == 3
    for _ in futures:
        go.send()
    assert {future.result(PATIENCE) for future in futures} == pids
    assert executor.stats()["process"].max_workers == 3


def test_surplus_workers_end_when_they_are_idle_and_no_call_is_disturbed(
    pool: Pool, line: Lines
) -> None:
    executor, ready, go = pool(3), line(), line()
    futures = [executor.submit(bodies.wait_for, go, ready) for _ in range(3)]
    pids = {int(ready.wait()) for _ in futures}
    executor.resize(1)
    waiting = executor.submit(bodies.pid)
    assert not waiting.done()
    for _ in futures:
        go.send()
    assert {future.result(PATIENCE) for future in futures} == pids
    assert waiting.result(PATIENCE) in pids
    watch.until(lambda: executor.stats()["process"].workers == 1, "one worker is left")


def test_a_backend_that_starts_later_has_the_new_number() -> None:
    with unirun.Executor(1, backend="process") as executor:
        executor.resize(2)
        assert executor._max_workers == 2
        assert executor.submit(bodies.double, 2).result(PATIENCE) == 4
        assert executor.stats()["process"].max_workers == 2


def test_many_threads_may_resize_while_calls_are_submitted(pool: Pool) -> None:
    executor = pool(2)

    def resize(sizes: tuple[int, ...]) -> None:
        for size in sizes:
            executor.resize(size)

    threads = [threading.Thread(target=resize, args=(sizes * 50,)) for sizes in [(1, 3), (2, 4)]]
    for thread in threads:
        thread.start()
    futures = [executor.submit(bodies.double, number) for number in range(1000)]
    for thread in threads:
        thread.join(PATIENCE)
    assert [future.result(PATIENCE) for future in futures] == [2 * n for n in range(1000)]


@pytest.mark.parametrize("size", [0, -1, 1.5, "many"])
def test_a_size_that_is_none_is_refused(pool: Pool, size: object) -> None:
    with pytest.raises(ValueError, match="max_workers"):
        pool(1).resize(size)  # type: ignore[arg-type]


def test_after_shutdown_there_is_nothing_to_resize(pool: Pool) -> None:
    executor = pool(1)
    executor.shutdown()
    with pytest.raises(unirun.ExecutorShutdown):
        executor.resize(2)
