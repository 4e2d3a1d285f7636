"""Calls that tasks submit to the executor they run in: no depth deadlocks, with one worker."""

import os
import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import process.conftest as fixtures
import pytest
import reliability_bodies_nesting as bodies
from process.bodies import has_the_process_backend, which_can_submit
from process.line import PATIENCE, Line
from process.watch import until, until_gone

import unirun
from unirun import DeserializationError, SerializationError, TaskKilled, TaskTimeout, WorkerCrashed
from unirun.backends.process.orders import Order
from unirun.backends.process.state import ALONE, Finish, PoolState, Send, Start

pool, line = fixtures.pool, fixtures.line
Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]
Record = Callable[[str, object], None]
nesting = pytest.mark.scenario(
    "nesting: calls in calls", "any depth ends, on threads and processes, with one worker"
)

WAYS = [
    *(bodies.by_result, bodies.by_time_out, bodies.by_exception, bodies.by_wait),
    *(bodies.by_as_completed, bodies.by_map, bodies.by_unordered_map, bodies.by_await),
    *(bodies.by_wrapping, bodies.by_retries, bodies.by_result_in_a_loop),
]


@pytest.fixture(params=["thread", "process"])
def single(request: pytest.FixtureRequest) -> Iterator[unirun.Executor]:
    """One worker."""
    executor = unirun.Executor(1, backend=request.param)
    yield executor
    executor.shutdown(kill=True)


# -- depth --------------------------------------------------------------------------------------


@nesting
@pytest.mark.parametrize("body", WAYS, ids=lambda body: body.__name__)
def test_no_way_of_waiting_for_a_call_in_a_call_deadlocks(
    single: unirun.Executor, body: Callable[[int], int]
) -> None:
    with single:
        assert single.submit(body, 12).result(PATIENCE) == 12


@nesting
@pytest.mark.parametrize("workers", [1, 2])
def test_a_depth_of_100_ends_soon_on_processes(
    pool: Pool, workers: int, record_property: Record
) -> None:
    executor = pool(workers)
    executor.submit(bodies.by_result, 1).result(PATIENCE)
    begun = time.perf_counter()
    assert executor.submit(bodies.by_result, 100).result(PATIENCE) == 100
    took = time.perf_counter() - begun
    assert executor.stats()["process"].workers <= workers
    record_property("figure", f"depth 100 on {workers} worker(s): {1000 * took:.0f} ms")


@nesting
def test_a_depth_of_1000_exhausts_no_stack(single: unirun.Executor) -> None:
    with single:
        assert single.submit(bodies.by_result, 1000).result(PATIENCE) == 1000


@nesting
def test_a_map_in_each_task_of_a_map_ends(single: unirun.Executor) -> None:
    with single:
        assert single.submit(bodies.fib, 9).result(PATIENCE) == 34


@nesting
def test_a_wait_that_nobody_can_see_is_noticed(pool: Pool) -> None:
    assert pool(1).submit(bodies.by_an_event, 2).result(PATIENCE) == 2


@nesting
def test_threads_of_a_task_may_wait_for_calls(pool: Pool) -> None:
    assert pool(1).submit(bodies.in_threads_of_its_own, 5).result(PATIENCE) == 5


@nesting
@pytest.mark.parametrize("first", ["on_a_thread", "on_a_process", "on_a_loop"])
def test_tasks_of_all_kinds_wait_for_one_another(first: str) -> None:
    with unirun.Executor(1) as executor:
        ran = executor.submit(getattr(bodies, first), 8).result(PATIENCE)
    assert len(ran) == 9
    assert set(ran) == {"thread", "process", "coroutine"}


@nesting
def test_a_call_of_a_task_runs_once(pool: Pool, tmp_path: Path) -> None:
    """Though whoever waits for it takes it back while workers take it."""
    executor, log = pool(2), tmp_path / "log"
    futures = [executor.submit(bodies.spread, str(log), 50 * at, 50) for at in range(8)]
    assert sum(future.result(PATIENCE) for future in futures) == sum(range(400))
    assert sorted(map(int, log.read_text().split())) == list(range(400))


