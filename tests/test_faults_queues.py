"""Whoever gets, puts, joins or meets may die: no item is lost or doubled, and the others go on."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults import Lines, Stage, kill_each, staged, stay
from parties import PATIENCE

pytestmark = pytest.mark.leaks("what belongs to a worker that is replaced")

QUEUES = ("Queue", "LifoQueue", "PriorityQueue")
ANY_QUEUE = (*QUEUES, "SimpleQueue")
LARGE = "x" * 300_000  # more than a pipe or a socket takes at once


@pytest.fixture(scope="module", autouse=True)
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("lines"), __name__) as stage:
        yield stage


def get(q: Any) -> Any:
    return q.get(timeout=PATIENCE)


def drained(q: Any) -> list[Any]:
    items = []
    while True:
        try:
            items.append(q.get(block=False))
        except queue.Empty:
            return items


# -- queues ---------------------------------------------------------------------------------------


def await_item(tell: Callable[[], None], q: Any, method: str, *args: Any) -> None:
    tell()
    getattr(q, method)(*args)
    raise AssertionError("it got what came after its death")


@pytest.mark.scenario(68, "a getter dies: it takes nothing, the others get what comes")
@kill_each(*ANY_QUEUE, times_out=True)
def test_a_getter_that_died_waiting_takes_nothing(stage: Stage, kind: str, death: str) -> None:
    q = stage.make(kind)
    stage.victim(death, await_item, q, "get").falls_asleep().die()
    taken = stage.survivors(get, q)
    for item in (1, 2, 3):
        q.put(item)
    assert sorted(taken()) == [1, 2, 3]
    assert drained(q) == []


@kill_each(*ANY_QUEUE)
def test_those_who_waited_behind_it_get_what_comes(stage: Stage, kind: str, death: str) -> None:
    q = stage.make(kind)
    victim = stage.victim(death, await_item, q, "get").falls_asleep()
    taken = stage.survivors(get, q)
    victim.die()
    for item in (1, 2, 3):
        q.put(item)
    assert sorted(taken()) == [1, 2, 3]
    assert drained(q) == []


@kill_each(*QUEUES)
def test_a_getter_of_many_that_died_takes_nothing(stage: Stage, kind: str, death: str) -> None:
    q = stage.make(kind)
    stage.victim(death, await_item, q, "get_many", 3).falls_asleep().die()
    q.put_many([3, 1, 2])
    expected = {"Queue": [3, 1, 2], "LifoQueue": [2, 1, 3], "PriorityQueue": [1, 2, 3]}
    assert q.get_many(9) == expected[kind]


def get_and_stay(tell: Callable[[], None], q: Any) -> None:
    q.get()
    tell()
    stay()


@kill_each(*ANY_QUEUE)
def test_what_the_dead_had_got_is_not_delivered_again(stage: Stage, kind: str, death: str) -> None:
    q = stage.make(kind)
    for item in (1, 2, 3):
        q.put(item)
    stage.victim(death, get_and_stay, q).die()
    expected = {"LifoQueue": [2, 1]}.get(kind, [2, 3])
    assert [get(q), get(q)] == expected
    assert stage.some(("worker", "process"), drained, q)() == [[], []]


def await_room(tell: Callable[[], None], q: Any, item: Any) -> None:
    tell()
    q.put(item)
    raise AssertionError("there was room")


@kill_each(*QUEUES, times_out=True)
@pytest.mark.parametrize("item", [0, (0, LARGE)], ids=["small", "large"])
def test_what_the_dead_waited_to_put_is_not_there(
    stage: Stage, kind: str, death: str, item: Any
) -> None:
    q = stage.make(kind, 1)
    q.put(1 if item == 0 else (1, "first"))
    stage.victim(death, await_room, q, item).falls_asleep().die()
    assert q.qsize() == 1
    assert get(q) in (1, (1, "first"))
    put = stage.survivors(put_and_tell, q, item)
    assert [get(q) for _ in range(3)] == [item] * 3
    assert put() == [True] * 3
    assert drained(q) == []


def put_and_tell(q: Any, item: Any) -> bool:
    q.put(item, timeout=PATIENCE)
    return True


def put_and_stay(tell: Callable[[], None], q: Any, items: Any) -> None:
    for item in items:
        q.put(item)
    tell()
    stay()


@kill_each(*ANY_QUEUE)
def test_what_the_dead_had_put_stays(stage: Stage, kind: str, death: str) -> None:
    q = stage.make(kind)
    items = [(2, LARGE), (1, "small"), (3, LARGE)]
    stage.victim(death, put_and_stay, q, items).die()
    expected = {"LifoQueue": items[::-1], "PriorityQueue": sorted(items)}.get(kind, items)
    assert stage.executor.submit(get, q).result() == expected[0]
    assert drained(q) == expected[1:]


def put_for_ever(tell: Callable[[], None], q: Any, size: int) -> None:
    tell()
    number = 0
    while True:
        q.put((number, "x" * size))
        number += 1


@kill_each(*ANY_QUEUE)
@pytest.mark.parametrize("size", [1, 100_000])
def test_an_item_of_the_dead_is_whole_or_not_there(
    stage: Stage, kind: str, death: str, size: int
) -> None:
    q = stage.make(kind)
    victim = stage.victim(death, put_for_ever, q, size)
    first = get(q)
    victim.die()
    items = [first, *drained(q)]
    assert {len(text) for _, text in items} == {size}
    assert sorted(number for number, _ in items) == list(range(len(items)))
    q.put((7, "next"))
    assert get(q) == (7, "next")


def get_for_ever(tell: Callable[[], None], q: Any, receipts: str) -> None:
    tell()
    with open(receipts, "ab", buffering=0) as file:  # noqa: PTH123  # a worker needs no pathlib
        while True:
            file.write(b"%d\n" % q.get()[0])


@kill_each(*ANY_QUEUE)
def test_the_dead_take_at_most_what_they_had_in_their_hands(
    stage: Stage, kind: str, death: str, tmp_path: Any
) -> None:
    q, receipts, total = stage.make(kind), tmp_path / "receipts", 400
    receipts.touch()
    for number in range(total):
        q.put((number, "item"))
    victim = stage.victim(death, get_for_ever, q, str(receipts))
    while q.qsize() > total - 20:
        time.sleep(0)  # it runs
    victim.die()
    left = [number for number, _ in drained(q)]
    got = [int(line) for line in receipts.read_text().split()]
    everything = sorted(got + left)
    assert len(set(everything)) == len(everything), "nothing is delivered twice"
    assert len(everything) >= total - 1
    assert left == sorted(left, reverse=kind == "LifoQueue"), "what is left keeps its order"


def join(q: Any) -> bool:
    q.join()
    return True


@kill_each(*QUEUES)
def test_who_joins_does_not_care_who_died_joining(stage: Stage, kind: str, death: str) -> None:
    q = stage.make(kind)
    q.put(1)
    victim = stage.victim(death, await_item, q, "join").falls_asleep()
    joined = stage.survivors(join, q)
    victim.die()
    q.get()
    q.task_done()
    assert joined() == [True] * 3


# -- events and barriers --------------------------------------------------------------------------


def wait_for_event(tell: Callable[[], None], event: Any) -> None:
    tell()
    event.wait()
    raise AssertionError("it was set after its death")


@kill_each("Event", times_out=True)
def test_an_event_wakes_the_living(stage: Stage, kind: str, death: str) -> None:
    event = stage.make(kind)
    victim = stage.victim(death, wait_for_event, event).falls_asleep()
    woken = stage.survivors(event.wait, PATIENCE)
    victim.die()
    event.set()
    assert woken() == [True] * 3


def set_and_stay(tell: Callable[[], None], event: Any) -> None:
    event.set()
    tell()
    stay()


@kill_each("Event")
def test_an_event_stays_set_when_who_set_it_dies(stage: Stage, kind: str, death: str) -> None:
    event = stage.make(kind)
    woken = stage.survivors(event.wait, PATIENCE)
    stage.victim(death, set_and_stay, event).die()
    assert woken() == [True] * 3
    assert event.is_set()


def meet(barrier: Any) -> Any:
    try:
        return barrier.wait(PATIENCE)
    except threading.BrokenBarrierError:
        return "broken"


def meet_as_victim(tell: Callable[[], None], barrier: Any) -> None:
    tell()
    barrier.wait()
    raise AssertionError("it passed the barrier")


def until_waiting(barrier: Any, number: int) -> None:
    end = time.monotonic() + PATIENCE
    while barrier.n_waiting < number:
        assert time.monotonic() < end
        time.sleep(0.001)


@kill_each("Barrier", times_out=True)
def test_a_barrier_breaks_for_all_when_one_of_them_dies(
    stage: Stage, kind: str, death: str
) -> None:
    barrier = stage.make(kind, 4)
    victim = stage.victim(death, meet_as_victim, barrier)
    met = stage.some(("thread", "process"), meet, barrier)
    until_waiting(barrier, 3)
    victim.die()
    assert met() == ["broken"] * 2
    assert barrier.broken
    assert meet(barrier) == "broken"
    barrier.reset()
    met = stage.survivors(meet, barrier)
    assert sorted([meet(barrier), *met()]) == [0, 1, 2, 3]


lines_of_the_action: Lines


def act() -> None:
    lines_of_the_action.tell()
    stay()


def meet_and_act(tell: Callable[[], None], lines: Lines, barrier: Any) -> None:
    global lines_of_the_action
    lines_of_the_action = lines
    tell()
    barrier.wait()
    raise AssertionError("it passed the barrier")


@kill_each("Barrier")
def test_a_barrier_breaks_when_one_dies_in_its_action(stage: Stage, kind: str, death: str) -> None:
    barrier = stage.make(kind, 3, act)
    met = stage.some(("thread", "process"), meet, barrier)
    until_waiting(barrier, 2)
    victim = stage.victim(death, meet_and_act, stage.lines, barrier)
    assert stage.told() == victim.pid
    victim.die()
    assert met() == ["broken"] * 2
    assert meet(barrier) == "broken"
