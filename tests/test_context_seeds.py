"""Seeds come from the run and the place of a call in it, and from nothing else."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest
from contexts import PATIENCE

import unirun
from unirun import ConfigError, Executor, UnsupportedByBackend, config, configure
from unirun._seeds import derive
from unirun.cli import main

pytestmark = pytest.mark.usefixtures("here")

BACKENDS = ("inline", "thread", "coroutine", "process")


def seed() -> int | None:
    task = unirun.current_task()
    assert task is not None
    return task.seed


async def seed_later() -> int | None:
    await asyncio.sleep(0)
    return seed()


def seed_of_item(item: int) -> tuple[int, int | None]:
    return item, seed()


async def seed_of_item_later(item: int) -> tuple[int, int | None]:
    return item, seed()


@unirun.task(kind="cpu")
def below(depth: int) -> Any:
    """Its seed, and those of the calls and of the map that it submits."""
    if not depth:
        return seed()
    mine = seed()
    calls = [below.submit(depth - 1) for _ in range(2)]
    items = list(unirun.map(seed_of_item, range(2)))
    return mine, [call.result(PATIENCE) for call in calls], items


def run(executor: Executor, backend: str, chunksize: Any = "auto") -> Any:
    """The seeds of some calls, and of the items of two maps between them."""
    single, item = seed, seed_of_item
    if backend == "coroutine":
        single, item = seed_later, seed_of_item_later  # type: ignore[assignment]
    first = [executor.submit(single) for _ in range(3)]
    maps = [executor.map(item, range(9), chunksize=chunksize, buffersize=8) for _ in range(2)]
    later = executor.submit(single)
    found = [list(each) for each in reversed(maps)]  # read in another order than they were made
    return [future.result(PATIENCE) for future in (*first, later)], found[::-1]


@pytest.fixture(scope="module")
def expected() -> Any:
    with Executor(1, backend="inline", seed=42) as executor:
        return run(executor, "inline", 1)


# -- the same whatever -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_has_the_same_seeds(backend: str, expected: Any) -> None:
    with Executor(2, backend=backend, seed=42) as executor:
        assert run(executor, backend) == expected


def test_neither_workers_nor_pieces_matter(expected: Any) -> None:
    with Executor(1, backend="process", seed=42) as executor:
        assert run(executor, "process", 4) == expected


def test_a_view_with_options_is_of_the_same_run(expected: Any) -> None:
    with Executor(2, backend="thread", seed=42) as executor:
        view: Any = executor.options(limit=1, priority=1, timeout=PATIENCE)
        assert run(view, "thread", 1) == expected


def test_seeds_are_all_different(expected: Any) -> None:
    calls, maps = expected
    seeds = [*calls, *(each for items in maps for _, each in items)]
    assert len({*seeds}) == len(seeds) == 22
    assert all(0 <= each < 1 << 63 for each in seeds)
    with Executor(1, backend="inline", seed=43) as executor:
        assert not {*run(executor, "inline")[0]} & {*seeds}


@pytest.mark.parametrize("backend", ["thread", None])
def test_calls_of_calls_take_theirs_from_the_call(backend: str | None) -> None:
    with Executor(2, backend="inline", seed=1) as executor:
        expected = executor.submit(below, 2).result(PATIENCE)
    with Executor(2, backend=backend, seed=1) as executor:
        assert executor.submit(below, 2).result(PATIENCE) == expected


def test_attempts_have_the_seed_of_their_call() -> None:
    with Executor(1, backend="process", seed=1) as executor:
        view = executor.options(retries=unirun.Retry(2, backoff=0))
        tried = view.submit(third_time).result(PATIENCE)
    with Executor(1, backend="inline", seed=1) as executor:
        assert tried == executor.submit(seed).result(PATIENCE)


def third_time() -> Any:
    task = unirun.current_task()
    assert task is not None
    if task.attempt < 3:
        raise OSError("not yet")
    return task.seed


def test_a_crash_in_a_piece_of_a_map_changes_no_other_item() -> None:
    with Executor(1, backend="inline", seed=1) as executor:
        expected = list(executor.map(seed_of_item, range(12)))
    with Executor(1, backend="process", seed=1) as executor:
        found = list(executor.map(seed_or_crash, range(12), chunksize=12, errors="return"))
    assert isinstance(found.pop(5), unirun.WorkerCrashed)
    del expected[5]
    assert found == expected


def seed_or_crash(item: int) -> Any:
    if item == 5:
        import os

        os._exit(3)
    return seed_of_item(item)


# -- who says it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", ["1", "3"])
def test_the_command_line_gives_each_input_its_own(
    chunksize: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNIRUN_SEED", "42")
    monkeypatch.setattr("unirun._seeds._executors", iter(range(9)))
    inputs = ["a", "b", "c", "d"]
    how = ["--backend", "thread", "--chunksize", chunksize]
    assert main(["map", "test_context_seeds:seed_of", *how, *inputs]) == 0
    root = derive(derive(derive(derive(42, 0), 0), 0), 0)
    assert capfd.readouterr().out.split() == [str(derive(root, n)) for n in range(4)]


def seed_of(_: str) -> int | None:
    return seed()


def test_without_a_seed_there_is_none() -> None:
    with Executor(1, backend="thread") as executor:
        assert executor.submit(seed).result(PATIENCE) is None
        assert list(executor.map(seed_of_item, range(2))) == [(0, None), (1, None)]


def test_a_block_is_a_run_each_time_it_is_entered() -> None:
    block = config(seed=7)
    found = []
    with Executor(1, backend="thread") as executor:
        for _ in range(2):
            with block, config(name="nine"):
                found.append(run(executor, "thread"))
        assert executor.submit(seed).result(PATIENCE) is None
    assert found[0] == found[1]


def test_blocks_may_be_nested_and_their_numbers_go_on() -> None:
    with Executor(1, backend="thread") as executor:

        def next_seed() -> Any:
            return executor.submit(seed).result(PATIENCE)

        with config(seed=7):
            plain = [next_seed() for _ in range(2)]
        with config(seed=7):
            first = next_seed()
            with config(seed=8):
                assert next_seed() not in plain
            assert [first, next_seed()] == plain


@pytest.mark.parametrize("how", ["variable", "configure", "file"])
def test_said_for_the_program_each_executor_is_a_run_of_its_own(
    how: str, monkeypatch: pytest.MonkeyPatch, here: Any
) -> None:
    if how == "variable":
        monkeypatch.setenv("UNIRUN_SEED", "42")
    elif how == "configure":
        configure(seed=42)
    else:
        (here / "unirun.toml").write_text("seed = 42\n")
    monkeypatch.setattr("unirun._seeds._executors", iter(range(4)))
    found = []
    for _ in range(2):
        with Executor(1, backend="thread") as executor:
            found.append([executor.submit(seed).result(PATIENCE) for _ in range(2)])
    root = derive(42, 0)
    assert found == [[derive(derive(derive(root, n), 0), k) for k in range(2)] for n in range(2)]


def test_options_say_the_seed_itself_as_to_repeat_one_call() -> None:
    with Executor(1, backend="thread", seed=1) as executor:
        seen = executor.submit(seed).result(PATIENCE)
        view = executor.options(seed=seen)
        assert [view.submit(seed).result(PATIENCE) for _ in range(2)] == [seen, seen]
        items = [each for _, each in view.map(seed_of_item, range(2))]
        assert items == [derive(seen or 0, 0), derive(seen or 0, 1)]


def test_a_run_begun_in_a_call_is_its_own() -> None:
    with Executor(1, backend="thread", seed=1) as executor:
        found = [executor.submit(with_runs_of_its_own).result(PATIENCE) for _ in range(2)]
    assert found[0] == found[1]
    with Executor(1, backend="inline", seed=5) as other:
        assert found[0] == [other.submit(seed).result(PATIENCE)] * 2


def with_runs_of_its_own() -> Any:
    with Executor(1, backend="inline", seed=5) as executor:
        first = executor.submit(seed).result(PATIENCE)
    with Executor(1, backend="inline") as executor, config(seed=5):
        return [first, executor.submit(seed).result(PATIENCE)]


def test_a_large_seed_counts_to_its_last_bit() -> None:
    found = set()
    for number in (0, 1, 1 << 64, (1 << 64) + 1, 1 << 200):
        with Executor(1, backend="inline", seed=number) as executor:
            found.add(executor.submit(seed).result(PATIENCE))
    assert len(found) == 5


# -- what is made of it ----------------------------------------------------------------------------


def draw(_: int = 0) -> Any:
    task = unirun.current_task()
    assert task is not None
    return task.random.random(), task.random is task.random


def draw_with_numpy(_: int = 0) -> Any:
    task = unirun.current_task()
    assert task is not None
    return float(task.rng().random()), float(task.rng().random())


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_each_call_and_item_has_generators_of_its_own(backend: str) -> None:
    pytest.importorskip("numpy")
    with Executor(2, backend=backend, seed=3) as executor:
        drawn = [executor.submit(draw).result(PATIENCE), *executor.map(draw, range(8))]
        with_numpy = list(executor.map(draw_with_numpy, range(8)))
    assert all(same for _, same in drawn)
    assert len({number for number, _ in drawn}) == 9
    assert len({number for pair in with_numpy for number in pair}) == 16
    with Executor(1, backend="inline", seed=3) as executor:
        assert drawn == [executor.submit(draw).result(PATIENCE), *executor.map(draw, range(8))]
        assert with_numpy == list(executor.map(draw_with_numpy, range(8)))


def test_without_a_seed_generators_differ() -> None:
    with Executor(1, backend="thread") as executor:
        assert len({executor.submit(draw).result(PATIENCE) for _ in range(4)}) == 4


def draw_from_the_library(_: int = 0) -> Any:
    import numpy

    return random.random(), float(numpy.random.random())


async def draw_later() -> Any:
    await asyncio.sleep(0)
    return draw_from_the_library()


@pytest.mark.parametrize("backend", ["inline", "process"])
def test_libraries_are_seeded_for_a_call_and_left_as_they_were(backend: str) -> None:
    pytest.importorskip("numpy")
    with Executor(1, backend=backend, seed=3) as executor:
        plain, before = executor.options(seed=None), executor.submit(states).result(PATIENCE)
        view = executor.options(seed_libraries=True)
        drawn = [view.submit(draw_from_the_library).result(PATIENCE) for _ in range(2)]
        drawn += [view.submit(draw_later).result(PATIENCE)]
        items = list(view.map(draw_from_the_library, range(6), chunksize=3))
        assert plain.submit(states).result(PATIENCE) == before
    assert len({*drawn, *items}) == 9
    with Executor(1, backend="inline", seed=3) as executor:
        executor.submit(states).result(PATIENCE)
        view = executor.options(seed_libraries=True)
        again = [view.submit(draw_from_the_library).result(PATIENCE) for _ in range(2)]
        again += [view.submit(draw_later).result(PATIENCE)]
        assert (again, list(view.map(draw_from_the_library, range(6)))) == (drawn, items)


def states() -> Any:
    import numpy

    return random.getstate(), str(numpy.random.get_state())


@pytest.mark.parametrize("backend", ["thread", "coroutine"])
def test_what_all_threads_share_is_not_seeded_for_one_call(backend: str) -> None:
    with (
        Executor(1, backend=backend, seed=3) as executor,
        pytest.raises(UnsupportedByBackend, match="other calls use them at the same time"),
    ):
        executor.options(seed_libraries=True).submit(seed_later)


def test_to_seed_libraries_takes_a_seed() -> None:
    with (
        Executor(1, backend="inline") as executor,
        pytest.raises(ConfigError, match="seed_libraries needs a seed"),
    ):
        executor.options(seed_libraries=True).submit(draw)


@pytest.fixture(autouse=True)
def generators_are_left_alone() -> Iterator[None]:
    before = random.getstate()
    yield
    random.setstate(before)
