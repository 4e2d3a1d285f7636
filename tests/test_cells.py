"""Cells, each operation of which is ended by a kill at every step there is in it.

A forked child makes the operation on memory that counts every access and ends the child, with no
farewell, at the given one: the mutex then is in the hands of the dead.  What the parent finds is
what was before or what is after, nothing between, and every other operation goes on.
"""

import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unirun._cell_barriers import BarrierCell, EventCell
from unirun._cell_locks import LockCell
from unirun._cell_queues import LARGEST, OK, TOO_OFTEN, QueueCell
from unirun._cells import NOW, RING, Segment
from unirun._interruptions import Interruptions
from unirun._manager import Manager
from unirun._robust import find
from unirun._segments import AGAIN, tagged
from unirun.sync import make_shared

pytestmark = pytest.mark.skipif(find() is None, reason="needs robust mutexes and futexes")

ME, OTHER = 7, 9


class Mortal:
    """Memory at one access of which this process ends."""

    def __init__(self, memory: Any, steps: list[int]) -> None:
        self._memory = memory
        self._steps = steps

    def _step(self) -> None:
        if not self._steps[0]:
            os._exit(1)
        self._steps[0] -= 1

    def __getitem__(self, at: Any) -> Any:
        self._step()
        return self._memory[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self._step()
        self._memory[at] = value


def killed_at(step: int, cell: Any, act: Callable[[], Any]) -> bool:
    """Whether a process that makes `act` is ended by that step; it ends in any case."""
    pid = os.fork()
    if not pid:
        try:
            steps = [step]
            for name in ("_words", "_halves", "_ring", "_sizes"):
                if hasattr(cell, name):
                    setattr(cell, name, Mortal(getattr(cell, name), steps))
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.make(lambda: None)
    assert made is not None
    yield made
    made.release()


def opened(kind: Any, segment: Segment, index: int, *args: Any) -> Any:
    cell = kind(segment, index, *args)
    cell.make()
    cell.begin(tagged(1, index))
    return cell


def lock_state(lock: LockCell) -> Any:
    return lock.state(ME)


def queue_state(queue: QueueCell) -> Any:
    """What is in it and in which order; it is put back."""
    answer = queue.state()
    if answer is None:
        return "frozen", queue.read()
    size, unfinished, shut = answer
    items = [queue.get(NOW, [None]) for _ in range(size)]
    for item in items:
        assert isinstance(item, tuple)
        assert queue.put(item[0], NOW) == OK
    for _ in items:
        queue.task_done()
    return items, unfinished, shut


LOCK: dict[str, Callable[[LockCell], Any]] = {
    "acquire": lambda lock: lock.acquire(ME, False, [False], 0, None),
    "release": lambda lock: lock.release(ME, False),
    "take": lambda lock: lock.take(ME, [False]),
    "drop": lambda lock: lock.drop(ME),
    "freeze": lambda lock: lock.freeze(None),
}
EVENT: dict[str, Callable[[EventCell], Any]] = {
    "set": lambda event: event.set(),
    "clear": lambda event: event.clear(),
    "wait": lambda event: event.wait(NOW),
    "freeze": lambda event: event.freeze(None),
}
BARRIER: dict[str, Callable[[BarrierCell], Any]] = {
    "pass alone": lambda barrier: barrier.wait(ME, 1, None),
    "wait in vain": lambda barrier: barrier.wait(ME, 2, NOW),
    "abort": lambda barrier: barrier.stop(1),
    "reset": lambda barrier: barrier.stop(0),
    "freeze": lambda barrier: barrier.freeze(None),
}
QUEUE: dict[str, Callable[[QueueCell], Any]] = {
    "put": lambda queue: queue.put(b"new", NOW),
    "put many": lambda queue: queue.put_many([b"new", b"newer"], NOW),
    "put soon": lambda queue: queue.put_soon(b"new", True, NOW),
    "get": lambda queue: queue.get(NOW, [None]),
    "get many": lambda queue: queue.get_many(5, NOW),
    "done": lambda queue: queue.task_done(),
    "freeze": lambda queue: queue.freeze(None),
}


def each_death(
    make: Callable[[], Any], act: Callable[[Any], Any], state: Callable[[Any], Any]
) -> list[Any]:
    """The state after a kill at each step; the last one is that of the operation unharmed."""
    before, seen = state(make()), []
    step = 0
    while True:
        cell = make()
        died = killed_at(step, cell, lambda: act(cell))  # noqa: B023  # it is over by then
        seen.append(state(cell))
        if not died:
            break
        step += 1
    assert step, "there was no step to die in"
    after = seen[-1]
    assert all(each in (before, after) for each in seen), (before, after, seen)
    return seen


@pytest.mark.parametrize("name", LOCK)
@pytest.mark.parametrize("held", [False, True])
def test_lock_is_as_before_or_after_an_operation_killed_anywhere(
    segment: Segment, name: str, held: bool
) -> None:
    def make() -> LockCell:
        lock: LockCell = opened(LockCell, segment, 0)
        if held:
            lock.acquire(ME, False, [False], 0, None)
        return lock

    each_death(make, LOCK[name], lock_state)


@pytest.mark.parametrize("name", EVENT)
@pytest.mark.parametrize("is_set", [False, True])
def test_event_is_as_before_or_after_an_operation_killed_anywhere(
    segment: Segment, name: str, is_set: bool
) -> None:
    def make() -> EventCell:
        event: EventCell = opened(EventCell, segment, 0)
        if is_set:
            event.set()
        return event

    each_death(make, EVENT[name], lambda event: event.is_set())


@pytest.mark.parametrize("name", BARRIER)
def test_barrier_whose_party_is_killed_anywhere_is_broken_or_as_it_was_once_that_is_known(
    segment: Segment, name: str
) -> None:
    def state(barrier: BarrierCell) -> Any:
        barrier.bury(ME)
        return barrier.state()

    def make() -> BarrierCell:
        barrier: BarrierCell = opened(BarrierCell, segment, 0)
        return barrier

    seen = each_death(make, BARRIER[name], state)
    assert seen[0] == (0, False)


@pytest.mark.parametrize("name", QUEUE)
@pytest.mark.parametrize("items", [[], [b"a"], [b"a", b"bb", b"c" * 100]])
def test_queue_is_as_before_or_after_an_operation_killed_anywhere(
    segment: Segment, name: str, items: list[bytes]
) -> None:
    def make() -> QueueCell:
        queue: QueueCell = opened(QueueCell, segment, 0, 0, 0)
        for item in items:
            assert queue.put(item, NOW) == OK
        return queue

    each_death(make, QUEUE[name], queue_state)


def test_item_that_goes_around_the_end_of_the_ring_is_whole_or_not_there(segment: Segment) -> None:
    big = bytes(LARGEST)

    def make() -> QueueCell:
        queue: QueueCell = opened(QueueCell, segment, 0, 0, 0)
        for _ in range(RING // LARGEST - 1):
            assert queue.put(big, NOW) == OK
        for _ in range(3):
            assert queue.get(NOW, [None]) == (big, 0)
        return queue

    def act(queue: QueueCell) -> None:
        queue.put(b"x" * LARGEST, NOW)

    def state(queue: QueueCell) -> Any:
        read: Any = queue.state()
        size = read[0]
        return size, [queue.get(NOW, [None])[0][:1] for _ in range(size)]  # type: ignore[index]

    seen = each_death(make, act, state)
    assert seen[-1][1][-1] == b"x"


def test_party_that_is_killed_while_it_leaves_a_barrier_has_left_it_or_breaks_it(
    segment: Segment,
) -> None:
    def state(barrier: BarrierCell) -> Any:
        barrier.bury(ME)
        return barrier.state()

    def make() -> BarrierCell:
        barrier: BarrierCell = opened(BarrierCell, segment, 0)
        for seat in (ME, OTHER):
            barrier.within(barrier._arrive, seat, 3)
        return barrier

    seen = each_death(make, lambda barrier: barrier.within(barrier._leave, 0, ME), state)
    assert (seen[0], seen[-1]) == ((0, True), (1, False))


def test_who_cannot_see_a_cell_keeps_his_time_while_somebody_stands_still_inside() -> None:
    manager = Manager()
    lock: Any = make_shared(manager, "Lock")
    assert not lock.locked()
    cell, lock._cell = lock._cell, None  # as in a process without room for that memory
    inside, leave = threading.Event(), threading.Event()

    def stand_still() -> None:
        cell.within(lambda: (inside.set(), leave.wait(60)))

    answers: list[bool] = []
    stands = threading.Thread(target=stand_still, daemon=True)
    asks = threading.Thread(target=lambda: answers.append(lock.acquire(timeout=0.05)), daemon=True)
    stands.start()
    assert inside.wait(60)
    asks.start()
    asks.join(20)
    leave.set()
    stands.join(60)
    assert answers == [False]
    assert lock.acquire()
    manager.close()


def test_what_was_put_off_is_served_later_if_somebody_is_inside_the_cell() -> None:
    answers = [AGAIN, "ok"]

    class Busy:
        def request(self, session: Any, number: int, *_: Any) -> Any:
            return [(session, number, answers.pop(0), None)]

    coordinator: Any = Busy()
    interruptions = Interruptions(lambda: None)
    interruptions.put_off("put", 1, (b"item",))
    assert interruptions.serve(coordinator) is None
    assert len(interruptions.asked) == 1
    assert interruptions.serve(coordinator)
    assert not interruptions.asked


def test_forked_child_keeps_nothing_of_the_memory_that_it_does_not_use() -> None:
    def descriptors() -> int:
        links = list(Path("/proc/self/fd").iterdir())
        return sum("unirun-cells" in str(each.readlink()) for each in links if each.is_symlink())

    gc.collect()
    before = descriptors()
    manager = Manager()
    queue: Any = make_shared(manager, "Queue")
    queue.put(1)
    assert descriptors() > before
    pid = os.fork()
    if not pid:
        os._exit(descriptors() > before)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert queue.get() == 1
    manager.close()


def test_item_whose_get_was_interrupted_is_the_next_one_again(segment: Segment) -> None:
    queue: QueueCell = opened(QueueCell, segment, 0, 0, 0)
    for item in (b"first", b"second"):
        queue.put(item, NOW)
    note: Any = [None]
    assert queue.get(NOW, note) == (b"first", 0)
    queue.put_back(note)
    assert [queue.get(NOW, [None]) for _ in range(2)] == [(b"first", 0), (b"second", 0)]


def test_item_whose_get_was_interrupted_is_not_lost_if_the_queue_has_moved_on(
    segment: Segment,
) -> None:
    queue: QueueCell = opened(QueueCell, segment, 0, 0, 0)
    queue.put(b"first", NOW)
    note: Any = [None]
    queue.get(NOW, note)
    queue.put(b"second", NOW)
    queue.put_back(note)
    assert sorted(queue.get(NOW, [None])[0] for _ in range(2)) == [b"first", b"second"]  # type: ignore[index]
    assert queue.state() == (0, 2, False)
    assert [queue.task_done() for _ in range(3)] == [OK, OK, TOO_OFTEN]


def test_what_does_not_fit_of_a_put_that_does_not_wait_goes_to_the_server(manager: Manager) -> None:
    queue = make_shared(manager, "Queue")
    items = [bytes([number]) * LARGEST for number in range(RING // LARGEST + 2)]
    queue.put(bytes(LARGEST // 2))  # so that the ring is full in the middle of a batch
    queue.put_many([item[:-64] for item in items], block=False)
    assert queue.get() == bytes(LARGEST // 2)
    assert [item[:1] for item in queue.get_many(len(items))] == [item[:1] for item in items]