@nesting
def test_never_more_calls_run_than_there_are_workers_and_calls_that_wait(
    pool: Pool, tmp_path: Path
) -> None:
    executor, log = pool(2), tmp_path / "log"
    futures = [executor.submit(bodies.count_workers, str(log), 6, 0.02) for _ in range(4)]
    for future in futures:
        future.result(PATIENCE)
    steps = [1 if each == "+" else -1 for each in log.read_text()]
    assert len(steps) == 48
    assert max(sum(steps[: end + 1]) for end in range(48)) <= 2


# -- executors in tasks -------------------------------------------------------------------------


@nesting
def test_an_executor_can_be_handed_to_its_tasks(single: unirun.Executor) -> None:
    with single:
        assert single.submit(bodies.by_an_argument, single, 10).result(PATIENCE) == 10


def test_an_executor_is_one_object_in_a_worker_and_the_current_one(pool: Pool) -> None:
    executor = pool(1)
    assert executor.submit(bodies.is_current, executor).result(PATIENCE)
    assert executor.submit(bodies.is_the_same, executor, [executor]).result(PATIENCE)
    view = executor.options(priority=1)
    assert executor.submit(bodies.by_an_argument, view, 2).result(PATIENCE) == 2
    with pytest.raises(TypeError, match="a view with a limit cannot be pickled"):
        executor.submit(bodies.by_an_argument, executor.options(limit=1), 2).result(PATIENCE)


def test_a_task_may_use_another_executor_of_the_program(pool: Pool) -> None:
    one, other = pool(1), pool(1)
    inside, outside = one.submit(bodies.pid_of_another, other).result(PATIENCE)
    assert inside in one.stats()["process"].pids
    if outside != inside:  # whoever waits may have been quicker than the other's first worker
        assert outside in other.stats()["process"].pids


def test_an_executor_travels_in_calls_only(pool: Pool) -> None:
    executor = pool(1)
    with pytest.raises(TypeError, match="cannot be pickled; hand it to a call"):
        pickle.dumps(executor)
    with pytest.raises(TypeError, match="cannot be pickled"):
        executor.submit(bodies.pickle_it, executor).result(PATIENCE)
    with pytest.raises(SerializationError, match="cannot be pickled"):
        executor.submit(bodies.give_back, executor).result(PATIENCE)


def test_an_executor_is_refused_where_it_is_of_no_use(pool: Pool) -> None:
    """In a worker of a worker, whose calls go to that worker."""
    executor = pool(1)
    with pytest.raises(DeserializationError, match="works only in the process that made it"):
        executor.submit(make_and_hand_on, executor).result(PATIENCE)


def make_and_hand_on(executor: unirun.Executor) -> Any:
    with unirun.Executor(1, backend="process") as own:
        return own.submit(bodies.is_current, executor).result(PATIENCE)


@pytest.mark.scenario(53, "executors made in tasks of one another, 10 levels")
def test_ten_executors_one_in_a_task_of_the_other(pool: Pool) -> None:
    pids = pool(1).submit(bodies.make_levels, 10).result(PATIENCE)
    assert len(set(pids)) == 11
    until_gone(*pids[1:])


@pytest.mark.scenario(53, "beyond a limit of levels a clear error")
def test_executors_in_tasks_have_a_limit(pool: Pool) -> None:
    with pytest.raises(unirun.UnsupportedByBackend, match="20 executors deep; submit to the exec"):
        pool(1).submit(bodies.make_one_too_many).result(PATIENCE)


@pytest.mark.scenario(54, "an idle executor in a worker does not delay the exit")
def test_an_idle_executor_in_a_worker_ends_with_it(pool: Pool, record_property: Record) -> None:
    executor = pool(1)
    pid = executor.submit(bodies.keep_one_idle).result(PATIENCE)
    begun = time.perf_counter()
    executor.shutdown()
    record_property("figure", f"exit: {1000 * (time.perf_counter() - begun):.0f} ms")
    until_gone(pid)


