"""Queues keep every promise of `queue`'s (of Python 3.13), whoever shares them.

What `test_sync.py` tells of their use is not told again here; shut-down is in
`test_like_queue_shutdown.py`.
"""

import gc
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from parties import PATIENCE, Mapping, number_waiting, wait_until

from unirun.sync import LifoQueue, PriorityQueue, Queue

QUEUES = ["Queue", "LifoQueue", "PriorityQueue"]
ALL = [*QUEUES, "SimpleQueue"]
SIZE = 5
FOREVER = {"timeout": PATIENCE}


# -- what one party sees --------------------------------------------------------------------------


def it_fills_and_empties(q: Any) -> None:
    """Twice, to see that nothing is left of the first time."""
    for _ in range(2):
        assert (q.qsize(), q.empty(), q.full()) == (0, True, False)
        for item in range(SIZE):
            assert not q.full()
            assert q.put(item) is None
            assert (q.qsize(), q.empty()) == (item + 1, False)
        assert q.full()
        for args, kwargs in (
            ((False,), {}),
            ((0,), {}),
            ((), {"block": False}),
            ((), {"timeout": 0.005}),
            ((), {"timeout": 0}),
            ((True, 0), {}),
            ((False, 5), {}),
            ((False, -1), {}),  # nobody looks at it
        ):
            with pytest.raises(queue.Full):
                q.put(99, *args, **kwargs)
        with pytest.raises(queue.Full):
            q.put_nowait(99)
        assert q.qsize() == SIZE
        assert sorted(q.get() for _ in range(SIZE)) == list(range(SIZE))
        for args, kwargs in (
            ((False,), {}),
            ((0,), {}),
            ((), {"block": False}),
            ((), {"timeout": 0.005}),
            ((), {"timeout": 0}),
            ((True, 0), {}),
            ((False, 5), {}),
            ((False, -1), {}),
        ):
            with pytest.raises(queue.Empty):
                q.get(*args, **kwargs)
        with pytest.raises(queue.Empty):
            q.get_nowait()


def every_spelling_of_put_and_get_is_known(q: Any) -> None:
    for args, kwargs in (
        ((), {}),
        ((True,), {}),
        ((True, None), {}),
        ((True, 5), {}),
        ((False,), {}),
        ((False, None), {}),
        ((False, -1), {}),
        ((), {"block": True, "timeout": PATIENCE}),
        ((), {"timeout": None}),
    ):
        assert q.put("item", *args, **kwargs) is None
        assert q.get(*args, **kwargs) == "item"
    assert q.put(item="item") is None
    assert q.get() == "item"
    assert q.put_nowait("item") is None
    assert q.get_nowait() == "item"
    assert q.put_nowait(item="item") is None
    assert q.get_nowait() == "item"


def a_negative_timeout_is_an_error_and_does_nothing(q: Any) -> None:
    with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
        q.put(1, timeout=-1)
    assert q.qsize() == 0
    q.put(1)
    with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
        q.get(timeout=-0.001)
    assert q.qsize() == 1
    assert q.unfinished_tasks == 1
    q.get()


def a_task_too_many_is_an_error(q: Any) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
            q.task_done()
        q.put(1)
        q.get()
        assert q.unfinished_tasks == 1
        assert q.task_done() is None
        assert q.unfinished_tasks == 0
        assert q.join() is None


@pytest.mark.parametrize("kind", QUEUES)
@pytest.mark.parametrize(
    "body",
    [
        it_fills_and_empties,
        every_spelling_of_put_and_get_is_known,
        a_negative_timeout_is_an_error_and_does_nothing,
        a_task_too_many_is_an_error,
    ],
)
def test_a_bounded_queue_alone(mapping: Mapping, kind: str, body: Callable[..., None]) -> None:
    q = mapping.make(kind, SIZE)
    mapping.call(body, q)
    assert (q.qsize(), q.maxsize, kind in repr(q)) == (0, SIZE, True)


def a_simple_queue_never_waits_to_put(q: Any) -> None:
    assert (q.qsize(), q.empty()) == (0, True)
    for args, kwargs in (
        ((), {}),
        ((False,), {}),
        ((True, -1), {}),  # neither is looked at
        ((), {"block": True, "timeout": 0}),
    ):
        assert q.put("item", *args, **kwargs) is None
    assert q.put_nowait("item") is None
    assert (q.qsize(), q.empty()) == (5, False)
    assert [q.get(), q.get_nowait(), q.get(False), q.get(timeout=5), q.get(True, None)] == (
        ["item"] * 5
    )
    for args in ((False,), (True, 0), (True, 0.001), (False, 5)):
        with pytest.raises(queue.Empty):
            q.get(*args)
    with pytest.raises(queue.Empty):
        q.get_nowait()
    with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
        q.get(timeout=-1)


def test_a_simple_queue_alone(mapping: Mapping) -> None:
    q = mapping.make("SimpleQueue")
    mapping.call(a_simple_queue_never_waits_to_put, q)
    assert "SimpleQueue" in repr(q)
    with pytest.raises(TypeError):
        mapping.make("SimpleQueue", 1)
    for name in ("maxsize", "full", "task_done", "join", "shutdown"):
        if not mapping.shared:
            assert not hasattr(q, name)


