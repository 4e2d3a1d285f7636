"""Who may begin what, whatever the order in which a pool and its workers get to act."""

import contextlib
import itertools
import marshal
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from process.line import PATIENCE
from process.turns import TURNS, World, make_world
from process.watch import until

from unirun import InitializerFailed, TaskKilled, WorkerCrashed
from unirun.backend import DEFAULT_OPTIONS
from unirun.backends.process.control import BEGUN, CAPACITY, HOLD, PARKED, SIZE, Control
from unirun.backends.process.state import MAX_FAILED_STARTS
from unirun.backends.process.system import make_memory

Script = list[tuple[str, int]]

worlds: list[World] = []


def act(number: int, steps: int, how: str) -> int:
    world = worlds[-1]
    world.began.append(number)
    if how == "long":
        world.take_time(steps, 10_000_000)
    else:
        world.take_time(steps % 3, 100)
    if how == "crash":
        world.die()
    return number


class Story:
    """What a test does to the pool, and what came of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.futures: list[Any] = []
        self.how: list[str] = []
        self.killed: set[int] = set()
        self.shot = 0  # workers that somebody else has killed

    def do(self, what: str, number: int) -> None:
        if what == "turn":
            for _ in range(number % 8):
                self.world.turn()
        elif what == "kill":
            self._kill(number)
        elif what == "shoot":
            self._shoot(number)
        elif what == "many":
            for _ in range(number % 20):
                self._submit("short", number)
        else:
            self._submit(what, number)

    def _submit(self, how: str, number: int) -> None:
        self.how.append(how)
        args = (len(self.futures), number % 100, how)
        self.futures.append(self.world.backend.submit(act, args, {}, DEFAULT_OPTIONS))

    def _kill(self, number: int) -> None:
        open_ones = [n for n, future in enumerate(self.futures) if not future.done()]
        if open_ones:
            self.kill(open_ones[number % min(6, len(open_ones))])

    def kill(self, victim: int) -> None:
        self.killed.add(victim)
        if not self.futures[victim].cancel():
            self.world.backend.kill(self.futures[victim], 0.0)

    def _shoot(self, number: int) -> None:
        alive = sorted(set(self.world.pool._crew.peers) - self.world.dead)
        if alive:
            self.shot += 1
            self.world.dead.add(alive[number % len(alive)])

    def end(self) -> None:
        for _ in range(TURNS):
            if all(future.done() for future in self.futures):
                break
            self.world.turn()
        began = Counter(self.world.began)
        assert [n for n, future in enumerate(self.futures) if not future.done()] == []
        assert {n: count for n, count in began.items() if count > 1} == {}
        crashes = [self._check(n, began[n]) for n in range(len(self.futures))].count("crashed")
        assert crashes <= self.how.count("crash") + self.shot

    def _check(self, number: int, began: int) -> str:
        """How it ended, which must be what was done to it."""
        try:
            value = self.futures[number].result(0)
        except WorkerCrashed:
            assert self.how[number] == "crash" or self.shot
            assert began or self.shot  # who is shot may have begun it without a trace
            return "crashed"
        except TaskKilled:
            assert number in self.killed
            return "killed"
        except CancelledError:
            assert number in self.killed
            assert not began
            return "cancelled"
        except InitializerFailed:
            assert self.shot >= MAX_FAILED_STARTS
            assert not began
            return "refused"
        assert value == number
        assert began
        assert self.how[number] != "crash"
        return "answered"


@contextlib.contextmanager
def make_story(schedule: Any, workers: int) -> Iterator[Story]:
    with make_world(schedule, workers) as world:
        worlds.append(world)
        try:
            story = Story(world)
            world.pool._state.set_window(1, 16)
            yield story
            story.end()
        finally:
            worlds.clear()


def play(script: Script, schedule: Any, workers: int) -> None:
    with make_story(schedule, workers) as story:
        for what, number in script:
            story.do(what, number)


DEEDS = ("many", "many", "long", "long", "turn", "turn", "turn", "kill", "kill", "crash", "shoot")
RUNS = (1, 1, 2, 2, 3, 5, 8, 13, 30, 80, 200)  # steps


def by_chance(chance: random.Random) -> Iterator[tuple[int, int]]:
    """A schedule."""
    for _ in range(4000):
        yield chance.randrange(12), chance.choice(RUNS)


def some_script(chance: random.Random) -> Script:
    deeds = chance.sample(DEEDS, 6)
    some = [(chance.choice(deeds), chance.randrange(100)) for _ in range(25)]
    return [("many", 19), ("turn", 5), *some]


def script_of_kills(chance: random.Random) -> Script:
    """Mostly of calls that run, or are about to."""
    script = [("many", 12), ("turn", 5)]
    for _ in range(30):
        what = chance.choice(["long", "many", "turn", "turn", "kill", "kill"])
        script.append((what, chance.choice([0, 1, 6] if what == "kill" else [1, 2, 3, 7])))
    return script


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("first", range(0, 100, 25))
def test_in_any_order_each_call_runs_once_and_gets_its_own_answer(first: int, workers: int) -> None:
    for seed in range(first, first + 25):
        chance = random.Random(f"{seed} {workers}")
        script = script_of_kills(chance) if seed % 2 else some_script(chance)
        play(script, by_chance(chance), workers)


@pytest.mark.parametrize("victim", [3, 4, 6])
def test_a_kill_hits_its_call_whenever_the_one_that_runs_ends(victim: int) -> None:
    """The pool is stopped after each of its steps, while the worker does all that it can."""
    for steps in range(60):
        with make_story((), 1) as story:
            for number in range(8):
                story.do("long" if number == 3 else "short", 40)
            while 3 not in story.world.began:
                story.world.turn()
            story.kill(victim)
            story.world.turns.play([(0, steps), (1, 200)])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 99)), max_size=20),
    st.lists(st.tuples(st.integers(0, 11), st.sampled_from(RUNS)), max_size=200),
)
def test_no_small_story_is_told_wrong(script: Script, schedule: list[tuple[int, int]]) -> None:
    play([("many", 12), *script], schedule, workers=2)


# -- the parts


@pytest.fixture
def sides() -> Iterator[tuple[Control, Control]]:
    """The pool's view and the worker's of one memory."""
    fd = make_memory(SIZE)
    yield Control(fd), Control(fd)
    os.close(fd)


Sides = tuple[Control, Control]


class Loop(threading.Thread):
    """A worker that begins one call after the other as fast as it can, as rules 1 to 3 say."""

    def __init__(self, control: Control, last: int) -> None:
        super().__init__(daemon=True)
        self.control = control
        self.last = last
        self.ran: list[int] = []

    def run(self) -> None:
        for index in range(1, self.last + 1):
            self.control.words[BEGUN] = index
            if self.control.words[HOLD]:
                if self.control.words[HOLD] == 1:
                    self.control.park()
                if self.control.is_taken_back(index):
                    continue
            self.ran.append(index)


def test_nothing_runs_that_was_taken_back_and_all_the_rest_does(sides: Sides) -> None:
    ours, theirs = sides
    taken: set[int] = set()
    loop = Loop(theirs, 300_000)
    loop.start()
    while loop.is_alive():
        ours.hold()
        begun = ours.begun()
        at = int(ours.words[BEGUN])
        if at >= loop.last:
            ours.release(0, 0, 0)
            break
        last = min(at + 50, loop.last)
        taken -= {begun}
        taken |= set(range(at + 1 if begun else at, last + 1))
        ours.release(at, last, begun)
        until(lambda last=last: int(ours.words[BEGUN]) > last or not loop.is_alive(), "it is past")
    loop.join(PATIENCE)
    assert taken.isdisjoint(loop.ran)
    assert sorted({*loop.ran, *taken}) == list(range(1, loop.last + 1))


def test_a_worker_that_is_held_begins_nothing_until_it_is_let_go(sides: Sides) -> None:
    ours, theirs = sides
    loop = Loop(theirs, 10)
    ours.words[HOLD] = 1
    loop.start()
    until(lambda: ours.words[PARKED], "it is parked")
    assert (ours.begun(), int(ours.words[BEGUN]), loop.ran) == (0, 1, [])
    ours.release(3, 5, 4)
    loop.join(PATIENCE)
    assert loop.ran == [1, 2, 4, 6, 7, 8, 9, 10]
    assert not ours.words[PARKED]


def test_the_call_that_was_seen_begun_is_run_though_its_worker_parks_late(sides: Sides) -> None:
    ours, theirs = sides
    theirs.words[BEGUN] = 3  # and nothing more, for as long as a hold takes
    ours.hold()
    assert ours.begun() == 3
    ours.release(3, 9, ours.begun())
    assert [n for n in range(3, 12) if not theirs.is_taken_back(n)] == [3, 10, 11]


def test_a_range_stays_taken_back_while_the_worker_is_held_anew(sides: Sides) -> None:
    ours, theirs = sides
    ours.hold()
    ours.release(1, 9, 0)
    ours.hold()
    assert theirs.is_taken_back(5)


def test_a_worker_held_again_before_it_woke_stays_parked(sides: Sides) -> None:
    """The pool holds it again right when it has seen that it may go on."""
    ours, theirs = sides
    words, again = theirs.words, [1, 2]

    class Racing:
        """What the worker reads in HOLD, while the pool has stored 1 and 2 by turns."""

        def __getitem__(self, word: int) -> int:
            return again.pop(0) if word == HOLD and again else int(words[word])

        def __setitem__(self, word: int, value: int) -> None:
            if word == PARKED:
                parked.append(value)
            words[word] = value

    parked: list[int] = []
    theirs.words = Racing()  # type: ignore[assignment]
    ours.words[HOLD] = 1
    thread = threading.Thread(target=theirs.park, daemon=True)
    thread.start()
    until(lambda: parked == [1, 0, 1], "it has parked twice")
    assert thread.is_alive()
    ours.release(0, 0, 0)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert parked == [1, 0, 1, 0]


# -- the journal


def test_what_was_noted_can_be_taken_from_any_number_on(sides: Sides) -> None:
    ours, theirs = sides
    for number in range(7, 12):
        assert theirs.note(number, f"answer {number}")
    assert ours.unsent(7) == [f"answer {n}" for n in range(7, 12)]
    assert ours.unsent(10) == ["answer 10", "answer 11"]
    assert ours.unsent(12) == []


def test_nothing_is_taken_while_answers_before_it_are_in_the_pipe(sides: Sides) -> None:
    ours, theirs = sides
    theirs.note(7, "answer 7")
    assert ours.unsent(6) == []


def test_what_was_sent_is_not_in_the_journal_any_more(sides: Sides) -> None:
    ours, theirs = sides
    theirs.note(0, "sent")
    theirs.sent()
    assert ours.unsent(0) == []
    theirs.note(1, "not yet")
    assert ours.unsent(1) == ["not yet"]


@given(st.lists(st.one_of(st.integers(), st.floats(allow_nan=False), st.binary(max_size=20_000))))
@settings(max_examples=50, deadline=None)
def test_a_journal_that_is_full_takes_no_more_and_keeps_what_it_has(answers: list[object]) -> None:
    fd = make_memory(SIZE)
    ours, theirs = Control(fd), Control(fd)
    os.close(fd)
    kept = list(itertools.takewhile(lambda n: theirs.note(n, answers[n]), range(len(answers))))
    assert ours.unsent(0) == [answers[n] for n in kept]
    size = sum(len(marshal.dumps(answers[n])) + 12 for n in kept)
    assert size <= CAPACITY
    if len(kept) < len(answers):
        assert size + len(marshal.dumps(answers[len(kept)])) + 12 > CAPACITY


def test_a_journal_may_be_read_while_it_is_filled_and_sent(sides: Sides) -> None:
    """Each look finds whole answers, in order, with none left out between them."""
    ours, theirs = sides
    count, sent = 60_000, [0]

    def fill() -> None:
        for number in range(count):
            theirs.words[BEGUN] = number + 1
            assert theirs.note(number, number)
            if number % 37 == 0:
                sent[0] = number + 1  # to be found in the pipe, before it leaves the journal
                theirs.sent()

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    taken = 0
    while thread.is_alive():
        known = max(taken, sent[0])
        found = ours.unsent(known)
        assert found == list(range(known, known + len(found)))
        taken = known + len(found)
    thread.join()
    known = max(taken, sent[0])
    assert ours.unsent(known) == list(range(known, count))