# -- two executors ------------------------------------------------------------------------------

initializers = pytest.mark.scenario(
    "nesting: initializers", "a call runs where the initializer of its executor has run"
)


@initializers
def test_a_call_to_another_executor_is_lent_a_worker_that_has_an_initializer(
    pool: Pool, line: Lines
) -> None:
    """Its own worker is taken; whoever waits may not run it, since it was prepared for others."""
    one, begun, go = pool(1), line(), line()
    other = pool(1, initializer=bodies.prepare, initargs=("other",))
    held = other.submit(bodies.hold, begun, go)
    begun.wait()
    for timeout in (None, PATIENCE):
        asked = one.submit(bodies.ask, other, bodies.preparations, timeout)
        assert asked.result(PATIENCE) == ["other"]
    assert one.submit(bodies.preparations).result(PATIENCE) == []
    until(lambda: other.stats()["process"].workers <= 1, "a worker that was lent stays")
    go.send()
    held.result(PATIENCE)


@nesting
@pytest.mark.parametrize("how", ["prepared", "killable", "unseen"])
def test_calls_to_and_fro_between_two_executors_end(pool: Pool, how: str) -> None:
    """One worker each, which the calls above hold."""
    body = bodies.across_by_an_event if how == "unseen" else bodies.across
    names = [how] if how == "prepared" else []
    made = [pool(1, **prepared(name)) for name in ("one", "other")] if names else [pool(1), pool(1)]
    limits: dict[str, Any] = {"kind": "isolated"} if how == "killable" else {}
    one, other = (each.options(**limits) for each in made)
    ran = one.submit(body, one, other, 4).result(PATIENCE)
    assert ran == (["one", "other", "one", "other", "one"] if names else [])
    for each in made:
        until(lambda: each.stats()["process"].workers <= 1, "a worker that was lent stays")  # noqa: B023
        assert each.submit(bodies.by_result, 3).result(PATIENCE) == 3


def prepared(name: str) -> dict[str, Any]:
    return {"initializer": bodies.prepare, "initargs": (name,)}


@nesting
def test_a_callback_may_wait_for_a_task_that_waits_for_another_executor(pool: Pool) -> None:
    one, other = pool(1), pool(1, **prepared("other"))
    got: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    future = one.submit(os.getpid)
    future.add_done_callback(
        lambda _: got.put(one.submit(bodies.ask, other, bodies.preparations).result(PATIENCE))
    )
    assert got.get(timeout=PATIENCE) == ["other"]


@initializers
def test_a_thread_that_runs_a_call_for_another_executor_is_prepared_for_it() -> None:
    with (
        unirun.Executor(1, backend="thread", **prepared("one")) as one,
        unirun.Executor(1, backend="thread", **prepared("other")) as other,
    ):
        what = bodies.preparation_of_this_thread
        for timeout in (None, PATIENCE):
            assert one.submit(bodies.ask, other, what, timeout).result(PATIENCE) == "other"
            assert other.submit(bodies.ask, one, what, timeout).result(PATIENCE) == "one"
            assert one.submit(bodies.ask, one, what, timeout).result(PATIENCE) == "one"


@initializers
def test_a_thread_deep_in_calls_goes_on_in_one_that_is_prepared() -> None:
    with unirun.Executor(1, backend="thread", **prepared("one")) as one:
        assert one.submit(bodies.ask_deep_down, 45).result(PATIENCE) == "one"


@initializers
def test_an_initializer_that_fails_beside_a_call_is_told() -> None:
    made = {"initializer": bodies.prepare_once, "initargs": ([],)}
    with (
        unirun.Executor(1, backend="thread", **made) as executor,
        pytest.raises(unirun.InitializerFailed, match="once is enough"),
    ):
        executor.submit(bodies.ask, executor, os.getpid, PATIENCE).result(PATIENCE)


