"""What the coordinator does for owners: circles of waits, ends of tasks, deaths of those needed.

Every order of small programs and many random long ones, each compared with a model; and the
same for a coordinator with a bug, which must be found.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from coordinator_mutations import MUTATIONS
from coordinator_twins import explore, play
from mutants import coordinator_with

from unirun import _hosted_barriers, _hosted_locks, coordinator
from unirun.coordinator import Coordinator, SharedObject
from unirun.testing._coordinator_world import KINDS, Twins
from unirun.testing._simulator import Simulator

TWO_LOCKS: dict[str, tuple[Any, ...]] = {"a": ("Lock",), "b": ("RLock",)}


def nested(outer: str, inner: str, *args: Any) -> list[Any]:
    return [
        ("acquire", outer),
        ("acquire", inner, *args),
        ("release", inner),
        ("release", outer),
        ("end_task",),
    ]


CIRCLE = {"one": nested("a", "b"), "two": nested("b", "a")}
WAITS = [("acquire", "a"), ("wait", "c"), ("release", "a"), ("end_task",)]
NOTIFIES = [("acquire", "a"), ("notify", "c", 1), ("release", "a")]
RETURNING = {
    "one": [("acquire", "b"), ("acquire", "a"), ("wait", "c", 1.0), ("release", "a")],
    "two": [("acquire", "a"), ("acquire", "b"), ("release", "b"), ("release", "a")],
}
# Name: objects, programs, how many deaths and interrupts.
SCENARIOS: dict[str, tuple[dict[str, tuple[Any, ...]], dict[str, list[Any]], int]] = {
    "two in a circle": (TWO_LOCKS, CIRCLE, 1),
    "a time-out in the circle": (
        TWO_LOCKS,
        {"one": nested("a", "b"), "two": nested("b", "a", 1.0)},
        1,
    ),
    "three in a circle": (
        {**TWO_LOCKS, "c": ("Lock",)},
        {
            "one": nested("a", "b")[:-1],
            "two": nested("b", "c")[:-1],
            "three": nested("c", "a")[:-1],
        },
        0,
    ),
    "a circle with one who comes back": ({**TWO_LOCKS, "c": ("Condition", "a")}, RETURNING, 1),
    "a circle of those who come back": (
        {"a": ("Lock",), "b": ("RLock",), "c": ("Condition", "a"), "d": ("Condition", "b")},
        {
            "one": [("acquire", "b"), ("acquire", "a"), ("wait", "c", 1.0)],
            "two": [("acquire", "a"), ("acquire", "b"), ("wait", "d", 1.0)],
            "both": [("acquire", "a"), ("notify", "c", None)],
        },
        1,
    ),
    "its own lock twice": (
        TWO_LOCKS,
        {"one": [("acquire", "a"), ("acquire", "a")], "two": [("release", "a"), *nested("b", "a")]},
        1,
    ),
    "tasks that release nothing": (
        TWO_LOCKS,
        {
            "one": [("acquire", "a"), ("acquire", "b"), ("acquire", "b"), ("end_task",)],
            "two": [("release", "a"), ("acquire", "a", 1.0), ("end_task",)],
        },
        1,
    ),
    "abandoned, and told": (
        {"a": ("Lock",), "c": ("Condition", "a")},
        {
            "one": [("acquire", "a"), ("end_task",)],
            "two": [("acquire", "a", True), ("release", "a"), ("acquire", "a"), ("end_task",)],
            "three": [("acquire", "a"), ("wait", "c", True, 1.0), ("release", "a")],
        },
        1,
    ),
    "a lost notification": (
        {"a": ("RLock",), "c": ("Condition", "a")},
        {"one": WAITS, "two": WAITS, "three": NOTIFIES},
        1,
    ),
    "a barrier that is needed": (
        {"a": ("Barrier", 2)},
        {
            "one": [("wait", "a"), ("wait", "a", 1.0)],
            "two": [("need", "a"), ("wait", "a"), ("unneed", "a"), ("need", "a")],
            "three": [("reset", "a"), ("wait", "a", 1.0)],
        },
        1,
    ),
    "permits released by others": (
        {"a": ("Semaphore", 2), "b": ("BoundedSemaphore", 1)},
        {
            "one": [("acquire", "a"), ("acquire", "b"), ("acquire", "a", 1.0)],
            "two": [("acquire", "a"), ("release", "a"), ("release", "a")],
            "three": [("release", "b"), ("acquire", "b", 1.0)],
        },
        1,
    ),
}


def explored(name: str) -> tuple[int, list[Twins]]:
    return explore(*SCENARIOS[name])


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_order_goes_as_in_the_model(name: str) -> None:
    situations, ends = explored(name)
    assert situations > 100
    assert ends


@pytest.mark.parametrize("name", ["two in a circle", "three in a circle"])
def test_nobody_is_left_in_a_circle_and_all_is_free_at_the_end(name: str) -> None:
    refused = 0
    for end in explored(name)[1]:
        assert not end.pending, "somebody waits for ever"
        refused += end.events > 0
    assert refused


def test_random_programs_go_as_in_the_model() -> None:
    """A thousand of them; the others by `python tests/coordinator_twins.py 10000` (10 s)."""
    assert sum(map(play, range(1000))) > 10_000


# -- bugs that must be found ----------------------------------------------------------------------


def nothing(*_: Any, **__: Any) -> None:
    """What was forgotten."""


def no_circle(*_: Any) -> list[Any]:
    return []


def loops_count_too(start: Any, next_wait: Callable[[Any], Any]) -> list[Any]:
    return [start] if start.subject.owner == start.session else []


def never(*_: Any) -> bool:
    return False


def all_levels(lock: Any, session: Any, times: int) -> bool:
    return _left_behind(lock, session, lock._depth)


def whoever_owns_it(lock: Any, session: Any, times: int) -> bool:
    return lock._depth > 0 and _left_behind(lock, lock.owner, times)


def abandons(lock: Any, session: Any, times: int) -> bool:
    left = _left_behind(lock, session, times)
    lock._abandoned |= left
    return left


def repairs(lock: Any, session: Any, times: int) -> bool:
    left = _left_behind(lock, session, times)
    lock._abandoned &= not left
    return left


def takes_it_anyway(lock: Any, request: Any) -> None:
    request.detail = request.detail._replace(raises=False)
    _serve(lock, request)


def keeps_the_depth(lock: Any, request: Any) -> int:
    return int(request.detail.depth if request.detail.returns else 0)


def forgets_the_notification(lock: Any) -> None:
    lock._to_notify.clear()
    _resume(lock)


def breaks_at_the_end(barrier: Any, request: Any) -> None:
    _unneed(barrier, request)
    barrier._break()


def forgets_others(barrier: Any, session: Any) -> None:
    del barrier._needed_by[session]
    if barrier._waiting:
        barrier._break()


def always_the_newest(coordinator_: Any, request: Any) -> None:
    before, _hosted_locks.Lock.has_to_return = _hosted_locks.Lock.has_to_return, never  # type: ignore[method-assign]
    try:
        _refuse_circles(coordinator_, request)
    finally:
        _hosted_locks.Lock.has_to_return = before  # type: ignore[method-assign]


_left_behind = _hosted_locks.Lock.left_behind
_serve, _resume = _hosted_locks.Lock._serve, _hosted_locks.Lock.resume
_unneed = _hosted_barriers.Barrier.unneed
_refuse_circles = Coordinator.refuse_circles

BUGS: list[tuple[Any, str, Any]] = [
    (coordinator, "circle_of", no_circle),
    (coordinator, "circle_of", loops_count_too),
    (Coordinator, "refuse_circles", always_the_newest),
    (_hosted_locks.Lock, "left_behind", never),
    (_hosted_locks.Lock, "left_behind", all_levels),
    (_hosted_locks.Lock, "left_behind", whoever_owns_it),
    (_hosted_locks.Lock, "left_behind", abandons),
    (_hosted_locks.Lock, "left_behind", repairs),
    (_hosted_locks.Lock, "_serve", takes_it_anyway),
    (_hosted_locks.Lock, "_depth_given_up", keeps_the_depth),
    (_hosted_locks.Lock, "resume", forgets_the_notification),
    (_hosted_locks.Lock, "owner_lost", nothing),
    (_hosted_locks.Semaphore, "_settle_accounts", nothing),
    (_hosted_locks.Semaphore, "owner_lost", nothing),
    (_hosted_barriers.Barrier, "owner_lost", forgets_others),
    (_hosted_barriers.Barrier, "unneed", breaks_at_the_end),
]


@pytest.mark.parametrize(
    ("where", "name", "bug"), BUGS, ids=[f"{name}-{bug.__name__}" for _, name, bug in BUGS]
)
def test_a_planted_bug_is_found(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, bug: Any
) -> None:
    monkeypatch.setattr(where, name, bug)
    if where is _hosted_barriers.Barrier and name in where.operations:  # which has it, too
        operations = {**_hosted_barriers.Barrier.operations, name: bug}
        monkeypatch.setattr(_hosted_barriers.Barrier, "operations", operations)
    with pytest.raises((AssertionError, KeyError)):
        deque(map(play, range(3000)), maxlen=0)


def test_a_coordinator_that_was_not_changed_is_found_right() -> None:
    make = coordinator_with("Rules, whatever the order", "Rules, whatever the order")
    assert play(1, make=make) == play(1)
    Simulator(3, coordinator=make).run()


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_bug_put_into_the_coordinator_is_noticed(name: str) -> None:
    """By random programs, by simulated workers, or where every order of events is tried."""
    with pytest.raises(Exception):  # noqa: B017, PT011  # a rule, or the machine itself fails
        try_all(coordinator_with(*MUTATIONS[name]))


def try_all(make: Callable[..., Coordinator]) -> None:
    for seed in range(400):
        play(seed, make=make)
        if seed % 2 == 0:
            Simulator(seed, coordinator=make).run()
    explore(*SCENARIOS["a lost notification"], make)


# -- single claims --------------------------------------------------------------------------------


def make(*kinds: str) -> tuple[Coordinator, list[int]]:
    coordinator = Coordinator(KINDS)
    return coordinator, [coordinator.create(kind) for kind in kinds]


def test_who_is_refused_learns_who_holds_what() -> None:
    coordinator, [a, b] = make("Lock", "RLock")
    coordinator.request("one", 1, "acquire", a, ("task 'x'",))
    coordinator.request("two", 1, "acquire", b, ("thread 'y'",))
    coordinator.request("one", 2, "acquire", b, ("task 'x'",))
    [(session, number, status, (text, depth))] = coordinator.request(
        "two", 2, "acquire", a, ("thread 'y'",)
    )
    assert (session, number, status, depth) == ("two", 2, "deadlock", 0)
    assert "thread 'y' holds RLock #2 and waits for Lock #1" in text
    assert "task 'x' holds Lock #1 and waits for RLock #2" in text


def test_a_signal_handler_that_still_runs_is_not_in_a_circle() -> None:
    coordinator, [a, b] = make("Lock", "Lock")
    coordinator.request("one", 1, "acquire", a)
    coordinator.request("two", 1, "acquire", a)  # waits, and its thread is interrupted:
    coordinator.request("two", 2, "acquire", b)
    assert coordinator.request("one", 2, "acquire", b) == [], "the handler will release it"
    assert [reply[:3] for reply in coordinator.request("two", 3, "release", b)] == [
        ("two", 3, "ok"),
        ("one", 2, "ok"),
    ]


def test_who_waits_for_a_removed_lock_is_in_no_circle() -> None:
    coordinator, [a, b] = make("Lock", "Lock")
    coordinator.request("one", 1, "acquire", a)
    coordinator.request("two", 1, "acquire", b)
    coordinator.request("one", 2, "acquire", b)
    assert coordinator.remove(b) == [("one", 2, "lost", None)]
    assert coordinator.request("two", 2, "acquire", a) == [], "one can go on, and release it"
    assert coordinator.end_task("one", [(a, 1), (b, 1)]) == ([("two", 2, "ok", True)], ["Lock #1"])
    assert coordinator.session_lost("two") == []


def test_what_is_left_of_a_lock_that_was_acquired_before_the_task_stays() -> None:
    coordinator, [lock] = make("RLock")
    for number in (1, 2, 3):
        coordinator.request("one", number, "acquire", lock)
    assert coordinator.end_task("one", [(lock, 2)]) == ([], ["RLock #1"])
    assert coordinator.request("two", 1, "acquire", lock, (), 0.0)[0][2] == "timeout"
    assert coordinator.request("one", 4, "release", lock)[0][2] == "ok"
    assert coordinator.request("one", 5, "release", lock)[0][2] == "runtime"


def test_a_lock_that_was_never_left_is_not_acquired_again() -> None:
    coordinator, [lock, rlock] = make("Lock", "RLock")
    for number, each in enumerate((lock, rlock, rlock), 1):
        coordinator.request("one", number, "acquire", each)
    assert coordinator.request("one", 4, "reacquire", lock) == [("one", 4, "ok", True)]
    assert coordinator.request("one", 5, "reacquire", rlock) == [("one", 5, "ok", True)]
    for number, each in enumerate((lock, rlock, rlock), 6):
        assert coordinator.request("one", number, "release", each)[0][2] == "ok"
    assert coordinator.request("two", 1, "acquire", rlock)[0][2] == "ok"


def test_a_wait_that_is_interrupted_as_it_ends_gets_back_the_depth_it_had() -> None:
    coordinator, [lock] = make("RLock")
    condition = coordinator.create("Condition", lock)
    for number in (1, 2):
        coordinator.request("one", number, "acquire", lock)
    coordinator.request("one", 3, "wait", condition, (), 5.0)
    assert coordinator.expire(5.0) == [("one", 3, "ok", False)]
    coordinator.cancel("one", 3)
    assert coordinator.request("one", 4, "reacquire", lock)[0][2] == "ok"
    for number, status in ((5, "ok"), (6, "ok"), (7, "runtime")):
        assert coordinator.request("one", number, "release", lock)[0][2] == status


def test_a_request_without_a_number_gets_no_answer() -> None:
    coordinator = Coordinator(KINDS)
    barrier = coordinator.create("Barrier", 2)
    assert coordinator.request("one", 0, "need", barrier) == []
    assert coordinator.request("two", 1, "wait", barrier) == []
    assert coordinator.session_lost("one") == [("two", 1, "broken", None)]
    assert coordinator.request("two", 2, "wait", barrier) == [("two", 2, "broken", None)]


@pytest.mark.parametrize("acts", [True, False])
def test_the_death_of_one_needed_during_the_action_breaks_the_next_round_only(acts: bool) -> None:
    coordinator = Coordinator(KINDS)
    barrier = coordinator.create("Barrier", 2, b"action")
    coordinator.request("one", 0, "need", barrier)
    coordinator.request("two", 1, "wait", barrier)
    coordinator.request("three", 1, "wait", barrier)  # acts now
    if not acts:
        coordinator.session_lost("three")
    assert coordinator.session_lost("one") == []
    if acts:
        replies = coordinator.request("three", 2, "acted", barrier, (True,))
        assert [reply[2] for reply in replies] == ["ok", "ok"]
    assert coordinator.request("two", 2, "wait", barrier)[0][2] == "broken"
    coordinator.request("two", 3, "reset", barrier)
    assert coordinator.request("two", 4, "wait", barrier) == []


def test_a_barrier_that_is_given_up_says_why_until_it_is_reset() -> None:
    coordinator = Coordinator(KINDS)
    barrier = coordinator.create("Barrier", 3)
    subject: Any = coordinator.subject(barrier)
    coordinator.request("one", 1, "wait", barrier, (("p", 1),))
    coordinator.request("two", 1, "wait", barrier, (("p", 2),))
    assert subject.standing == [("p", 1), ("p", 2)]
    replies = coordinator.spoil(barrier, "why")
    assert replies == [("one", 1, "broken", "why"), ("two", 1, "broken", "why")]
    assert coordinator.request("one", 2, "wait", barrier) == [("one", 2, "broken", "why")]
    coordinator.request("one", 3, "reset", barrier)
    assert coordinator.spoil(barrier, "nobody waits") == []
    assert coordinator.request("one", 4, "state", barrier)[0][3] == (0, False)


def test_only_locks_are_refused() -> None:
    coordinator, [event] = make("Event")
    subject: Any = coordinator.subject(event)
    assert isinstance(subject, SharedObject)
    assert subject.owner is None
    assert not subject.left_behind("one", 1)
