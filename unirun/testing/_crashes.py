"""Promises about workers that die by themselves: one victim, and the executor heals."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import pickle
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from unirun import Executor, Retry, WorkerCrashed
from unirun.testing import _subjects as subjects
from unirun.testing._gate import PATIENCE, Gate, comes_true
from unirun.testing._suite import Suite, needs


class CrashTests(Suite):
    @pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
    @needs("isolation")
    def test_a_worker_ended_by_a_signal_fails_its_call(self, executor: Executor, name: str) -> None:
        """With a BrokenProcessPool that tells signal, exit code, pid, task and attempt."""
        view = executor.options(name="the last words")
        error = view.submit(subjects.die, getattr(signal, name)).exception(PATIENCE)
        assert isinstance(error, WorkerCrashed)
        assert isinstance(error, BrokenProcessPool)
        assert (error.signal_name, error.exitcode) == (name, -getattr(signal, name))
        assert (error.task, error.attempt) == ("the last words", 1)
        assert isinstance(error.pid, int)
        assert f"(pid {error.pid}) running the last words died by {name}" in str(error)

    @pytest.mark.parametrize("status", [0, 1, 83, 255])
    @needs("isolation")
    def test_a_worker_that_exits_fails_its_call(self, executor: Executor, status: int) -> None:
        """Also with exit code 0: there is no result."""
        error = executor.submit(subjects.exit_now, status).exception(PATIENCE)
        assert isinstance(error, WorkerCrashed)
        assert (error.exitcode, error.signal_name) == (status, None)
        assert self.still_works(executor)

    @needs("isolation")
    def test_a_crash_has_one_victim(self, executor: Executor, gate: Gate) -> None:
        """The call beside it and those that wait do not notice."""
        beside = executor.submit(subjects.hold, gate.address, "beside")
        arrival = gate.arrival()
        victim = executor.submit(subjects.exit_now, 1)
        waiting = [executor.submit(subjects.square, n) for n in range(5)]
        assert [future.result(PATIENCE) for future in waiting] == [0, 1, 4, 9, 16]
        assert isinstance(victim.exception(PATIENCE), WorkerCrashed)
        arrival.release()
        assert beside.result(PATIENCE) == "beside"

    @needs("isolation")
    def test_an_executor_outlives_any_number_of_crashes(self, executor: Executor) -> None:
        """More than it has workers, in a row and mixed with good calls."""
        futures = []
        for n in range(8):
            futures.append(executor.submit(subjects.square, n))
            bad = executor.submit(subjects.exit_now, 1)
            assert isinstance(bad.exception(PATIENCE), WorkerCrashed)
        assert [future.result(PATIENCE) for future in futures] == [n * n for n in range(8)]
        assert self.stats(executor).crashed == 8

    @needs("isolation")
    def test_a_worker_that_dies_while_idle_is_replaced(self, single: Executor, gate: Gate) -> None:
        """The next call runs in another."""
        before = single.submit(subjects.attend, gate.address).result(PATIENCE)
        arrival = gate.arrival()
        os.kill(before, signal.SIGKILL)
        assert arrival.is_gone()
        assert comes_true(lambda: self.stats(single).workers == 0)
        assert single.submit(subjects.pid).result(PATIENCE) != before

    @needs("isolation")
    def test_who_asks_for_it_has_crashed_calls_run_again(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """Crashes are counted apart from exceptions."""
        view = executor.options(retries=Retry(crashes=2, backoff=0))
        future = view.submit(subjects.exit_unless_note, str(tmp_path / "ran"))
        assert future.result(PATIENCE) == 2
        assert (tmp_path / "ran").read_text() == ".."

    @needs("isolation")
    def test_a_crashed_call_is_not_run_again_unasked(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """Nor with retries that are meant for exceptions."""
        view = executor.options(retries=Retry(3, backoff=0))
        future = view.submit(subjects.exit_unless_note, str(tmp_path / "ran"))
        assert isinstance(future.exception(PATIENCE), WorkerCrashed)
        assert (tmp_path / "ran").read_text() == "."

    @pytest.mark.parametrize("chunksize", ["auto", 1, 5])
    @needs("isolation")
    def test_a_crash_in_a_map_costs_one_item(
        self, executor: Executor, tmp_path: Path, chunksize: int | str
    ) -> None:
        """Every other has its result, and each ran once."""
        path = tmp_path / "ran"
        results = list(
            executor.map(
                subjects.exit_at,
                [str(path)] * 20,
                [7] * 20,
                range(20),
                errors="return",
                chunksize=chunksize,
                timeout=PATIENCE,
            )
        )
        assert isinstance(results[7], WorkerCrashed)
        assert [each for each in results if each is not results[7]] == [*range(7), *range(8, 20)]
        ran = [int(each) for each in path.read_text().split(",") if each]
        assert sorted(ran) == list(range(20))

    @needs("isolation")
    def test_a_crash_in_a_map_that_is_read_behind_with_costs_one_item(self, tmp_path: Path) -> None:
        """What was to run behind it in the same call has run when `with` is left."""
        path = str(tmp_path / "ran")
        with self.make_executor() as executor:
            crash_at_7 = functools.partial(subjects.exit_at, path, 7)
            results = executor.map(crash_at_7, range(20), errors="return", chunksize=5)
        found = list(results)
        assert isinstance(found.pop(7), WorkerCrashed)
        assert found == [*range(7), *range(8, 20)]

    @needs("isolation")
    def test_a_crash_survives_pickle(self, executor: Executor) -> None:
        """A task may let it pass through."""
        error = executor.submit(subjects.exit_now, 7).exception(PATIENCE)
        copy = pickle.loads(pickle.dumps(error))
        assert isinstance(copy, WorkerCrashed)
        assert str(copy) == str(error)
        assert copy.exitcode == 7

    @needs("isolation")
    def test_an_initializer_that_crashes_fails_every_call(self) -> None:
        """Instead of an endless row of workers that die at their start."""
        with self.make_executor(initializer=subjects.exit_now, initargs=(5,)) as executor:
            error = executor.submit(subjects.square, 2).exception(PATIENCE)
            assert isinstance(error, concurrent.futures.BrokenExecutor)
            assert "exit code 5" in str(error)
