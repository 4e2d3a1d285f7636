"""Values, dicts and lists behave as a variable, a dict and a list do, wherever they live.

One body of test for every mapping, see parties.py: threads use subclasses of dict and list, all
others handles on what lives in a manager.
"""

import enum
import operator
from collections.abc import Callable, MutableMapping, MutableSequence
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parties import Mapping


class Number(enum.IntEnum):
    ONE = 1
    SEVEN = 7


class Suit(enum.Enum):
    HEARTS = "hearts"


class Point(NamedTuple):
    x: int
    y: int


# -- programs of random operations, against the plain original -------------------------------------

OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("contains", "delitem", "eq", "getitem", "iadd")},
    **{name: getattr(operator, name) for name in ("imul", "ior", "setitem", "lt", "ge", "ne")},
    **{name: getattr(operator, name) for name in ("add", "mul", "or_")},
    **{each.__name__: each for each in (len, list, reversed, str, bool, iter)},
}
SAME_TEXT = (KeyError, IndexError, ValueError)


def outcomes(subject: Any, program: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
    """What each operation of the program returns or raises; and what there is in the end."""
    found = []
    for name, args in program:
        function = OPERATIONS.get(name) or getattr(type(subject), name)
        try:
            result = function(subject, *args)
        except Exception as exc:
            text = str(exc) if isinstance(exc, SAME_TEXT) else ""
            base = next(each for each in type(exc).__mro__ if each.__module__ == "builtins")
            found.append((name, args, base, text))
            continue
        is_many = hasattr(result, "__next__") or type(result).__name__.startswith("dict_")
        found.append((name, args, None, told(subject, list(result) if is_many else result)))
    return [*found, told(subject, subject.copy())]


def told(subject: Any, result: Any) -> Any:
    """A result with the types in it: 1 == True == 1.0."""
    if result is subject:
        return "itself"
    if isinstance(result, (list, tuple)):
        return [told(subject, each) for each in result]
    if isinstance(result, dict):
        return [(told(subject, key), told(subject, value)) for key, value in result.items()]
    return type(result).__name__, result


def in_order_of_time(
    mapping: Mapping, kind: str, original: Any, program: list[tuple[str, tuple[Any, ...]]]
) -> None:
    made = mapping.make(kind, original)
    assert mapping.call(outcomes, made, program) == outcomes(original, program)


RANDOM = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

KEYS = st.sampled_from(
    [
        *(0, 1, 7, True, 1.0, -0.0, 2**70, "a", "1", "\ud800", b"a", b"", None, 1j),
        *((), (1, "a"), (True, "a"), Point(1, 2), (1, 2), (Number.ONE, Suit.HEARTS)),
        *(frozenset({1, 2}), frozenset({True, 2}), Number.ONE, Number.SEVEN, Suit.HEARTS),
        *(date(2026, 1, 1), (date(2026, 1, 1), "a"), int, len),
    ]
)
VALUES = st.one_of(st.integers(), st.none(), st.lists(st.text(max_size=2), max_size=2))
DICTS = st.dictionaries(KEYS, VALUES, max_size=6)
DICT_OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["getitem", "delitem", "contains", "pop", "get"]), st.tuples(KEYS)),
    st.tuples(st.sampled_from(["setitem", "setdefault", "pop", "get"]), st.tuples(KEYS, VALUES)),
    st.tuples(st.sampled_from(["update", "ior", "or_", "eq", "ne"]), st.tuples(DICTS)),
    st.tuples(
        st.sampled_from(["update", "ior"]), st.tuples(st.lists(st.tuples(KEYS, VALUES), max_size=3))
    ),
    st.tuples(
        st.sampled_from(
            [
                *("popitem", "clear", "copy", "len", "list", "reversed", "str", "bool", "iter"),
                *("keys", "values", "items", "setdefault", "update"),
            ]
        ),
        st.just(()),
    ),
    st.tuples(
        # Not "pop": that of an empty dict does not look at its key.
        st.sampled_from(["getitem", "contains", "get", "delitem", "update", "ior"]),
        st.tuples(st.sampled_from([[], {}, (1, []), 5, [1], ["abc"]])),
    ),
    st.tuples(st.sampled_from(["setitem", "setdefault"]), st.just(([], 1))),
)


@RANDOM
@given(start=DICTS, program=st.lists(DICT_OPERATIONS, max_size=15))
def test_a_dict_does_what_a_dict_does(
    mapping: Mapping, start: dict[Any, Any], program: list[Any]
) -> None:
    in_order_of_time(mapping, "Dict", start, program)


