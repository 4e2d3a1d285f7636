"""Promises about shared objects: one queue, event or barrier, whoever holds it and wherever."""

from __future__ import annotations

import queue
import threading

import pytest

from unirun import Executor, ShutDown
from unirun.testing import _subjects as subjects
from unirun.testing._gate import PATIENCE, Gate
from unirun.testing._suite import Suite, needs


class SharingTests(Suite):
    def test_a_queue_carries_items_from_a_call(self, executor: Executor) -> None:
        """In their order."""
        shared = executor.Queue()
        assert executor.submit(subjects.put_all, shared, [1, "two", None]).result(PATIENCE) == 3
        assert [shared.get(timeout=PATIENCE) for _ in range(3)] == [1, "two", None]

    def test_a_queue_carries_items_to_a_call(self, executor: Executor) -> None:
        """Those put before and after it began."""
        shared = executor.Queue()
        shared.put("first")
        shared.put("second")
        assert executor.submit(subjects.take, shared, 2).result(PATIENCE) == ["first", "second"]

    @needs("cooperative")
    def test_a_queue_carries_items_from_call_to_call(self, executor: Executor) -> None:
        """Each item reaches one of them once."""
        shared = executor.Queue()
        taking = executor.submit(subjects.take, shared, 50)
        putting = executor.submit(subjects.put_all, shared, list(range(50)))
        assert putting.result(PATIENCE) == 50
        assert taking.result(PATIENCE) == list(range(50))

    @needs("cooperative")
    def test_a_full_queue_makes_a_call_wait(self, executor: Executor) -> None:
        """Until somebody takes; nothing is lost."""
        shared = executor.Queue(2)
        putting = executor.submit(subjects.put_all, shared, list(range(20)))
        assert [shared.get(timeout=PATIENCE) for _ in range(20)] == list(range(20))
        assert putting.result(PATIENCE) == 20
        assert shared.maxsize == 2

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("Queue", [3, 1, 2]),
            ("SimpleQueue", [3, 1, 2]),
            ("LifoQueue", [2, 1, 3]),
            ("PriorityQueue", [1, 2, 3]),
        ],
    )
    def test_each_kind_of_queue_keeps_its_order(
        self, executor: Executor, kind: str, expected: list[int]
    ) -> None:
        """Whoever put the items."""
        shared = getattr(executor, kind)()
        executor.submit(subjects.put_all, shared, [3, 1, 2]).result(PATIENCE)
        assert [shared.get(timeout=PATIENCE) for _ in range(3)] == expected

    def test_a_queue_raises_what_the_original_raises(self, executor: Executor) -> None:
        """Empty, Full and ShutDown, in the caller and in a call."""
        shared = executor.Queue(1)
        with pytest.raises(queue.Empty):
            shared.get(timeout=0.01)
        assert isinstance(executor.submit(shared.get_nowait).exception(PATIENCE), queue.Empty)
        shared.put(1)
        with pytest.raises(queue.Full):
            shared.put_nowait(2)
        assert isinstance(executor.submit(shared.put, 2, False).exception(PATIENCE), queue.Full)
        shared.shutdown(immediate=True)
        assert isinstance(executor.submit(shared.get).exception(PATIENCE), ShutDown)

    def test_shared_objects_travel_inside_containers(self, executor: Executor) -> None:
        """And stay the objects they are."""
        shared, event = executor.Queue(), executor.Event()
        executor.submit(subjects.in_containers, {"pair": (shared, event)}).result(PATIENCE)
        assert shared.get(timeout=PATIENCE) == "through the box"
        assert event.is_set()

    def test_shared_objects_travel_in_closures(self, executor: Executor) -> None:
        """And as bound methods."""
        shared = executor.Queue()
        executor.submit(lambda: shared.put("from a closure")).result(PATIENCE)
        executor.submit(shared.put, "from a method").result(PATIENCE)
        assert [shared.get(timeout=PATIENCE) for _ in range(2)] == [
            "from a closure",
            "from a method",
        ]

    def test_shared_objects_come_back_as_results(self, executor: Executor) -> None:
        """What comes back is the same queue."""
        shared = executor.Queue()
        back = executor.submit(subjects.give_back, shared).result(PATIENCE)
        back.put("here")
        assert shared.get(timeout=PATIENCE) == "here"

    def test_shared_objects_travel_through_a_map(self, executor: Executor) -> None:
        """The same one in every item."""
        shared = executor.Queue()
        executor.map(subjects.put_all, [shared] * 10, [[n] for n in range(10)])
        assert sorted(shared.get(timeout=PATIENCE) for _ in range(10)) == list(range(10))

    @needs("cooperative")
    def test_an_event_set_by_the_caller_wakes_calls(self, executor: Executor) -> None:
        """All that wait for it."""
        event = executor.Event()
        futures = [executor.submit(subjects.wait_for, event) for _ in range(2)]
        event.set()
        assert [future.result(PATIENCE) for future in futures] == [True, True]

    def test_an_event_set_by_a_call_wakes_the_caller(self, executor: Executor) -> None:
        """And stays set until it is cleared."""
        event = executor.Event()
        assert event.wait(0.01) is False
        executor.submit(subjects.set_event, event)
        assert event.wait(PATIENCE) is True
        event.clear()
        assert event.is_set() is False

    def test_a_barrier_lets_a_call_meet_the_caller(self, executor: Executor) -> None:
        """Each gets a different index."""
        barrier = executor.Barrier(2)
        future = executor.submit(subjects.pass_barrier, barrier)
        mine = barrier.wait(PATIENCE)
        assert {mine, future.result(PATIENCE)} == {0, 1}

    @needs("cooperative")
    def test_a_barrier_lets_calls_meet_each_other(self, executor: Executor) -> None:
        """Again and again."""
        barrier = executor.Barrier(2)
        for _ in range(3):
            futures = [executor.submit(subjects.pass_barrier, barrier) for _ in range(2)]
            assert {future.result(PATIENCE) for future in futures} == {0, 1}

    def test_a_barrier_that_is_aborted_breaks_for_calls_too(self, executor: Executor) -> None:
        """With threading's own exception."""
        barrier = executor.Barrier(2)
        barrier.abort()
        error = executor.submit(subjects.pass_barrier, barrier).exception(PATIENCE)
        assert isinstance(error, threading.BrokenBarrierError)

    @needs("killable")
    def test_a_killed_call_takes_nothing_out_of_a_queue(
        self, executor: Executor, gate: Gate
    ) -> None:
        """An item goes to who is there to use it."""
        shared = executor.Queue()
        future = executor.submit(subjects.arrive_and_take, gate.address, shared)
        gate.arrival()
        future.kill(grace=0)
        shared.put("for the living")
        assert shared.get(timeout=PATIENCE) == "for the living"