@pytest.mark.parametrize("kind", QUEUES)
def test_wrong_arguments_are_type_errors(mapping: Mapping, kind: str) -> None:
    with pytest.raises(TypeError):
        mapping.make(kind, 1, 2)
    q = mapping.make(kind, maxsize=1)
    for call in (
        q.put,
        lambda: q.put(1, True, 1, 1),
        lambda: q.get(True, 1, 1),
        lambda: q.put_nowait(1, 2),
        lambda: q.get_nowait(1),
        lambda: q.task_done(1),
        lambda: q.get(timeout="1"),
        lambda: q.put(1, timeout="1"),
    ):
        with pytest.raises(TypeError):
            call()
    assert q.empty()


# -- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("Queue", [111, 333, 222]),
        ("SimpleQueue", [111, 333, 222]),
        ("LifoQueue", [222, 333, 111]),
        ("PriorityQueue", [111, 222, 333]),
    ],
)
def test_the_order_is_one_for_all(mapping: Mapping, kind: str, order: list[int]) -> None:
    q = mapping.make(kind)
    for item in (111, 333, 222):
        mapping.call(put, q, item)
    assert [mapping.call(get, q) for _ in range(3)] == order
    q.put(111)
    mapping.call(put, q, 333)
    q.put(222)
    assert [q.get(), mapping.call(get, q), q.get()] == order


def put(q: Any, item: Any) -> None:
    q.put(item)


def get(q: Any) -> Any:
    return q.get(**FOREVER)


def test_a_priority_put_between_two_gets_overtakes(mapping: Mapping) -> None:
    q = mapping.make("PriorityQueue", 4)
    for item in ((5, "e"), (3, "c"), (9, "i")):
        mapping.call(put, q, item)
    assert q.get() == (3, "c")
    mapping.call(put, q, (1, "a"))
    q.put((7, "g"))
    assert [mapping.call(get, q)[0] for _ in range(4)] == [1, 5, 7, 9]


def test_a_stack_gives_the_last_first_whoever_put_it(mapping: Mapping) -> None:
    q = mapping.make("LifoQueue")
    mapping.call(put, q, 1)
    q.put(2)
    assert mapping.call(get, q) == 2
    mapping.call(put, q, 3)
    assert [q.get(), q.get()] == [3, 1]


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_what_one_puts_another_gets_in_that_order(mapping: Mapping, kind: str) -> None:
    q = mapping.make(kind)
    feeder = mapping.start(put_all, q, range(100))
    consumer = mapping.start(consume_some, q, "wait", 100)
    feeder.result()
    assert consumer.result() == list(range(100))


def poll(q: Any, **kwargs: Any) -> Any:
    while True:
        try:
            return q.get(**kwargs)
        except queue.Empty:
            continue


GETS: dict[str, Callable[[Any], Any]] = {
    "wait": lambda q: q.get(),
    "look": lambda q: poll(q, block=False),
    "wait a little": lambda q: poll(q, timeout=1e-5),
}


@pytest.mark.parametrize("kind", ALL)
def test_each_item_is_got_once_however_one_gets_it(mapping: Mapping, kind: str) -> None:
    q = mapping.make(kind)
    for how in GETS:
        consumers = [mapping.start(consume_some, q, how, 50) for _ in range(2)]
        feeder = mapping.start(put_all, q, range(0, 100, 2))
        put_all(q, range(1, 100, 2))
        feeder.result()
        found = [item for consumer in consumers for item in consumer.result()]
        assert sorted(found) == list(range(100))
        assert q.empty()


def put_all(q: Any, items: Any) -> None:
    for item in items:
        q.put(item)


def consume_some(q: Any, how: str, number: int) -> list[Any]:
    return [GETS[how](q) for _ in range(number)]


# -- waiting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", QUEUES)
def test_a_put_waits_for_room_and_a_get_for_an_item(mapping: Mapping, kind: str) -> None:
    q = mapping.make(kind, 1)
    for timeout, done in ((None, 0), (PATIENCE, 3)):
        q.put(1)
        putter = mapping.start(put_in_time, q, 2, timeout)
        wait_until(lambda: number_waiting(q) == 1)
        assert (q.qsize(), q.unfinished_tasks) == (1, done + 1)
        assert q.get() == 1
        assert putter.result() == "put"
        assert (q.get(), q.unfinished_tasks) == (2, done + 2)
        getter = mapping.start(get_in_time, q, timeout)
        wait_until(lambda: number_waiting(q) == 1)
        q.put(3)
        assert getter.result() == 3
        assert q.empty()


def put_in_time(q: Any, item: Any, timeout: float | None) -> str:
    q.put(item, True, timeout)
    return "put"


def get_in_time(q: Any, timeout: float | None) -> Any:
    return q.get(True, timeout)