# All of them can be compared, and some are equal, which shows whether a sort is stable.  (What is
# left of a list whose sort fails, nobody promises.)
ITEMS = st.sampled_from([0, 1, True, 1.0, 2, 3.5, Number.ONE, -1, False])
SLICES = st.builds(
    slice,
    *[st.one_of(st.none(), st.integers(-4, 4), st.just(2**70))] * 2,
    st.one_of(st.none(), st.integers(-3, 3)),
)
INDEXES = st.one_of(
    st.integers(-6, 6), st.sampled_from([True, Number.ONE, 2**70, -(2**70)]), SLICES
)
WRONG_INDEXES = st.sampled_from(["a", None, 1.5, slice("a", None)])
LISTS = st.lists(ITEMS, max_size=6)
LIST_OPERATIONS = st.one_of(
    st.tuples(
        st.sampled_from(["getitem", "delitem", "pop"]),
        st.tuples(st.one_of(INDEXES, INDEXES, WRONG_INDEXES)),
    ),
    st.tuples(
        st.sampled_from(["setitem", "insert"]),
        st.tuples(st.one_of(INDEXES, INDEXES, WRONG_INDEXES), ITEMS),
    ),
    st.tuples(st.just("setitem"), st.tuples(SLICES, st.one_of(LISTS, LISTS.map(tuple)))),
    st.tuples(
        st.sampled_from(["append", "remove", "index", "count", "contains"]), st.tuples(ITEMS)
    ),
    st.tuples(st.just("index"), st.tuples(ITEMS, st.integers(-3, 3))),
    st.tuples(st.just("index"), st.tuples(ITEMS, st.integers(-3, 3), st.integers(-3, 3))),
    st.tuples(st.sampled_from(["extend", "iadd", "add", "eq", "ne", "lt", "ge"]), st.tuples(LISTS)),
    st.tuples(st.sampled_from(["extend", "iadd"]), st.tuples(st.sampled_from([5, b"ab", (1, 2)]))),
    st.tuples(
        st.sampled_from(
            [
                *("pop", "clear", "reverse", "sort", "copy", "len", "list", "reversed", "str"),
                *("bool", "iter"),
            ]
        ),
        st.just(()),
    ),
    st.tuples(st.sampled_from(["imul", "mul"]), st.tuples(st.sampled_from([-1, 0, 1, 2, "a"]))),
)


@RANDOM
@given(start=LISTS, program=st.lists(LIST_OPERATIONS, max_size=12))
def test_a_list_does_what_a_list_does(
    mapping: Mapping, start: list[Any], program: list[Any]
) -> None:
    in_order_of_time(mapping, "List", start, program)


# -- a value --------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [(5,), ("i", 5), (int, 5), ("d", 5), (object, 5)])
def test_a_value_is_made_of_a_value_and_perhaps_its_type(
    mapping: Mapping, args: tuple[Any, ...]
) -> None:
    value = mapping.make("Value", *args)
    assert value.value == value.get() == 5
    mapping.call(setattr, value, "value", "six")
    assert value.value == mapping.call(value.get) == "six"
    mapping.call(value.set, [7])
    assert value.value == [7]


