"""What holds for values, dicts and lists when several parties use them, and some of them die."""

import pickle
import signal
import sys
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
from parties import PATIENCE, Mapping, ProcessParty, tell

from unirun import _hosted_values
from unirun._errors import DeserializationError, SerializationError
from unirun._hosted_values import VALUES
from unirun._shared_values import SharedContent
from unirun.coordinator import Coordinator
from unirun.sync import make_thread

ROUNDS = 60


# -- contention -----------------------------------------------------------------------------------


def in_all_parties(mapping: Mapping, function: Callable[..., Any], *args: Any) -> list[Any]:
    calls = [mapping.start(function, *args, number) for number in range(mapping.size)]
    return [call.result() for call in calls]


def one_more(number: int) -> int:
    return number + 1


def count_in_value(value: Any, _: int) -> None:
    for _ in range(ROUNDS):
        value.update(one_more)


def count_under_lock(value: Any, _: int) -> None:
    for _ in range(ROUNDS):
        with value.lock:
            value.value = value.value + 1


def count_in_dict(made: Any, _: int) -> None:
    for _ in range(ROUNDS):
        made.change("counter", one_more, 0)


def count_in_whole_dict(made: Any, number: int) -> None:
    for each in range(ROUNDS):
        made.update(lambda content: {**content, "counter": content.get("counter", 0) + 1})
        made[number, each] = True  # before the next update begins, and so never lost


def count_in_list(items: Any, number: int) -> None:
    for _ in range(ROUNDS):
        items.update(lambda items: [*items, number])


def test_counters_add_up(mapping: Mapping) -> None:
    total = mapping.size * ROUNDS
    value = mapping.make("Value", 0)
    in_all_parties(mapping, count_in_value, value)
    assert value.value == total
    in_all_parties(mapping, count_under_lock, value)
    assert value.value == 2 * total
    made = mapping.make("Dict")
    in_all_parties(mapping, count_in_dict, made)
    assert made == {"counter": total}
    items = mapping.make("List")
    in_all_parties(mapping, count_in_list, items)
    assert sorted(items) == sorted(list(range(mapping.size)) * ROUNDS)


def take_all_items(made: Any, _: int) -> list[Any]:
    taken = []
    while True:
        try:
            taken.append(made.popitem() if hasattr(made, "popitem") else made.pop())
        except (KeyError, IndexError):
            return taken


def remove_each(items: Any, _: int) -> list[int]:
    removed = []
    for number in range(ROUNDS):
        try:
            items.remove(number)
        except ValueError:
            continue
        removed.append(number)
    return removed


def test_what_is_taken_is_taken_once(mapping: Mapping) -> None:
    everything = list(range(ROUNDS))
    made = mapping.make("Dict", zip(everything, everything, strict=True))
    taken = in_all_parties(mapping, take_all_items, made)
    assert sorted(chain(*taken)) == list(zip(everything, everything, strict=True))
    items = mapping.make("List", everything)
    assert sorted(chain(*in_all_parties(mapping, take_all_items, items))) == everything
    items.extend(everything)
    assert sorted(chain(*in_all_parties(mapping, remove_each, items))) == everything
    assert len(items) == 0


def be_first(made: Any, number: int) -> list[Any]:
    return [made.setdefault(key, number) for key in range(ROUNDS)]


def test_one_default_is_set_and_seen_by_all(mapping: Mapping) -> None:
    made = mapping.make("Dict")
    seen = in_all_parties(mapping, be_first, made)
    assert seen == [[made[key] for key in range(ROUNDS)]] * mapping.size


def grow_and_order(items: Any, number: int) -> None:
    for each in range(ROUNDS):
        if number == 0:
            items.sort()
        else:
            items.append((number, each))


def test_a_sort_loses_nothing_that_is_added_meanwhile(mapping: Mapping) -> None:
    items = mapping.make("List")
    in_all_parties(mapping, grow_and_order, items)
    items.sort()
    assert items == [(number, each) for number in range(1, mapping.size) for each in range(ROUNDS)]


EVEN = dict.fromkeys(range(0, 400, 2), 0)
ODD = dict.fromkeys(range(1, 400, 2), 1)


