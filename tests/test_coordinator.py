"""The rules of `coordinator.py`: every interleaving of small programs, and random long ones.

No process, no thread, no clock: the world below plays all of them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirun._hosted_locks import LOCKS
from unirun._hosted_queues import QUEUES
from unirun.coordinator import NOW, Coordinator

KINDS = {**QUEUES, **LOCKS}
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

    def make(self, move: Move) -> None:
        what, name = move
        getattr(self, f"_{what}")(self.parties.get(name), name)
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
            if name[1:] not in ("answer", "park", "settle_request", "numbers")
        }
        return repr((subject, self.parties, self.deaths, self.cancels, self.now, self.delivered))


def _plain(value: Any) -> Any:
    if hasattr(value, "session"):
        return (value.session, value.id, repr(value.detail), value.state, value.timed)
    return value


def explore(
    kind: str, params: tuple[Any, ...], programs: dict[str, list[Any]], deaths: int = 1
) -> list[World]:
    """The ends of every order in which these programs, deaths and time-outs can happen."""
    seen: set[str] = set()
    ends = []
    stack: list[tuple[Move, ...]] = [()]
    while stack:
        path = stack.pop()
        world = World(kind, params, programs, deaths)
        for move in path:
            world.make(move)
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
        inside = [entry[2] for entry in world.subject._items]  # type: ignore[attr-defined]
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
        inside = [entry[2] for entry in world.subject._items]  # type: ignore[attr-defined]
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


# -- long random programs against a model as simple as can be -------------------------------------


class Model:
    """A queue as one would explain it: whoever waits stands in line and looks again and again."""

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.items: list[tuple[int, bytes]] = []  # with the number each had when it was put
        self.line: list[dict[str, Any]] = []
        self.held: dict[tuple[str, int], list[tuple[int, bytes]]] = {}
        self.number = self.unfinished = 0
        self.shut = self.drained = False

    def ask(self, session: str, request_id: int, op: str, arg: Any, wait: bool) -> list[Any]:
        me = {"who": (session, request_id), "op": op, "arg": arg, "taken": 0}
        if op == "task_done":
            if not self.unfinished:
                return [(*me["who"], "value")]  # type: ignore[misc]
            self.unfinished -= 1
            return self.look([(*me["who"], "ok")])  # type: ignore[misc]
        if op == "shutdown":
            self.shut, self.drained = True, self.drained or arg
            if arg:
                self.unfinished = max(0, self.unfinished - len(self.items))
                self.items.clear()
            return self.look([(*me["who"], "ok")])  # type: ignore[misc]
        if op == "put" and self.shut:
            return [(*me["who"], "shutdown")]  # type: ignore[misc]
        self.line.append(me)
        replies = self.look([])
        if me in self.line and not wait:
            self.line.remove(me)
            replies.append((*me["who"], "timeout"))  # type: ignore[misc]
        return replies

    def look(self, replies: list[Any]) -> list[Any]:
        """Whoever can go on does: putters first, then one of the others, and again."""
        for me in sorted(self.line, key=lambda each: each["op"] != "put"):
            before = self.number
            reply = self.serve(me)
            replies += [reply] if reply else []
            if reply or self.number > before:
                return self.look(replies)
        return replies

    def serve(self, me: dict[str, Any]) -> Any:
        first = next(each for each in self.line if each["op"] == me["op"])
        if me["op"] == "join":
            return self.leave(me, "ok") if not self.unfinished else None
        if me is not first:
            return None
        if me["op"] == "put":
            return self.serve_put(me)
        if self.items:
            taken, self.items = self.items[: me["arg"]], self.items[me["arg"] :]
            self.held[me["who"]] = taken
            return self.leave(me, tuple(item for _, item in taken))
        return self.leave(me, "shutdown") if self.shut else None

    def serve_put(self, me: dict[str, Any]) -> Any:
        while me["arg"] and not self.shut and not 0 < self.maxsize <= len(self.items):
            self.number += 1
            self.unfinished += 1
            self.items.append((self.number, me["arg"].pop(0)))
        if not me["arg"]:
            return self.leave(me, "ok")
        return self.leave(me, "shutdown") if self.shut else None

    def leave(self, me: dict[str, Any], how: Any) -> Any:
        self.line = [each for each in self.line if each is not me]
        return (*me["who"], how)

    def forget(self, which: Any) -> list[Any]:
        self.line = [each for each in self.line if not which(each["who"])]
        for who in [who for who in self.held if which(who)]:
            back = self.held.pop(who)
            if self.drained:
                self.unfinished = max(0, self.unfinished - len(back))
            else:
                self.items = sorted(self.items + back)
        return self.look([])


SESSIONS = ["one", "two", "three"]
steps = st.lists(
    st.tuples(
        st.sampled_from(SESSIONS),
        st.sampled_from(
            ["put"] * 5
            + ["get"] * 5
            + ["task_done", "task_done", "join", "shutdown", "acknowledge", "cancel", "die"]
        ),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2), steps)
def test_a_queue_does_what_the_simple_model_does(maxsize: int, program: list[Any]) -> None:
    coordinator, queue = coordinator_with("Queue", maxsize)
    model, item = Model(maxsize), 0
    for request_id, (session, op, number, flag) in enumerate(program, 1):
        if op == "put":
            items = [str(item := item + 1).encode() for _ in range(number)]
            expected = model.ask(session, request_id, op, list(items), flag)
            args: tuple[Any, ...] = (items,)
        elif op == "get":
            expected = model.ask(session, request_id, op, number, flag)
            args = (number,)
        elif op in ("join", "task_done"):
            expected, args = model.ask(session, request_id, op, None, True), ()
        elif op == "shutdown":
            if number < 3:
                continue  # rare, else little else happens
            expected, args = model.ask(session, request_id, op, flag, True), (flag,)
        else:
            _undo(model, session, op, coordinator)
            continue
        name = {"put": "put_many", "get": "get_many"}.get(op, op)
        deadline = None if flag or op not in ("put", "get") else NOW
        replies = coordinator.request(session, request_id, name, queue, args, deadline)
        assert _plainly(replies) == sorted(expected, key=repr)
        subject: Any = coordinator._objects[queue]
        assert [entry[2] for entry in subject._items] == [entry[1] for entry in model.items]
        assert subject._unfinished == model.unfinished


def _undo(model: Model, session: str, op: str, coordinator: Coordinator) -> None:
    """The latest request of that session is acknowledged or cancelled, or the session dies."""
    mine = [who for who in model.held if who[0] == session]
    mine += [each["who"] for each in model.line if each["who"][0] == session]
    if op == "die":
        expected = model.forget(lambda who: who[0] == session)
        assert _plainly(coordinator.session_lost(session)) == sorted(expected, key=repr)
    elif mine and op == "cancel":
        expected = model.forget(lambda who: who == max(mine))
        assert _plainly(coordinator.cancel(*max(mine))) == sorted(expected, key=repr)
    elif mine and op == "acknowledge":
        model.held.pop(max(mine), None)
        coordinator.acknowledge(*max(mine))


def _plainly(replies: list[Any]) -> list[Any]:
    plain = [
        (session, request_id, tuple(value) if status == "item" else status)
        for session, request_id, status, value in replies
    ]
    return sorted(plain, key=repr)
