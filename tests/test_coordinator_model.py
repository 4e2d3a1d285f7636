"""Long random programs of queue requests, against a model as simple as can be."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from unirun._hosted_barriers import BARRIERS
from unirun._hosted_queues import QUEUES
from unirun.coordinator import NOW, Coordinator

KINDS = {**QUEUES, **BARRIERS}


def coordinator_with(kind: str, *params: Any) -> tuple[Coordinator, int]:
    coordinator = Coordinator(KINDS)
    return coordinator, coordinator.create(kind, *params)


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
