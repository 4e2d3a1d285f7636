"""The simulator: thousands of seeds, each the same wherever it runs; and what it can find."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable

import coordinator_mutations
import pytest
from coordinator_twins import play
from mutants import coordinator_with, pool_with
from process import state_mutations
from process.state_scenarios import ONE_EACH, WINDOWS, explore

from unirun.testing import Simulator, _pool_snapshot, _pool_world, invariants, simulate
from unirun.testing.invariants import Broken

SEEDS = 2_000
SHARES = 4

POOL_BUGS = {name: how for some in state_mutations.MUTATIONS.values() for name, how in some.items()}


@pytest.mark.scenario("simulation", "2,000 seeds with faults of every kind keep every invariant")
@pytest.mark.parametrize("share", range(SHARES))
def test_every_seed_keeps_every_invariant(
    share: int, record_property: Callable[[str, object], None]
) -> None:
    events = deaths = 0
    for seed in range(share, SEEDS, SHARES):
        simulator = Simulator(seed).run()
        events += simulator.clock.events
        deaths += simulator.crew.deaths
    assert deaths > 1_000
    record_property("figure", f"{SEEDS // SHARES} seeds: {events} events, {deaths} deaths")


# -- the same again --------------------------------------------------------------------------------


def test_a_broken_pool_gives_back_in_the_order_in_which_it_took() -> None:
    """The model asked for the order of priorities here, where rules 2 and 7 ask for the old one."""
    Simulator(41620).run()


def test_a_seed_replays_byte_for_byte() -> None:
    for seed in range(40):
        assert Simulator(seed).run().trace == Simulator(seed).run().trace
    assert len({Simulator(seed).run().trace for seed in range(40)}) == 40


DIGEST = """
import hashlib, sys
from unirun.testing import Simulator
traces = "".join(Simulator(seed).run().trace for seed in range(60))
sys.stdout.write(hashlib.sha256(traces.encode()).hexdigest())
assert "pytest" not in sys.modules
"""


@pytest.mark.scenario("simulation", "a seed replays byte for byte, in any process")
def test_a_seed_is_the_same_in_processes_that_hash_otherwise() -> None:
    digests = set()
    for hash_seed in ("0", "1"):
        child = subprocess.run(
            [sys.executable, "-P", "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=40,
            check=True,
        )
        digests.add(child.stdout)
    traces = "".join(Simulator(seed).run().trace for seed in range(60))
    assert digests == {hashlib.sha256(traces.encode()).hexdigest()}


# -- what it can find ------------------------------------------------------------------------------


def finds(**machines: Callable[..., object]) -> bool:
    try:
        for seed in range(40):
            Simulator(seed, **machines).run()
    except Broken:
        return True
    return False


@pytest.mark.scenario(
    "mutations", "30 seeded faults in the machines, each noticed by the simulator"
)
def test_the_simulator_alone_notices_most_bugs_in_both_machines(
    record_property: Callable[[str, object], None],
) -> None:
    """Every third of them here; `tests/apps/find_mutants.py` tries all, with more seeds."""
    pools = [*POOL_BUGS.values()][::3]
    coordinators = [*coordinator_mutations.MUTATIONS.values()][::3]
    found = [finds(pool=pool_with(*how)) for how in pools]
    found += [finds(coordinator=coordinator_with(*how)) for how in coordinators]
    assert sum(found) >= 30
    record_property("figure", f"{sum(found)} of {len(found)} noticed with 40 seeds each")


def test_there_are_enough_bugs() -> None:
    assert len(POOL_BUGS) >= 80
    assert len(coordinator_mutations.MUTATIONS) >= 40


WHAT_THEY_CHECK = {
    "ends_once": "explored simulated",
    "starts": "explored simulated",
    "one_victim": "explored simulated",
    "progress": "explored simulated",
    "dead_then_resolved": "explored simulated",
    "slots": "explored simulated",
    "nothing_left": "explored simulated",
    "restarts": "explored simulated",
    "exclusion": "simulated",
    "inheritance": "simulated played",
}
CHECKERS: dict[str, Callable[[], object]] = {
    "explored": lambda: [
        explore(each) for each in (WINDOWS["one in the middle is killed"], ONE_EACH["killed twice"])
    ],
    "simulated": lambda: [Simulator(seed).run() for seed in range(60)],
    "played": lambda: [play(seed) for seed in range(60)],
}


@pytest.mark.parametrize("name", WHAT_THEY_CHECK)
def test_each_invariant_is_stated_once_and_asked_by_every_checker(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise Broken(f"{name} was asked")

    monkeypatch.setattr(invariants, name, broken)
    for checker in WHAT_THEY_CHECK[name].split():
        with pytest.raises(Broken, match="was asked"):
            CHECKERS[checker]()


def test_what_the_model_of_the_backends_asks_is_known_here() -> None:
    """`window` is the one that no machine sees: `test_model.py` asks it."""
    assert invariants.ALL.keys() - WHAT_THEY_CHECK.keys() == {"window"}


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("ends_once", ("a", {"a"})),
        ("starts", ("a", 3, 1)),
        ("one_victim", (1, "a", ["b"])),
        ("progress", (1, 1, 1, 0)),
        ("progress", (2, 2, 0, 1)),
        ("dead_then_resolved", ("a", True)),
        ("slots", (3, 1, 1)),
        ("nothing_left", (["a"],)),
        ("nothing_left", ([], [1])),
        ("nothing_left", ([], [], [3])),
        ("window", (9, 4, 4)),
        ("restarts", (4,)),
        ("exclusion", ("lock", ["a", "b"])),
        ("inheritance", ("lock", ["a"], None, True)),
        ("inheritance", ("lock", [], None, False)),
    ],
)
def test_an_invariant_that_does_not_hold_says_so(name: str, facts: tuple[object, ...]) -> None:
    with pytest.raises(AssertionError, match=r"^\w[\w ,<=+]*: "):
        invariants.ALL[name](*facts)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_shows_one_seed_with_all_that_happened(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert simulate.main(["--seed", "7"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(Simulator(7).run().trace)
    assert "seed 7: every invariant holds" in shown


def test_the_command_tells_failing_seeds_and_how_to_see_them_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    quiet = pool_with(*POOL_BUGS["never over"])
    assert simulate.main(["--first", "100", "--seeds", "20"]) == 0
    assert "20 simulations" in capsys.readouterr().out
    assert simulate.main(["--seeds", "5"], pool=quiet) == 1
    shown = capsys.readouterr().out
    assert "run: python -m unirun.testing.simulate --seed 0\n" in shown
    assert "failing seeds: 0 " in shown
    assert "python -m unirun.testing.simulate --seed" in shown
    assert simulate.main(["--seed", "0"], pool=quiet) == 1
    assert "seed 0: " in capsys.readouterr().out.splitlines()[-1]


def test_the_command_stops_after_so_many_seconds() -> None:
    child = subprocess.run(
        [sys.executable, "-P", "-m", "unirun.testing.simulate", "--seconds", "0.2"],
        capture_output=True,
        text=True,
        timeout=40,
        check=True,
    )
    assert ": 0 failed" in child.stdout


def test_the_books_know_every_part_of_the_machine() -> None:
    """A part that is not compared would be one that no exploration tells apart."""
    assert vars(_pool_world.new_pool(2)).keys() == _pool_snapshot.ALL