def other_half(content: Any) -> Any:
    if isinstance(content, list):
        return list(EVEN if content[0] else ODD)
    return EVEN if 1 in content else ODD


def replace_or_look(made: Any, number: int) -> list[Any]:
    """What was seen that never was."""
    if number == 0:
        for _ in range(2 * ROUNDS):
            made.update(other_half)
        return []
    whole = [list(EVEN), list(ODD)]
    looks = (lambda: list(made), made.copy, lambda: list(reversed(made))[::-1])
    return [seen for look in looks * ROUNDS if (seen := list(look())) not in whole]


@pytest.mark.parametrize("kind", ["Dict", "List"])
def test_nobody_sees_an_update_half_done(mapping: Mapping, kind: str) -> None:
    made = mapping.make(kind, EVEN)
    assert list(chain(*in_all_parties(mapping, replace_or_look, made))) == []


class LooksBack:
    """Looks at a dict when it is dropped."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def __del__(self) -> None:
        self._look()


@pytest.mark.parametrize(("kind", "keys"), [("Dict", dict.keys), ("List", list.copy)])
def test_no_step_of_python_is_taken_in_the_middle_of_an_update(
    kind: str, keys: Callable[[Any], Any]
) -> None:
    """There, other threads could take their turn."""
    seen = set()
    made = make_thread(kind)
    if kind == "Dict":
        made.update(dict.fromkeys(EVEN, LooksBack(lambda: seen.add(tuple(keys(made))))))
    else:
        made.extend(EVEN)
    sys.setprofile(lambda *_: seen.add(tuple(keys(made))))
    try:
        made.update(lambda _: ODD)
    finally:
        sys.setprofile(None)
    assert seen == {tuple(EVEN), tuple(ODD)}


def test_who_holds_the_lock_is_not_interrupted_by_an_update(mapping: Mapping) -> None:
    value = mapping.make("Value", 1)
    with value.lock:
        call = mapping.start(value.update, one_more)
        value.value = 10  # plain operations wait for nobody, the lock or not
    assert call.result() == 11


# -- deaths ---------------------------------------------------------------------------------------


def stay_in(content: Any) -> None:
    if isinstance(content, (dict, list)):
        content.clear()
    tell("inside")
    signal.pause()


def update_and_stay(made: Any) -> None:
    made.update(stay_in)


def change_and_stay(made: Any) -> None:
    made.change("a", stay_in)


@pytest.mark.parametrize(
    ("kind", "start", "function"),
    [
        ("Value", 5, update_and_stay),
        ("Dict", {"a": 1}, update_and_stay),
        ("Dict", {"a": 1}, change_and_stay),
        ("List", [1, 2], update_and_stay),
    ],
)
def test_who_is_killed_in_an_update_changes_nothing_and_frees_the_lock(
    make: Callable[..., Any],
    party: ProcessParty,
    other: ProcessParty,
    kind: str,
    start: Any,
    function: Callable[..., Any],
) -> None:
    made = make(kind, start)
    assert party.start(function, made).result() == "inside"
    assert not made.lock.acquire(False)
    waiter = other.start(take_lock, made)
    party.kill()
    assert waiter.result()
    assert (made.value if kind == "Value" else made.copy()) == start
    made.update(lambda content: content)  # and goes on
    assert not made.lock.abandoned


def take_lock(made: Any) -> bool:
    assert made.lock.acquire(timeout=PATIENCE)
    abandoned: bool = made.lock.abandoned
    made.lock.release()
    return abandoned


def test_what_a_killed_process_has_set_stays(make: Callable[..., Any], party: ProcessParty) -> None:
    value, made, items = make("Value", 0), make("Dict"), make("List")
    party.start(set_and_stay, value, made, items).result()
    party.kill()
    assert (value.value, made, items) == (1, {"a": 1}, [1])


def set_and_stay(value: Any, made: Any, items: Any) -> None:
    value.value = made["a"] = 1
    items.append(1)
    tell("set")
    signal.pause()


# -- what only those in a manager have -------------------------------------------------------------


def test_they_travel_and_keep_their_identity_and_their_lock(
    make: Callable[..., Any], processes: list[ProcessParty]
) -> None:
    for each in (make("Value", 1), make("Dict", a=1), make("List", [1])):
        assert pickle.loads(pickle.dumps(each)) is each
        assert processes[0].start(itself, each).result() is each
        assert pickle.loads(pickle.dumps(each.lock)) is each.lock
        q = make("Queue")
        q.put([each])
        assert q.get()[0] is each


def itself(made: Any) -> Any:
    with made.lock:
        return made


def test_they_hold_one_another(make: Callable[..., Any], processes: list[ProcessParty]) -> None:
    made, items, value = make("Dict"), make("List"), make("Value", None)
    made["items"] = items
    items.append(value)
    value.value = {"back": made}
    made[items.lock] = "a lock"  # a handle is a key by its pickle
    assert processes[0].start(follow, made).result() is made
    assert made[items.lock] == "a lock"


def follow(made: Any) -> Any:
    assert "a lock" in made.values()
    return made["items"][0].value["back"]


def test_what_is_in_them_is_a_copy(make: Callable[..., Any]) -> None:
    inner = [1]
    made, items, value = make("Dict", a=inner), make("List", [inner]), make("Value", inner)
    inner.append(2)
    made["a"].append(3)
    assert made["a"] == items[0] == value.value == [1]


def test_many_items_are_one_message(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, items, asked = make("Dict"), make("List"), []
    call = SharedContent._call

    def note(self: Any, op: str, *args: Any) -> Any:
        asked.append(op)
        return call(self, op, *args)

    monkeypatch.setattr(SharedContent, "_call", note)
    many = dict.fromkeys(range(100))
    for operation in (
        lambda: made.update(many),
        lambda: made.__ior__(many),
        made.copy,
        made.keys,
        lambda: sum(1 for _ in made.items()),
        lambda: made == many,
        made.clear,
        lambda: items.extend(range(100)),
        lambda: items.__setitem__(slice(10, 50), range(100)),
        lambda: items[10:50],
        lambda: sum(items),
        lambda: items.index(5),
        items.reverse,
    ):
        operation()
        assert len(asked) == 1, asked
        asked.clear()
    items.sort()
    assert asked == ["items", "reorder"]


class Bomb:
    """Goes off where it is unpickled."""

    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    raise SystemError("somebody has unpickled it")


def set_bombs(value: Any, made: Any, items: Any) -> None:
    bomb = Bomb()
    value.value = bomb
    made[bomb] = bomb
    made.update({1: bomb})
    items.extend([bomb, bomb])
    items.reverse()
    assert bomb in made


def test_the_manager_never_unpickles_anything(
    make: Callable[..., Any], processes: list[ProcessParty]
) -> None:
    value, made, items = make("Value", 0), make("Dict"), make("List")
    processes[0].start(set_bombs, value, made, items).result()
    assert (len(made), len(items)) == (2, 2)
    looks = (value.get, made.copy, made.keys, items.copy, items.pop, lambda: made[1])
    for look in looks:
        with pytest.raises(DeserializationError, match="somebody has unpickled it"):
            look()


def test_what_cannot_be_pickled_is_refused_and_changes_nothing(make: Callable[..., Any]) -> None:
    value, made, items = make("Value", 0), make("Dict", a=1), make("List", [1])
    wrong = (each for each in ())
    for attempt in (
        lambda: value.set(wrong),
        lambda: made.update(a=2, b=wrong),
        lambda: made.setdefault("b", wrong),
        lambda: made.update(lambda content: {"a": wrong}),
        lambda: made.__setitem__(wrong, 1),
        lambda: items.extend([2, wrong]),
        lambda: items.__setitem__(slice(None), [wrong]),
        lambda: make("Dict", a=wrong),
    ):
        with pytest.raises(SerializationError, match=r"shared .* cannot be pickled"):
            attempt()
    assert (value.value, made, items) == (0, {"a": 1}, [1])
    assert made.lock.acquire(False)
    made.lock.release()


def test_what_no_frame_has_room_for_is_taken_in_parts(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, processes: list[ProcessParty]
) -> None:
    monkeypatch.setattr(_hosted_values, "MAX_COPY", 10_000)
    made, items = make("Dict"), make("List")
    for number in range(20):
        made[number] = "y" * 1000
        items.append("z" * 1000)
    for look in (made.copy, made.items, items.copy, items.sort, lambda: items[1:15]):
        with pytest.raises(SerializationError, match="bytes, is too large to be copied at once"):
            look()
    assert len(made.keys()) == 20
    assert processes[0].start(items.pop).result() == items[3] == "z" * 1000
    assert items[:3] == ["z" * 1000] * 3


# -- the objects of the coordinator ----------------------------------------------------------------


def coordinator_with(kind: str) -> Callable[..., Any]:
    coordinator = Coordinator(VALUES)
    object_id = coordinator.create(kind)

    def ask(op: str, *args: Any, late: bool = False) -> Any:
        [(session, request_id, status, value)] = coordinator.request(
            "session", 1, op, object_id, args, 0.5 if late else None, late
        )
        assert (session, request_id) == ("session", 1)
        return value if status == "ok" else (status, value)

    return ask


def test_a_list_changes_only_in_the_version_that_was_looked_at() -> None:
    ask = coordinator_with("List")
    ask("extend", (b"a", b"b"))
    version, contents = ask("items")
    assert contents == [b"a", b"b"]
    assert ask("reorder", [1, 0], version) is True
    for op, *args in (("delete", 0), ("replace", (b"c",)), ("reorder", [1, 0])):
        assert ask(op, *args, version) is False
    version, contents = ask("items")
    assert contents == [b"b", b"a"]
    for order in ([0], [0, 0], [0, 2], [0, 1, 2]):
        assert ask("reorder", order, version)[0] == "value"
    assert ask("items") == (version, [b"b", b"a"])
    assert ask("delete", 0, version) is True
    assert ask("items")[1] == [b"a"]


def test_the_answer_holds_what_there_was() -> None:
    ask = coordinator_with("List")
    ask("extend", (b"a", b"b"))
    contents = ask("items")[1]
    ask("set", (None, None, None), (b"c",))
    assert contents == [b"a", b"b"]


@pytest.mark.parametrize("kind", VALUES)
def test_what_makes_no_sense_changes_nothing(kind: str) -> None:
    ask = coordinator_with(kind)
    assert ask("no such operation")[0] == "type"
    assert ask("get", 1, 2, 3)[0] == "type"
    if kind == "Dict":
        ask("set", ("a",), None, b"1")
        assert ask("get", ([],))[0] == "type"
        assert ask("set_many", (("a",), ("b",)), (None,), (b"2",))[0] == "value"
        assert ask("items") == [(("a",), b"1")]
    if kind == "List":
        assert ask("insert", 2**70, b"1")[0] == "index"
        assert ask("pop", 0) == ("index", "pop from empty list")
        assert ask("size") == 0


@pytest.mark.parametrize("kind", VALUES)
def test_what_comes_too_late_is_not_done(kind: str) -> None:
    ask = coordinator_with(kind)
    args = {"Value": ("set", b"1"), "List": ("append", b"1"), "Dict": ("set", ("a",), None, b"1")}
    assert ask(*args[kind], late=True) == ("timeout", None)
    assert ask("get" if kind == "Value" else "size") in (b"", 0)


def test_the_key_that_came_first_stays() -> None:
    ask = coordinator_with("Dict")
    ask("set", (1,), b"the first", b"1")
    ask("set", (True,), None, b"2")
    ask("set_many", ((1.0,), (2,)), (None, None), (b"3", b"4"))
    assert ask("items") == [(b"the first", b"3"), ((2,), b"4")]
    ask("replace", ((2,), (2.0,)), (b"two", None), (b"5", b"6"))
    assert ask("items") == [(b"two", b"6")]
    assert ask("setdefault", (2,), None, b"7") == b"6"
    assert ask("setdefault", (3,), None, b"7") is None
    assert ask("popitem") == ((3,), b"7")