@initializers
def test_threads_of_an_executor_are_prepared_in_the_workers_of_another_too(pool: Pool) -> None:
    with unirun.Executor(1, backend="thread", **prepared("threads")) as threads:
        assert pool(1).submit(bodies.ask_a_thread, threads).result(PATIENCE) == "threads"


@initializers
def test_threads_that_cannot_be_prepared_in_another_process_are_not_made_there(pool: Pool) -> None:
    with unirun.Executor(
        1, backend="thread", initializer=id, initargs=(threading.Lock(),)
    ) as threads:
        assert threads.submit(bodies.preparation_of_this_thread).result(PATIENCE) == "nothing"
        with pytest.raises(unirun.InitializerFailed, match=r"the initializer .*cannot be pickled"):
            pool(1).submit(bodies.ask_a_thread, threads).result(PATIENCE)


# -- the machine --------------------------------------------------------------------------------


class Job:
    kind = ALONE
    priority = 0


def started(size: int) -> tuple[PoolState, list[Job]]:
    """A machine whose slots are all taken, each by a call."""
    state, jobs = PoolState(size), [Job() for _ in range(size)]
    workers = [order.worker for order in state.submit(jobs) if isinstance(order, Start)]
    for worker in workers:
        state.worker_ready(worker)
    assert state.running == size
    return state, jobs


def sent(orders: Sequence[Order]) -> list[Any]:
    return [call for order in orders if isinstance(order, Send) for call in order.calls]


def refuses(submit: Callable[[list[Job]], list[Order]]) -> bool:
    job = Job()
    return submit([job]) == [Finish([job], "refused")]


def test_the_machine_takes_calls_of_a_call_while_it_closes_and_not_once_it_gives_up() -> None:
    state, _ = started(1)
    state.close()
    inner = Job()
    assert refuses(state.submit)
    assert state.submit_inner([inner]) == []
    assert inner in sent(state.worker_answered(0))
    state.close(kill=True)
    assert refuses(state.submit_inner)


def test_the_machine_ends_though_calls_of_its_last_call_came_late() -> None:
    state, _ = started(1)
    state.close()
    state.submit_inner([Job()])
    state.worker_answered(0)
    state.worker_answered(0)
    state.worker_gone(0)
    assert state.finished
    assert refuses(state.submit_inner)


def test_a_preferred_call_is_the_next_and_one_that_runs_stays_where_it_is() -> None:
    state, (running,) = started(1)
    first, second = Job(), Job()
    state.submit([first, second])
    assert state.prefer(second) == state.prefer(running) == []
    assert sent(state.worker_answered(0)) == [second]


# -- ends ---------------------------------------------------------------------------------------


def test_an_error_below_is_the_error(pool: Pool) -> None:
    executor = pool(1)
    with pytest.raises(LookupError, match="not today") as caught:
        executor.submit(bodies.fail_below, "not today").result(PATIENCE)
    assert "in fail\n" in "".join(getattr(caught.value, "__notes__", [])) + str(
        caught.value.__cause__
    ) + _traceback(caught.value)


def _traceback(exc: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(exc))


@nesting
def test_a_call_that_must_be_killable_has_a_process_of_its_own(pool: Pool) -> None:
    """And is lent a worker for that, which is gone afterwards."""
    executor = pool(1)
    pids = executor.submit(bodies.isolated, 2).result(PATIENCE)
    assert len(set(pids)) == 3
    until(lambda: executor.stats()["process"].workers <= 1, "a worker that was lent stays")


@nesting
def test_workers_that_are_lent_need_not_import_what_submits_calls(
    pool: Pool, record_property: Record
) -> None:
    """Their zygote has it, from the first of them on."""
    executor = pool(1)
    begun = time.perf_counter()
    assert executor.submit(which_can_submit, 5).result(PATIENCE) == 2 * [False] + 4 * [True]
    took = time.perf_counter() - begun
    record_property("figure", f"a killable call in a call: {200 * took:.0f} ms a level, of 5")