@pytest.mark.parametrize("kind", QUEUES)
def test_join_waits_until_all_is_done_and_can_be_repeated(mapping: Mapping, kind: str) -> None:
    q, sums = mapping.make(kind), mapping.make("Queue")
    for _ in range(2):
        workers = [mapping.start(add_up, q, sums) for _ in range(2)]
        for item in range(50):
            q.put(item)
        q.join()
        assert sum(sums.get() for _ in range(50)) == sum(range(50))
        for _ in workers:
            q.put(-1)
        q.join()
        for worker in workers:
            worker.result()
    with pytest.raises(ValueError, match="called too many times"):
        q.task_done()


def add_up(q: Any, sums: Any) -> None:
    item = 0
    while item >= 0:
        item = q.get()
        if item >= 0:
            sums.put(item)
        q.task_done()


def test_all_who_join_go_on_together(mapping: Mapping) -> None:
    q = mapping.make("Queue")
    q.put(1)
    q.put(2)
    joiners = [mapping.start(join_it, q) for _ in range(mapping.size)]
    wait_until(lambda: number_waiting(q) == mapping.size)
    q.task_done()
    q.task_done()
    assert [joiner.result() for joiner in joiners] == ["joined"] * mapping.size
    assert q.qsize() == 2, "done, but not got"


def join_it(q: Any) -> str:
    q.join()
    return "joined"


# -- failures -------------------------------------------------------------------------------------


class Refused(Exception):
    """What an item says that does not want to travel."""


class Stubborn:
    def __reduce__(self) -> Any:
        raise Refused


@pytest.mark.parametrize("kind", QUEUES)
def test_a_put_that_fails_leaves_the_queue_as_it_was(mapping: Mapping, kind: str) -> None:
    q = mapping.make(kind, 2)
    if not mapping.shared:  # it need not travel
        q.put((1, Stubborn()))
        return
    q.put((1, "first"))
    mapping.call(fail_to_put, q)
    q.put((2, "second"))
    assert q.full()
    mapping.call(fail_to_put, q)
    assert (q.qsize(), q.unfinished_tasks) == (2, 2)
    assert sorted([q.get(), mapping.call(get, q)]) == [(1, "first"), (2, "second")]


def fail_to_put(q: Any) -> None:
    for args in ((), (False,), (True, 0.01)):
        with pytest.raises(Exception, match="Refused") as error:
            q.put((3, Stubborn()), *args)
        assert not isinstance(error.value, queue.Full)


@pytest.mark.parametrize("base", [Queue, LifoQueue, PriorityQueue])
def test_a_subclass_may_fail_in_its_own_put_and_get(base: type[Any]) -> None:
    """Those who share memory may store items as they like."""

    class Failing(base):  # type: ignore[misc]
        fail = False

        def _put(self, item: Any) -> None:
            self.check()
            super()._put(item)

        def _get(self) -> Any:
            self.check()
            return super()._get()

        def check(self) -> None:
            if self.fail:
                self.fail = False
                raise LookupError("as it was told")

    q = Failing(2)
    q.put(1)
    for args in ((False,), (True, 0.1), (True,)):
        q.fail = True
        with pytest.raises(LookupError):
            q.put("lost", *args)
        assert (q.qsize(), q.unfinished_tasks) == (1, 1)
    q.put(2)
    assert q.full()
    for args in ((False,), (True, 0.1), (True,)):
        q.fail = True
        with pytest.raises(LookupError):
            q.get(*args)
        assert q.qsize() == 2
    putter = threading.Thread(target=expect_lookup_error, args=(q.put, 3))
    putter.start()
    wait_until(lambda: number_waiting(q) == 1)
    q.get()
    with q.mutex:
        q.fail = True
        q.not_full.notify()
    putter.join(PATIENCE)
    assert q.qsize() in (1, 2)


def expect_lookup_error(function: Callable[..., None], item: int) -> None:
    with pytest.raises(LookupError):
        function(item)


class Item:
    """Something that can be referred to weakly."""


@pytest.mark.parametrize("kind", ["Queue", "LifoQueue", "SimpleQueue"])
def test_a_queue_keeps_nothing_of_what_left_it(mapping: Mapping, kind: str) -> None:
    q = mapping.make(kind)
    for _ in range(3):
        q.put(Item())
    for _ in range(3):
        reference = weakref.ref(q.get())
        if reference() is not None:
            gc.collect()
        assert reference() is None


class PutsAtItsEnd:
    """In a cycle: the collector ends it, wherever its thread is then."""

    def __init__(self, q: Any) -> None:
        self.q = q
        self.cycle = self

    def __del__(self) -> None:
        self.q.put("from a finalizer")


def puts_and_finalizers_go_together(q: Any) -> int:
    """How often the collector has put one of ours between two of the thread's own."""
    before = gc.get_threshold()
    gc.set_threshold(3)
    try:
        for number in range(100):
            PutsAtItsEnd(q)
            q.put(number)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    found = [q.get(**FOREVER) for _ in range(200)]
    numbers = [item for item in found if item != "from a finalizer"]
    assert numbers == list(range(100))
    return len(found) - len(numbers)


def test_a_finalizer_may_put_into_a_simple_queue_whatever_its_thread_is_doing(
    mapping: Mapping,
) -> None:
    q = mapping.make("SimpleQueue")
    assert mapping.call(puts_and_finalizers_go_together, q) == 100
    assert q.empty()
