"""Objects as bytes: what travels by name, what by value, and who is blamed if it cannot."""

import functools
import operator
import pickle
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unirun import SerializationError
from unirun._payload import blame, dumps, importable, loads

PATIENCE = 20


class Holder:
    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)

    def method(self) -> None: ...


class Refuses:
    """Raises something when it is pickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def python(tmp_path: Path, source: str) -> str:
    """What a program prints."""
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, file],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def only_here() -> Iterator[types.ModuleType]:
    """A module that no other process could import."""
    module = types.ModuleType("exists_only_here")
    code = "class Thing:\n    x = 3\ndef make():\n    return Thing()\n"
    exec(code, module.__dict__)
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


# -- what is sent -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [None, 3, "text", b"x" * 100_000, [1, {"a": (2,)}], operator.add, Holder, range(3), ...],
)
def test_what_pickle_can_do_comes_back_as_it_was(value: object) -> None:
    assert loads(dumps(value)) == value


def test_it_is_a_snapshot() -> None:
    value = [1]
    data = dumps(value)
    value.append(2)
    assert loads(data) == [1]


def test_functions_without_a_name_travel_by_value() -> None:
    base = 40
    assert loads(dumps(lambda x: x + base))(2) == 42
    assert loads(dumps(functools.partial(lambda a, b: a - b, 44)))(2) == 42


def test_cloudpickle_is_imported_only_when_it_is_needed(tmp_path: Path) -> None:
    source = """
    import sys
    from unirun._payload import dumps
    import json
    dumps((json.dumps, [1, 2, {"a": b"x"}], {"k": range(3)}))
    assert "cloudpickle" not in sys.modules
    dumps(lambda: 1)
    assert "cloudpickle" in sys.modules
    """
    python(tmp_path, source)


def test_what_lives_in_main_needs_no_main_elsewhere(tmp_path: Path) -> None:
    make = """
    from unirun._payload import dumps
    class Base: pass
    class Thing(Base):
        def __init__(self): self.x = SCALE
    SCALE = 3
    def f(): return Thing()
    open("data", "wb").write(dumps((f, Thing(), [Thing])))
    """
    use = """
    from unirun._payload import loads
    f, thing, (cls,) = loads(open("data", "rb").read())
    assert (f().x, thing.x, type(thing) is cls, type(f()) is cls) == (3, 3, True, True)
    """
    python(tmp_path, make)
    python(tmp_path, use)


def test_bytes_that_only_look_like_main_do_no_harm() -> None:
    value = {"__main__": [b"__main__" * 10, Holder]}
    assert loads(dumps(value)) == value


def test_what_lives_in_a_module_that_exists_only_here_travels_by_value(
    only_here: types.ModuleType,
) -> None:
    assert not importable(only_here.__name__)
    data = dumps((only_here.make, only_here.Thing()))
    del sys.modules[only_here.__name__]
    try:
        make, thing = loads(data)
    finally:
        sys.modules[only_here.__name__] = only_here
    assert make().x == thing.x == 3


@pytest.mark.parametrize(
    ("name", "can"),
    [
        ("json", True),
        ("json.tool", True),
        ("sys", True),
        ("os.path", True),
        ("__main__", False),
        ("no_such_module", False),
        ("json.no_such_module", False),
        ("no_such_package.module", False),
        (__name__, True),
    ],
)
def test_whether_another_process_could_import_a_module(name: str, can: bool) -> None:
    assert importable(name) is can


def test_modules_may_be_added_while_others_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[BaseException] = []
    done = threading.Event()

    def pickle_on() -> None:
        try:
            while not done.is_set():
                dumps([1, 2, 3])
        except BaseException as exc:
            errors.append(exc)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=pickle_on) for _ in range(2)]
    names: list[bytes] = []
    monkeypatch.setattr("unirun._payload._by_value", names)
    try:
        for thread in threads:
            thread.start()
        for number in range(20_000):
            names.append(b"no_such_module_%d" % number)
            if number % 100 == 99:
                names.clear()
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
        sys.setswitchinterval(interval)
    assert errors == []


# -- what cannot be sent ------------------------------------------------------------------------


def lock() -> Any:
    return threading.Lock()


def closure() -> Callable[[], object]:
    held = lock()
    return lambda: held


def cyclic() -> list[Any]:
    cycle: list[Any] = [1, lock()]
    cycle.insert(0, cycle)
    return cycle


CULPRITS = {
    "itself": (lock, ""),
    "an element": (lambda: [1, lock()], "at [1]: "),
    "a value": (lambda: {"a": 1, "key": lock()}, "at ['key']: "),
    "deeper": (lambda: {"a": [0, (1, lock())]}, "at ['a'][1][1]: "),
    "an attribute": (lambda: Holder(x=1, handle=lock()), "at .handle: "),
    "an attribute of an element": (lambda: [Holder(handle=lock())], "at [0].handle: "),
    "a captured variable": (closure, "at .<closure held>: "),
    "the object of a method": (lambda: Holder(handle=lock()).method, "at .__self__.handle: "),
    "an element of a set": (lambda: frozenset([lock()]), "at [0]: "),
    "in a cycle": (cyclic, "at [2]: "),
}


@pytest.mark.parametrize("name", CULPRITS)
def test_the_error_names_the_path_to_the_culprit(name: str) -> None:
    make, path = CULPRITS[name]
    with pytest.raises(SerializationError) as caught:
        dumps(make(), "the thing")
    text = str(caught.value)
    assert text.startswith(f"the thing cannot be pickled: {path}TypeError: cannot pickle")
    assert "lock" in text
    assert caught.value.__cause__ is not None


def test_the_error_is_what_people_catch() -> None:
    for kind in (TypeError, pickle.PicklingError):
        with pytest.raises(kind):
            dumps(lock())


def test_members_of_a_call_have_names() -> None:
    parts = ("module.f", "args", "kwargs")
    with pytest.raises(SerializationError, match=r"the call cannot .*: at args\[0\]: TypeError"):
        dumps((len, (lock(),), {}), "the call", parts)
    with pytest.raises(SerializationError, match=r"at kwargs\['k'\]\[1\]: TypeError"):
        dumps((len, (), {"k": [0, lock()]}), "the call", parts)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, GeneratorExit])
def test_whatever_a_reduce_raises_is_an_error_of_that_object(kind: type[BaseException]) -> None:
    with pytest.raises(SerializationError, match=rf"at \[0\]: {kind.__name__}: not me"):
        dumps([Refuses(kind("not me"))])


def test_ctrl_c_is_not_an_error_of_the_object() -> None:
    with pytest.raises(KeyboardInterrupt):
        dumps([Refuses(KeyboardInterrupt())])


def test_an_object_that_resists_being_looked_at_is_blamed_all_the_same() -> None:
    class Wordless(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    class Prickly(Refuses):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"no {name}")

    for obj in (Refuses(Wordless()), Prickly(ValueError("not me")), [Prickly(Wordless())]):
        with pytest.raises(SerializationError, match="cannot be pickled"):
            dumps(obj)


def test_structures_too_deep_for_pickle_are_an_error_and_no_crash() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    try:
        with pytest.raises(SerializationError, match="cannot be pickled"):
            dumps(deep)
    finally:
        while deep:  # taking it apart in one go would be as deep
            deep = deep.pop()


def test_blame_stops_somewhere() -> None:
    nested: Any = lock()
    for _ in range(50):
        nested = [nested]
    assert blame(nested, TypeError("x")).count("[0]") == 20
    crowd = [0] * 5000 + [lock()]
    assert "lock" in blame(crowd, TypeError("cannot pickle '_thread.lock' object"))