def test_a_single_type_code_is_a_value(mapping: Mapping) -> None:
    assert mapping.make("Value", "i").value == "i"
    assert mapping.make("Value", None).value is None


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        ((), TypeError, "of 0 arguments; pass a value"),
        (("i", 1, 2), TypeError, "of 3 arguments"),
        (("x", 1), ValueError, "bad type code 'x'; it is one of c, u, b"),
        (("", 1), ValueError, "bad type code ''"),
        ((5, 1), TypeError, "5 is no type code"),
    ],
)
def test_a_value_refuses_what_it_cannot_be_made_of(
    mapping: Mapping, args: tuple[Any, ...], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        mapping.make("Value", *args)


def steps(value: Any, program: list[tuple[str, Any]]) -> list[Any]:
    """What a value is after each step of the program."""
    found = []
    for name, arg in program:
        if name == "update":
            assert value.update(lambda items, more=arg: [*items, *more]) == value.value
        elif name == "set":
            value.set(arg)
        else:
            value.value = arg
        found.append((value.get(), value.value))
    return found


STEPS = st.lists(
    st.tuples(st.sampled_from(["update", "set", "="]), st.lists(st.integers(), max_size=3)),
    max_size=10,
)


@RANDOM
@given(start=st.lists(st.integers(), max_size=3), program=STEPS)
def test_a_value_is_what_it_was_set_to_last(
    mapping: Mapping, start: list[int], program: list[tuple[str, list[int]]]
) -> None:
    expected = []
    now = start
    for name, arg in program:
        now = now + arg if name == "update" else arg
        expected.append((now, now))
    assert mapping.call(steps, mapping.make("Value", start), program) == expected


def test_update_returns_the_new_value(mapping: Mapping) -> None:
    value = mapping.make("Value", "i", 20)
    assert mapping.call(value.update, double) == 40
    assert value.update(lambda number: number + 2) == value.value == 42


def double(number: int) -> int:
    return number * 2


def test_the_lock_is_one_and_has_the_name_of_multiprocessing_too(mapping: Mapping) -> None:
    value = mapping.make("Value", 1)
    assert value.lock is value.get_lock()
    with value.get_lock(), value.lock:
        value.value += 1
    assert mapping.call(add_one_twice_locked, value) == 4
    for kind in ("Dict", "List"):
        made = mapping.make(kind)
        assert made.lock is made.lock
        assert made.lock.acquire(False)
        made.lock.release()


def add_one_twice_locked(value: Any) -> Any:
    with value.lock:
        value.value += 1
        return value.update(lambda number: number + 1)


# -- dicts and lists: what random programs do not say ---------------------------------------------


def test_they_are_made_as_their_originals_are(mapping: Mapping) -> None:
    assert mapping.make("Dict") == {}
    assert mapping.make("Dict", {"a": 1}, self=2, kind=3) == {"a": 1, "self": 2, "kind": 3}
    assert mapping.make("Dict", [("a", 1)], manager=2).copy() == {"a": 1, "manager": 2}
    assert mapping.make("List") == []
    assert mapping.make("List", "ab") == ["a", "b"]
    for kind, args in [("Dict", (1, 2)), ("Dict", (5,)), ("List", (5,)), ("List", ([], []))]:
        with pytest.raises(TypeError):
            mapping.make(kind, *args)
    with pytest.raises(TypeError):
        mapping.make("List", iterable=())


def test_they_are_mappings_and_sequences_without_a_hash(mapping: Mapping) -> None:
    made, items = mapping.make("Dict", a=1), mapping.make("List", [1])
    assert isinstance(made, MutableMapping)
    assert isinstance(items, MutableSequence)
    match made, items:
        case {"a": one}, [other]:
            assert one == other == 1
        case _:
            pytest.fail("neither a mapping nor a sequence to `match`")
    for each in (made, items):
        with pytest.raises(TypeError, match="unhashable"):
            hash(each)


def test_two_of_them_are_compared_and_joined(mapping: Mapping) -> None:
    one, two = mapping.make("Dict", a=1), mapping.make("Dict", a=1)
    assert one == two
    two["b"] = 2
    assert one != two
    assert one | two == {"a": 1, "b": 2}
    assert {"c": 3} | one == {"c": 3, "a": 1}
    one |= two
    one.update(two, c=3)
    assert one == {"a": 1, "b": 2, "c": 3}
    assert one != 5
    first, second = mapping.make("List", [1]), mapping.make("List", [1])
    assert first == second
    second.append(2)
    assert first < second <= second > first
    assert first + second == [1, 1, 2]
    assert 2 * second == [1, 2, 1, 2]
    first += second
    first.extend(first)
    first[:1] = second
    assert first == [1, 2, 1, 2, 1, 1, 2]
    with pytest.raises(TypeError):
        _ = first < 5
    with pytest.raises(TypeError):
        _ = first + 5


def test_a_plain_list_takes_a_shared_one_on_its_right(mapping: Mapping) -> None:
    assert [0] + mapping.make("List", [1]) == [0, 1]  # noqa: RUF005  # it is what is tested


def test_iteration_is_over_a_snapshot(mapping: Mapping) -> None:
    made = mapping.make("Dict", a=1, b=2)
    for look in (iter, reversed, type(made).keys, type(made).values, type(made).items):
        before = len(made)
        for each in look(made):
            made[len(made)] = each
        assert len(made) == 2 * before
    keys = made.keys()
    made.clear()
    assert {"a", "b"} <= keys
    items = mapping.make("List", [1, 2])
    for item in items:
        items.append(item)
    for item in reversed(items):
        items.append(item)
    assert items == [1, 2, 1, 2, 2, 1, 2, 1]


def test_sort_has_a_key_and_a_direction(mapping: Mapping) -> None:
    items = mapping.make("List", ["bb", "a", "cc", "d"])
    mapping.call(sort_by_length, items)
    assert items == ["bb", "cc", "a", "d"]  # those of one length as they were
    items.sort(reverse=True)
    assert items == ["d", "cc", "bb", "a"]
    with pytest.raises(TypeError):
        items.sort(len)
    items.append(5)
    with pytest.raises(TypeError, match="'<' not supported between instances"):
        items.sort()


def sort_by_length(items: Any) -> None:
    items.sort(key=len, reverse=True)


def test_update_takes_what_a_function_makes_of_the_content(mapping: Mapping) -> None:
    made = mapping.make("Dict", a=1, b=2)
    assert made.update(drop_a) == made == {"b": 2}
    assert mapping.call(made.update, swapped) == made.copy() == {2: "b"}
    assert made.update({"x": 1}) is None
    made.update(dict)
    assert made == {2: "b", "x": 1}
    items = mapping.make("List", [1, 2])
    assert items.update(list.reverse) == items == [2, 1]
    assert mapping.call(items.update, sorted) == items.copy() == [1, 2]
    items.update(lambda items: (each for each in (*items, 3)))
    assert items == [1, 2, 3]


def drop_a(content: dict[Any, Any]) -> None:
    assert type(content) is dict
    del content["a"]


def swapped(content: dict[Any, Any]) -> dict[Any, Any]:
    return {value: key for key, value in content.items()}


def test_change_makes_one_value_of_another(mapping: Mapping) -> None:
    made = mapping.make("Dict", a=1)
    assert mapping.call(made.change, "a", double) == 2
    with pytest.raises(KeyError, match=r"^'b'$"):
        made.change("b", double)
    assert made.change("b", double, 5) == 10
    assert made.change("a", lambda number: [number], 5) == [2]
    assert made == {"a": [2], "b": 10}


def spoil(content: Any) -> None:
    if isinstance(content, (dict, list)):
        content.clear()
    raise LookupError("spoilt")


@pytest.mark.parametrize(("kind", "start"), [("Value", 5), ("Dict", {"a": 1}), ("List", [1, 2])])
def test_an_update_that_fails_changes_nothing(mapping: Mapping, kind: str, start: Any) -> None:
    made = mapping.make(kind, start)
    changes = [made.update] if kind != "Dict" else [made.update, lambda fn: made.change("a", fn)]
    for change in changes:
        with pytest.raises(LookupError, match="spoilt"):
            change(spoil)
    assert content_of(made) == start
    with pytest.raises(LookupError, match="spoilt"):
        mapping.call(update_with_spoil, made)
    assert content_of(made) == start
    assert mapping.call(take_and_leave, made.lock)


def update_with_spoil(made: Any) -> None:
    made.update(spoil)


def content_of(made: Any) -> Any:
    return made.value if hasattr(made, "value") else made.copy()


def take_and_leave(lock: Any) -> bool:
    taken: bool = lock.acquire(timeout=5)
    lock.release()
    return taken


def test_keys_are_found_as_in_a_dict_or_by_their_pickle(mapping: Mapping) -> None:
    made = mapping.make("Dict")
    mapping.call(set_all, made, ["a", 1, Point(1, 2), Suit.HEARTS, date(2026, 1, 1), float("nan")])
    name = "".join(["ha", "sh"])  # equal strings that are not the same object
    mapping.call(set_all, made, [Pair(name, name)])
    assert made["".join(["", "a"])]
    assert made[True]
    assert made[1.0]
    assert made[Number.ONE]
    assert made[(1, 2)]
    assert made[Suit.HEARTS]
    assert made[date(2026, 1, 1)]
    assert made[Pair("".join(["h", "ash"]), "".join(["has", "h"]))]
    assert [type(key).__name__ for key in made][:5] == ["str", "int", "Point", "Suit", "date"]
    if mapping.shared:
        made[Decimal(1)], made[Decimal("1.0")] = 1, 2
        assert made[Decimal(1)] == 1


class Pair:
    """A key whose equality is its own."""

    def __init__(self, one: str, other: str) -> None:
        self.one, self.other = one, other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pair) and (self.one, self.other) == (other.one, other.other)

    def __hash__(self) -> int:
        return hash((self.one, self.other))


def set_all(made: MutableMapping[Any, Any], keys: list[Any]) -> None:
    for key in keys:
        made[key] = True
