"""Every benchmark runs and yields figures; the accounts of the stress run find what is planted."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import unirun

sys.path.append(str(Path(__file__).parent.parent))  # benchmarks/ is never installed

from benchmarks import (
    ROOT,
    _all,
    _crew,
    _peers,
    _runner,
    _table,
    _verdict,
    calls,
    limits,
    shared,
    stress,
)
from benchmarks.__main__ import _workloads
from benchmarks._crew import open_crew
from benchmarks._faults import CRASH, HANG, QUICK, RAISE
from benchmarks._peers import open_pool
from benchmarks._runner import Measured
from benchmarks._tasks import burn
from benchmarks._verdict import Call
from benchmarks._workload import Row, Workload

# One for each workload is enough to see that the two are compared.
PEERS = {"submit": "mp-pool", "startup": "ppe-fork", "real": "bare-fork"}


def peers_of(workload: Workload) -> tuple[str, ...]:
    if workload in shared.WORKLOADS:
        return _peers.SHARERS  # cheap, and no two of them work alike
    peers = [row.peer for row in workload.rows if row.peer]  # none: we are compared with ourselves
    return (PEERS.get(workload.name) or peers[0],) if peers else ()


def measured(*figures: float) -> Measured:
    return Measured([{"": figure} for figure in figures])


def one_line(row: Row, **found: Measured) -> _table.Line:
    workload = Workload("w", "", "ms", calls.submit, (row,), {}, {})
    [line] = _table.lines(workload, found)
    return line


# -- the benchmarks -------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", _all.BESIDE_PEERS, ids=lambda workload: workload.name)
def test_a_workload_yields_figures_for_both_sides(workload, monkeypatch):
    monkeypatch.setattr(_runner, "TIMEOUT", 20.0)  # one that hangs is named as such
    for name, each in _runner.run(workload, 1, workload.quick, peers_of(workload)).items():
        assert each.failed == ""
        if not each.missing:  # numpy, or what this system does not tell
            [figures] = each.rounds
            assert figures
            assert figures.keys() <= {row.key for row in workload.rows}
            # The "cpu" of a few calls is a difference of two times, and may be lost in their noise.
            # "losses" are counted, and there need not be any.
            may_be_none = workload.name in {"cpu", "losses"}
            assert may_be_none or min(figures.values()) > 0, f"{name}: {figures}"


def test_the_limits_of_the_machine_are_measured():
    assert all(seconds > 0 for seconds in limits.measure(quick=True).values())


@pytest.mark.parametrize("name", ["unirun", "ppe-spawn"])
def test_the_processor_time_of_ended_workers_counts(name):
    before = calls.cpu_time()
    with open_pool(name, 1) as pool:
        pool.call(burn, 0.2)
    assert calls.cpu_time() - before >= 0.2


def test_a_peer_that_is_not_installed_has_a_row_that_says_so(monkeypatch):
    monkeypatch.setitem(_peers.PACKAGES, "loky", "no_such_package_at_all")
    workload = _all.BY_NAME["submit-lambda"]
    [line] = _table.lines(workload, _runner.run(workload, 1, workload.quick, ["loky"]))
    assert (line.ours != [], line.peer, line.failed) == (True, [], False)
    assert "loky: loky not installed" in _table.text(line)


def test_a_contender_that_breaks_is_reported_with_its_last_words():
    workload = _all.BY_NAME["latency"]
    found = _runner.run(workload, 3, {"warm": 1}, [])
    assert found["unirun"].failed == "1: KeyError: 'calls'"
    assert all(line.failed for line in _table.lines(workload, found))


def test_what_is_measured_is_the_installed_unirun_and_not_the_checkout(tmp_path):
    planted = tmp_path / "unirun" / "__init__.py"
    planted.parent.mkdir()
    planted.write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "import benchmarks, unirun; print(unirun.__file__)"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert done.stdout.strip() == str(planted)


def test_the_command_prints_a_table_and_writes_all_figures(tmp_path):
    file = tmp_path / "figures.json"
    options = ["--quick", "--only", "latency", "--peers", "mp-pool", "--rounds", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options, "--json", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    report = json.loads(file.read_text())
    assert "cores" in report["machine"]
    [row] = report["rows"]
    assert len(row["ours"]["figures"]) == len(row["peer"]["figures"]) == 2
    assert any(line.startswith("latency") and "2x" in line for line in done.stdout.splitlines())


def test_without_peers_each_figure_of_ours_has_one_row():
    workload = _all.BY_NAME["submit"]
    [line] = _table.lines(workload, {"unirun": measured(1, 3)})
    assert (line.ours, line.peer, line.row.peer, line.met) == ([1, 3], [], None, None)


def test_a_group_stands_for_its_workloads():
    assert _workloads("shared,latency") == [*shared.WORKLOADS, _all.BY_NAME["latency"]]
    assert {row.peer for each in _workloads("shared") for row in each.rows} == {*_peers.SHARERS}


# -- shared objects -------------------------------------------------------------------------------


class OpenDoor:
    """Has a lock's methods and keeps nobody out."""

    def acquire(self) -> None:
        return

    release = acquire


