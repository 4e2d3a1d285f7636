"""The rules of `coordinator.py`: every interleaving of small programs, and random long ones.

No process, no thread, no clock: the world below plays all of them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from unirun._hosted_barriers import BARRIERS
from unirun._hosted_locks import LOCKS
from unirun._hosted_queues import QUEUES
from unirun.coordinator import NOW, Coordinator

KINDS = {**QUEUES, **BARRIERS, **LOCKS}
TIMED = "timed"  # a request that gives up at the next tick

Move = tuple[str, str]


def coordinator_with(kind: str, *params: Any) -> tuple[Coordinator, int]:
    coordinator = Coordinator(KINDS)
    return coordinator, coordinator.create(kind, *params)


# -- a world that knows every order in which things can happen ----------------------------------


@dataclass
class Party:
    """A session: what it still wants to do, and what it waits for."""

    program: list[tuple[Any, ...]]  # op, arguments, and TIMED or NOW behind them
    alive: bool = True
    pending: int | None = None  # the request it waits for
    op: str = ""
    held: list[bytes] | None = None  # items it got and has not acknowledged
    acting: bool = False
    last: int = 0
    seen: list[Any] = field(default_factory=list)


class World:
    """One object, its parties, and what may still happen to them."""

    def __init__(
        self, kind: str, params: tuple[Any, ...], programs: dict[str, list[Any]], deaths: int
    ) -> None:
        self.coordinator, self.object = coordinator_with(kind, *params)
        self.subject = self.coordinator._objects[self.object]
        self.parties = {name: Party(list(program)) for name, program in programs.items()}
        self.deaths = self.cancels = deaths
        self.now = 1.0
        self.accepted: list[bytes] = []
        self.delivered: list[bytes] = []

    def moves(self) -> Iterator[Move]:
        for name, party in self.parties.items():
            if not party.alive:
                continue
            busy = party.pending is not None or party.held is not None or party.acting
            if party.program and not busy:
                yield "ask", name
            if party.held is not None:
                yield "acknowledge", name
            if party.acting:
                yield "succeed", name
                yield "fail", name
            if busy and self.cancels:
                yield "cancel", name
            if self.deaths:
                yield "die", name
        if self.coordinator.next_deadline() is not None:
            yield "tick", ""

    def make(self, move: Move, check: bool = True) -> None:
        what, name = move
        getattr(self, f"_{what}")(self.parties.get(name), name)
        if check:
            self._check()

    def _ask(self, party: Party, name: str) -> None:
        op, *args = party.program.pop(0)
        deadline = None
        if args and args[-1] in (TIMED, NOW):
            deadline = self.now + 1 if args.pop() == TIMED else NOW
        self._request(party, name, op, args, deadline)

    def _request(self, party: Party, name: str, op: str, args: Any, deadline: Any = None) -> None:
        party.last += 1
        party.pending, party.op = party.last, op
        if op == "put":
            self.accepted.append(args[0])  # unless it is refused
        elif op == "put_many":
            self.accepted += args[0]
        self._deliver(self.coordinator.request(name, party.last, op, self.object, args, deadline))

    def _deliver(self, replies: list[Any]) -> None:
        for name, request_id, status, value in replies:
            party = self.parties[name]
            assert party.alive, "rule 1: nothing is sent to the dead"
            assert party.pending == request_id, "rule 1: exactly one answer"
            party.pending = None
            party.seen.append((party.op, status, value))
            if status == "item":
                party.held = [value] if isinstance(value, bytes) else list(value)
            party.acting = status == "act"

    def _acknowledge(self, party: Party, name: str) -> None:
        self.coordinator.acknowledge(name, party.last)
        self.delivered += party.held or []
        party.held = None

    def _succeed(self, party: Party, name: str) -> None:
        party.acting = False
        self._request(party, name, "acted", (True,))

    def _fail(self, party: Party, name: str) -> None:
        party.acting = False
        self._request(party, name, "acted", (False,))

    def _cancel(self, party: Party, name: str) -> None:
        self.cancels -= 1
        party.pending = party.held = None
        party.acting = False
        self._deliver(self.coordinator.cancel(name, party.last))

    def _die(self, party: Party, name: str) -> None:
        self.deaths -= 1
        party.alive, party.held, party.acting = False, None, False
        party.pending = None
        self._deliver(self.coordinator.session_lost(name))

    def _tick(self, _party: None, _name: str) -> None:
        deadline = self.coordinator.next_deadline()
        assert deadline is not None
        self.now = deadline
        self._deliver(self.coordinator.expire(deadline))

    def _check(self) -> None:
        assert len(set(self.delivered)) == len(self.delivered), "rule 4: at most once"
        if hasattr(self.subject, "_items"):
            self._check_queue()

    def _check_queue(self) -> None:
        queue = self.subject
        inside = [entry[2] for entry in queue._items]
        handed = [item for party in self.parties.values() for item in party.held or []]
        once = inside + handed + self.delivered
        assert len(set(once)) == len(once), "an item is in one place"
        assert set(once) <= set(self.accepted)
        assert not (queue._getters and queue._items), "rule 3: whoever can go on, does"
        assert not (queue._putters and not queue._is_full()), "rule 3: whoever can go on, does"
        assert not (queue._joiners and not queue._unfinished)
        waiting = sum(party.pending is not None for party in self.parties.values())
        lines = len(queue._getters) + len(queue._putters) + len(queue._joiners)
        assert waiting == lines, "rule 5: the dead do not wait, the living are not forgotten"

    def key(self) -> str:
        """Worlds with the same key have the same future."""
        subject = {
            name: [_plain(each) for each in value] if hasattr(value, "__iter__") else _plain(value)
            for name, value in vars(self.subject).items()
            if name not in ("_answer", "_park", "_coordinator", "_numbers")
        }
        return repr((subject, self.parties, self.deaths, self.cancels, self.now, self.delivered))


def _plain(value: Any) -> Any:
    if hasattr(value, "session"):
        return (value.session, value.id, repr(value.detail), value.state, value.timed)
    return value


def explore(
    kind: str,
    params: tuple[Any, ...],
    programs: dict[str, list[Any]],
    deaths: int = 1,
    world_type: type[World] = World,
) -> list[Any]:
    """The ends of every order in which these programs, deaths and time-outs can happen."""
    seen: set[str] = set()
    ends = []
    stack: list[tuple[Move, ...]] = [()]
    while stack:
        path = stack.pop()
        world = world_type(kind, params, programs, deaths)
        for step, move in enumerate(path, 1):
            world.make(move, check=step == len(path))  # the rest was checked on the way here
        if (key := world.key()) in seen:
            continue
        seen.add(key)
        moves = list(world.moves())
        stack += [(*path, move) for move in moves]
        if not any(move[0] != "die" and move[0] != "cancel" for move in moves):
            ends.append(world)
    assert len(seen) > 30, "the scenario is too small to say anything"
    return ends


A, B, C = b"a", b"b", b"c"


@pytest.mark.parametrize("kind", ["Queue", "LifoQueue", "PriorityQueue"])
def test_no_item_is_lost_or_doubled_whoever_dies(kind: str) -> None:
    programs: dict[str, list[Any]] = {
        "putter": [("put", A, 2), ("put", B, 1)],
        "one": [("get",), ("get", TIMED)],
        "two": [("get", NOW), ("get",)],
    }
    for world in explore(kind, (0,), programs, deaths=1):
        inside = [entry[2] for entry in world.subject._items]
        put = [op for op, status, _ in world.parties["putter"].seen if status == "ok"]
        assert sorted(inside + world.delivered) == sorted([A, B][: len(put)])


def test_a_full_queue_lets_putters_in_as_there_is_room() -> None:
    programs: dict[str, list[Any]] = {
        "one": [("put", A, TIMED), ("put", B, TIMED)],
        "two": [("put", C, NOW)],
        "getter": [("get", TIMED), ("get", TIMED)],
    }
    for world in explore("Queue", (1,), programs):
        statuses = {status for party in world.parties.values() for _, status, _ in party.seen}
        assert statuses <= {"ok", "item", "timeout"}


@pytest.mark.parametrize("immediate", [False, True])
def test_a_shut_down_queue_leaves_nobody_waiting(immediate: bool) -> None:
    programs: dict[str, list[Any]] = {
        "putter": [("put", A), ("put", B), ("shutdown", immediate)],
        "getter": [("get",), ("task_done",), ("get",)],
        "joiner": [("join",)],
    }
    for world in explore("Queue", (1,), programs):
        queue: Any = world.subject
        if queue._shut:
            assert not queue._getters
            assert not queue._putters
        if immediate and queue._shut:
            assert not queue._items


def test_batches_arrive_in_order_and_whole() -> None:
    programs: dict[str, list[Any]] = {
        "putter": [("put_many", [A, B, C], TIMED)],
        "getter": [("get_many", 2), ("get_many", 2, TIMED)],
        "other": [("get", TIMED)],
    }
    for world in explore("Queue", (2,), programs):
        accepted = [value for _, status, value in world.parties["putter"].seen if status != "ok"]
        inside = [entry[2] for entry in world.subject._items]
        if accepted:  # a refusal says how many were let in
            assert sorted(inside + world.delivered) == [A, B, C][: accepted[0]]


def test_whoever_waits_for_an_event_learns_of_it() -> None:
    programs: dict[str, list[Any]] = {
        "setter": [("set",), ("clear",)],
        "one": [("wait", TIMED), ("is_set",)],
        "two": [("wait",)],
    }
    for world in explore("Event", (), programs):
        event: Any = world.subject
        assert not (event._waiting and event._is_set)
        for party in world.parties.values():
            assert all(value for op, status, value in party.seen if (op, status) == ("wait", "ok"))


@pytest.mark.parametrize("action", [None, b"action"])
@pytest.mark.parametrize("disturbance", [None, "abort", "reset"])
def test_a_barrier_lets_all_of_a_round_pass_or_none(
    action: bytes | None, disturbance: str | None
) -> None:
    programs: dict[str, list[Any]] = {
        "one": [("wait", TIMED), ("wait",)],
        "two": [("wait",), ("wait",)],
    }
    if disturbance:
        programs["three"] = [(disturbance,)]
    for world in explore("Barrier", (2, action), programs):
        barrier: Any = world.subject
        assert not (barrier._broken and barrier._waiting)
        passed = [
            [value for _, status, value in party.seen if status == "ok" and value is not None]
            for party in world.parties.values()
        ]
        if world.deaths and world.cancels:  # else one may have missed its answer
            assert len(passed[0]) == len(passed[1]), "nobody passes alone"


def test_a_barrier_whose_party_dies_breaks() -> None:
    programs: dict[str, list[Any]] = {"one": [("wait",)], "two": [("wait",)], "three": []}
    died_waiting = 0
    for world in explore("Barrier", (3,), programs):
        if world.cancels and not world.parties["one"].alive and not world.parties["one"].program:
            barrier: Any = world.subject
            assert barrier._broken
            died_waiting += 1
    assert died_waiting


def test_whoever_comes_during_the_action_belongs_to_the_next_round() -> None:
    programs: dict[str, list[Any]] = {
        "one": [("wait",)],
        "two": [("wait",)],
        "three": [("wait", TIMED)],
        "four": [("wait",)],
    }
    for world in explore("Barrier", (2, b"action"), programs):
        barrier: Any = world.subject
        assert barrier._acting is None
        assert not barrier._early
        assert len(barrier._waiting) < 2
        passed = [seen for party in world.parties.values() for seen in party.seen]
        assert sorted(value for _, status, value in passed if status == "ok")[-1:] in ([], [1])


@pytest.mark.parametrize("how", ["lost", "timeout", "cancel"])
def test_who_leaves_the_next_round_breaks_it_but_not_this_one(how: str) -> None:
    coordinator, barrier = coordinator_with("Barrier", 2, b"action")
    coordinator.request("one", 1, "wait", barrier)
    coordinator.request("two", 1, "wait", barrier)  # and now it acts
    coordinator.request("three", 1, "wait", barrier, (), 5.0)
    if how == "lost":
        assert coordinator.session_lost("three") == []
    elif how == "timeout":
        assert coordinator.expire(5.0) == [("three", 1, "broken", None)]
    else:
        assert coordinator.cancel("three", 1) == []
    assert coordinator.request("two", 2, "acted", barrier, (True,)) == [
        ("two", 2, "ok", 1),
        ("one", 1, "ok", 0),
    ]
    assert coordinator.request("x", 1, "state", barrier)[0][3] == (0, how != "cancel")


# -- single claims ------------------------------------------------------------------------------


def test_an_item_of_a_dead_getter_goes_back_to_the_front() -> None:
    coordinator, queue = coordinator_with("Queue")
    for item in (A, B, C):
        coordinator.request("putter", 1, "put", queue, (item,))
    coordinator.request("one", 1, "get", queue)
    coordinator.request("two", 1, "get", queue)
    coordinator.session_lost("two")  # B first, then A: their order must not depend on it
    coordinator.session_lost("one")
    replies = coordinator.request("three", 1, "get_many", queue, (3,))
    assert replies == [("three", 1, "item", [A, B, C])]


def test_an_acknowledged_item_never_comes_back() -> None:
    coordinator, queue = coordinator_with("Queue")
    coordinator.request("putter", 1, "put", queue, (A,))
    coordinator.request("getter", 1, "get", queue)
    coordinator.acknowledge("getter", 1)
    assert coordinator.session_lost("getter") == []
    assert coordinator.request("x", 1, "get", queue, (), NOW) == [("x", 1, "timeout", 0)]


def test_an_item_that_comes_back_after_an_immediate_shutdown_is_done() -> None:
    coordinator, queue = coordinator_with("Queue")
    coordinator.request("putter", 1, "put", queue, (A,))
    coordinator.request("getter", 1, "get", queue)
    coordinator.request("boss", 1, "shutdown", queue, (True,))
    coordinator.request("boss", 2, "join", queue)
    assert coordinator.session_lost("getter") == [("boss", 2, "ok", None)]


def test_a_late_request_is_not_tried() -> None:
    coordinator, queue = coordinator_with("Queue")
    late = coordinator.request("putter", 1, "put", queue, (A,), 5.0, late=True)
    assert late == [("putter", 1, "timeout", 0)]
    assert coordinator.request("x", 1, "state", queue) == [("x", 1, "ok", (0, 0, False))]


def test_a_late_party_breaks_its_barrier_as_a_timeout_does() -> None:
    coordinator, barrier = coordinator_with("Barrier", 2)
    coordinator.request("one", 1, "wait", barrier)
    replies = coordinator.request("two", 1, "wait", barrier, (), 5.0, late=True)
    assert replies == [("one", 1, "broken", None), ("two", 1, "broken", None)]


def test_priorities_of_any_permitted_kind_leave_in_order() -> None:
    for priorities in ([3, 1.5, True], ["b", "a"], [b"b", b"a"], [(1, "b"), (1, "a"), (1,)]):
        coordinator, queue = coordinator_with("PriorityQueue")
        for priority in priorities:
            coordinator.request("p", 1, "put", queue, (repr(priority).encode(), priority))
        replies = coordinator.request("g", 1, "get_many", queue, (9,))
        assert replies[0][3] == [repr(each).encode() for each in sorted(priorities)]  # type: ignore[type-var]


def test_equal_priorities_leave_in_the_order_in_which_they_came() -> None:
    coordinator, queue = coordinator_with("PriorityQueue")
    for item in (A, B, C):
        coordinator.request("p", 1, "put", queue, (item, (1,)))
    assert coordinator.request("g", 1, "get_many", queue, (9,))[0][3] == [A, B, C]


@pytest.mark.parametrize("priority", [None, [1], {"a": 1}, 1j, (1, None), object()])
def test_a_priority_of_another_kind_is_a_type_error(priority: Any) -> None:
    coordinator, queue = coordinator_with("PriorityQueue")
    [(_, _, status, text)] = coordinator.request("p", 1, "put", queue, (A, priority))
    assert status == "type"
    assert "priority" in text


def test_priorities_that_cannot_be_compared_are_refused_and_change_nothing() -> None:
    coordinator, queue = coordinator_with("PriorityQueue")
    coordinator.request("p", 1, "put", queue, (A, (1, 2)))
    [(_, _, status, _)] = coordinator.request("p", 2, "put", queue, (B, (1, "x")))
    assert status == "type"
    assert coordinator.request("p", 3, "state", queue)[0][3] == (1, 1, False)
    coordinator.request("p", 4, "put", queue, (C, (0, "x")))  # compared only with the smallest
    assert coordinator.request("g", 1, "get_many", queue, (9,))[0][3] == [C, A]


def test_requests_without_sense_are_answered_with_their_error() -> None:
    coordinator, queue = coordinator_with("Queue")
    assert coordinator.request("x", 1, "get", queue + 1) == [("x", 1, "lost", None)]
    assert coordinator.request("x", 2, "fly", queue)[0][2] == "type"
    assert coordinator.request("x", 3, "put", queue, (1, 2, 3, 4))[0][2] == "type"
    assert coordinator.request("x", 4, "get_many", queue, (0,))[0][2] == "value"
    assert coordinator.request("x", 5, "task_done", queue)[0][2:] == (
        "value",
        "task_done() called too many times",
    )
    assert coordinator.next_deadline() is None


def test_a_program_that_polls_does_not_fill_the_memory() -> None:
    coordinator, queue = coordinator_with("Queue")
    for number in range(2000):
        coordinator.request("getter", number, "get", queue, (), math.inf)
        coordinator.request("putter", number, "put", queue, (A,))
        coordinator.acknowledge("getter", number)
    assert len(coordinator._deadlines) < 200
    assert coordinator._registered["getter"] == {}