def test_a_worker_whose_tasks_submit_does_not_import_the_pool(pool: Pool) -> None:
    assert not pool(1).submit(has_the_process_backend).result(PATIENCE)


def test_a_call_below_that_dies_is_a_crash_and_harms_no_other(pool: Pool) -> None:
    assert pool(1).submit(bodies.crash_below).result(PATIENCE) == WorkerCrashed.__name__


def test_a_call_below_is_killed_at_its_time_out(pool: Pool) -> None:
    assert pool(1).submit(bodies.time_out_below).result(PATIENCE) == TaskTimeout.__name__


def test_the_time_out_of_a_wait_holds_for_a_call_that_nobody_else_runs(
    single: unirun.Executor,
) -> None:
    with single:
        assert single.submit(bodies.wait_no_longer).result(PATIENCE) == ("in time", "slept")


def test_a_call_below_that_has_not_begun_can_be_cancelled(pool: Pool) -> None:
    assert pool(1).submit(bodies.cancel_below).result(PATIENCE) == (False, True, True)


def test_a_call_below_that_runs_can_be_killed(pool: Pool, line: Lines) -> None:
    ended = pool(2).submit(bodies.kill_below, line()).result(PATIENCE)
    assert ended == (True, False, True, TaskKilled.__name__)


@pytest.mark.parametrize("how", ["killed", "late", "dead"])
@pytest.mark.scenario(
    "nesting: the end of a parent", "its calls are cancelled, those that run are killed"
)
def test_what_a_task_has_started_ends_with_its_worker(
    pool: Pool, line: Lines, tmp_path: Path, how: str
) -> None:
    executor, runs, told, go = pool(2, grace=0.2), line(), line(), line()
    path = str(tmp_path / "log")
    executor.submit(bodies.by_result, 1).result(PATIENCE)  # the imports are done
    if how == "dead":
        future = executor.submit(bodies.start_three_and_die, runs, told, path, go)
    else:
        view = executor.options(timeout=3) if how == "late" else executor
        future = view.submit(bodies.start_three, runs, told, path)
    child = int(runs.wait())
    told.wait()
    if how == "killed":
        assert future.kill()
    elif how == "late":
        assert isinstance(future.exception(PATIENCE), TaskTimeout)
    else:
        go.send()
        assert isinstance(future.exception(PATIENCE), WorkerCrashed)
    until_gone(child)
    assert executor.submit(bodies.by_result, 3).result(PATIENCE) == 3
    assert not Path(path).exists()


def test_what_a_task_leaves_behind_is_done(pool: Pool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    executor = pool(1)
    executor.submit(bodies.leave_behind, str(log)).result(PATIENCE)
    executor.shutdown()
    assert log.read_text() == "7\n"


def test_a_thread_that_a_task_has_left_behind_may_submit(pool: Pool, line: Lines) -> None:
    executor, told = pool(1), line()
    executor.submit(bodies.wait_in_a_thread_left_behind, told).result(PATIENCE)
    assert told.wait() == "3"
    assert executor.submit(bodies.by_result, 3).result(PATIENCE) == 3


def test_a_task_may_submit_after_the_shutdown_has_begun(pool: Pool, line: Lines) -> None:
    executor, begun, go = pool(1), line(), line()
    future = executor.submit(bodies.begin_and_submit, begun, go)
    begun.wait()
    executor.shutdown(wait=False)
    go.send()
    assert future.result(PATIENCE) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_call_below_knows_what_it_is(pool: Pool, workers: int) -> None:
    executor = pool(workers).options(timeout=PATIENCE)
    name, backend, attempt, left = executor.submit(bodies.about_below).result(PATIENCE)
    assert (name, backend, attempt) == ("reliability_bodies_nesting.about", "process", 1)
    assert 0 < left <= PATIENCE


def test_the_parent_is_no_place_for_its_calls(pool: Pool) -> None:
    """However they get there."""
    executor = pool(1)
    assert os.getpid() not in executor.submit(bodies.isolated, 1).result(PATIENCE)