def fail(objects: tuple, count: int) -> int:
    raise ZeroDivisionError("planted")


def wait_in_vain(objects: tuple, count: int) -> int:
    return objects[0].wait()


def nap(objects: tuple, count: int) -> int:
    time.sleep(0.2)
    return count


def test_a_lock_that_lets_both_in_fails_its_row():
    def build(source, directory):
        return OpenDoor(), f"{directory}/counter"

    game = replace(shared.CONTENDED, build=build)
    with pytest.raises(shared.WrongOutcomeError, match="additions under the lock came to"):
        game.measure("unirun", {"budget_ms": 10_000, "first": 20_000, "most": 1_000_000})


def test_the_additions_under_a_real_lock_are_exact():
    counts = []
    with open_crew("unirun", shared.lock_and_counter) as crew:
        for count in (3, 500):
            _, told = crew.run(shared.CONTENDED.parts, count, busy=False)
            counts.append(told)
            shared.count_is_exact(crew, count, told)
    assert counts == [[3, 3], [500, 500]]


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (shared.all_rounds_seen, [5, 4]),
        (shared.sums_agree, [10, 11]),
        (shared.each_number_given_once, [2, 2]),
    ],
)
def test_what_the_workers_tell_is_checked(check, told):
    with pytest.raises(shared.WrongOutcomeError):
        check(None, 5, told)


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_that_fails_ends_the_run_though_the_other_waits_for_it(busy):
    with pytest.raises(ZeroDivisionError, match="planted"):  # noqa: SIM117 - it leaves both
        with open_crew("unirun", shared.objects("Event")) as crew:
            crew.run([wait_in_vain, fail], 1, busy)


@pytest.mark.parametrize("busy", [False, True])
def test_a_run_that_hangs_ends_with_its_processes(busy, monkeypatch):
    monkeypatch.setattr(_crew, "PATIENCE", 1.0)
    with pytest.raises(TimeoutError, match="1 rounds did not end"):  # noqa: SIM117 - as above
        with open_crew("unirun", shared.objects("Event")) as crew:
            crew.run([wait_in_vain] * 2, 1, busy)


HANGING_PEERS = """
import multiprocessing
from benchmarks import _crew, shared
_crew.PATIENCE = 0.5
def wait_in_vain(objects, count):
    objects[0].wait()
for name in ("manager", "mp"):
    try:
        with _crew.open_crew(name, shared.objects("Event")) as crew:
            crew.run([wait_in_vain] * 2, 1, busy=False)
    except TimeoutError:
        print(name, multiprocessing.active_children())
"""


def test_the_run_of_a_peer_that_hangs_does_so_too():
    done = subprocess.run(
        [sys.executable, "-c", HANGING_PEERS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stdout.splitlines() == ["manager []", "mp []"], done.stderr


def test_a_busy_parent_computes_while_the_workers_measure():
    used = {}
    with open_crew("unirun", shared.objects("Event")) as crew:
        crew.run([nap] * 2, 1, busy=False)  # the workers are up
        for busy in (False, True):
            before = time.thread_time()
            crew.run([nap], 1, busy)
            used[busy] = time.thread_time() - before
    assert used[True] > used[False]


# -- the table ------------------------------------------------------------------------------------


def test_the_ratio_is_that_of_the_medians_and_the_spread_that_of_the_rounds():
    line = one_line(Row("", "a", "b", 3), a=measured(1, 2, 4), b=measured(8, 6, 4))
    assert (line.ratio, line.spread, line.met) == (3.0, (1.0, 8.0), True)


def test_a_target_is_missed_just_below_it():
    assert one_line(Row("", "a", "b", 3.01), a=measured(1), b=measured(3)).met is False
    assert one_line(Row("", "a", "b", at_most=1.4), a=measured(1.41), b=measured(9)).met is False
    assert one_line(Row("", "a", "b", at_most=1.4), a=measured(1.4)).met is True


def test_without_a_peer_or_a_target_nothing_is_met_or_missed():
    assert one_line(Row("", "a", "b", 3), a=measured(1)).met is None
    assert one_line(Row("", "a", "b"), a=measured(1), b=measured(3)).met is None


# -- the stress run -------------------------------------------------------------------------------


def test_a_small_stress_run_violates_nothing_and_meets_every_fault(tmp_path):
    counts, found = stress.stress(1500, seed=3, workers=2, log=tmp_path / "started")
    assert found == []
    assert {"value", "raised", "crashed", "cancelled"} <= counts["ends"].keys()


CALLS = [Call(QUICK), Call(RAISE), Call(CRASH), Call(HANG, limited=True), Call(HANG)]
CALLS[4].kill_asked = CALLS[4].promised = True
ENDS = ["value", "raised", "crashed", "timed out", "killed"]


def verdict(ends: list[str], log: list[int]) -> str:
    started = _verdict.read_log(f"{number}\n" for number in log)
    return "\n".join(_verdict.violations(CALLS, ends, started))


def test_a_sound_run_has_no_violations():
    assert verdict(ENDS, [4, 2, 1, 0, 3]) == ""
    assert verdict([*ENDS[:4], "cancelled"], [0, 1, 2, 3]) == ""


@pytest.mark.parametrize(
    ("number", "end", "log", "named"),
    [
        (0, "value", [0, 1, 2, 3, 4, 0], "call 0 (quick): began 2 times"),
        (1, "raised", [0, 2, 3, 4], "call 1 (raise): ended as 'raised', but never began"),
        (0, "crashed", [0, 1, 2, 3, 4], "call 0 (quick): ended as 'crashed'; allowed: value"),
        (0, "killed", [0, 1, 2, 3, 4], "call 0 (quick): ended as 'killed'"),
        (2, "open", [0, 1, 2, 3, 4], "call 2 (crash): its future never ended"),
        (4, "cancelled", [0, 1, 2, 3, 4], "call 4 (hang): was cancelled, but began"),
        (4, "timed out", [0, 1, 2, 3, 4], "returned True, but it ended as 'timed out'"),
        (0, "value", [0, 1, 2, 3, 4, 7], "call 7 was never submitted, but began"),
    ],
)
def test_a_planted_violation_is_named(number, end, log, named):
    ends = [end if n == number else sound for n, sound in enumerate(ENDS)]
    assert named in verdict(ends, log)


def test_the_log_on_disk_counts_each_start(tmp_path):
    log = tmp_path / "started"
    with unirun.Executor(1, backend="process") as executor:
        for number in (3, 5, 3):
            executor.submit(stress._faults.act, number, QUICK, str(log)).result()
    assert _verdict.read_log(log.read_text().splitlines()) == Counter({3: 2, 5: 1})
