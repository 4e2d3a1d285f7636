"""What is known about functions: kept within bounds, saved whole, and read with one clear error."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import unirun
from unirun import ConfigError, _profile


def square(n: int) -> int:
    return n * n


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    kept = _profile.known()
    unirun.profile.clear()
    yield
    unirun.profile.clear()
    for figures in kept:
        _profile._known[figures.key] = figures


def learn_about(fn: Callable[..., Any], **values: Any) -> _profile.Figures:
    figures = _profile.find(_profile.key_of(fn))
    for name, value in ({"calls": 5, "seconds": 0.25, "cpu_seconds": 0.2} | values).items():
        setattr(figures, name, value)
    return figures


def saved(path: Path) -> dict[str, Any]:
    learn_about(square, gil_share=0.9, calls_on="process", maps_on="thread", reason="it computes")
    assert unirun.profile.save(path) == 1
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_what_is_saved_is_known_again_when_it_is_loaded(tmp_path: Path) -> None:
    saved(tmp_path / "profile.json")
    before = unirun.profile.functions()
    unirun.profile.clear()
    assert unirun.profile.functions() == {}
    assert unirun.profile.load(tmp_path / "profile.json") == 1
    assert unirun.profile.functions() == before
    assert _profile.find(_profile.key_of(square)).loaded


def test_functions_that_were_never_measured_are_not_saved(tmp_path: Path) -> None:
    _profile.find("a:b")
    assert unirun.profile.save(tmp_path / "profile.json") == 0


def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    saved(path)
    before = path.read_bytes()
    learn_about(square, reason=object())  # which JSON has no word for
    with pytest.raises(TypeError):
        unirun.profile.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_no_more_than_so_many_functions_are_kept_and_those_used_last() -> None:
    for n in range(_profile.MOST):
        _profile.find(f"module:f{n}")
    _profile.find("module:f0")  # is used once more
    _profile.find("module:one more")
    keys = {figures.key for figures in _profile.known()}
    assert len(keys) == _profile.MOST
    assert "module:f0" in keys
    assert "module:f1" not in keys


def test_loading_keeps_to_the_bound_too(tmp_path: Path) -> None:
    saved(tmp_path / "profile.json")
    for n in range(_profile.MOST):
        _profile.find(f"module:f{n}")
    unirun.profile.load(tmp_path / "profile.json")
    assert len(_profile.known()) == _profile.MOST
    assert _profile.known()[-1].key == _profile.key_of(square)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda file: [], "it has no 'unirun profile'"),
        (lambda file: file | {"unirun profile": 99}, "of version 99, and this unirun reads"),
        (lambda file: file | {"functions": []}, "'functions' is no table"),
        (lambda file: file | {"functions": {"a:b": 1}}, "what it says of 'a:b' is no table"),
        (
            lambda file: file | {"functions": {f"a:{n}": {} for n in range(501)}},
            "it has 501 functions, and 500 are the most",
        ),
    ],
)
def test_a_file_that_is_no_profile_is_refused(
    tmp_path: Path, change: Callable[[Any], Any], says: str
) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(change(saved(path))))
    unirun.profile.clear()
    with pytest.raises(ConfigError, match=says) as caught:
        unirun.profile.load(path)
    assert str(caught.value).startswith(f"{path} is no profile that can be used: ")
    assert unirun.profile.functions() == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("calls", -1),
        ("calls", 1.5),
        ("calls", True),
        ("seconds", "1"),
        ("seconds", None),
        ("cpu_seconds", float("nan")),
        ("bytes_in", 1e300),
        ("gil_share", 1.5),
        ("calls_on", "moon"),
        ("maps_on", None),
        ("reason", 3),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_nothing_taken_over(
    tmp_path: Path, name: str, value: object
) -> None:
    path = tmp_path / "profile.json"
    file = saved(path)
    [key] = file["functions"]
    file["functions"]["first:one"] = dict(file["functions"][key])
    file["functions"][key][name] = value
    path.write_text(json.dumps(file))
    unirun.profile.clear()
    with pytest.raises(ConfigError, match=f"{name} of ") as caught:
        unirun.profile.load(path)
    assert key in str(caught.value)
    assert unirun.profile.functions() == {}


def test_a_word_that_is_not_known_or_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    file = saved(path)
    [values] = file["functions"].values()
    values["colour"] = 1
    path.write_text(json.dumps(file))
    with pytest.raises(ConfigError, match="'colour' of"):
        unirun.profile.load(path)
    del values["colour"], values["objects"]
    path.write_text(json.dumps(file))
    with pytest.raises(ConfigError, match=r"objects of .* is missing"):
        unirun.profile.load(path)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused_as_such(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="it is no JSON"):
        unirun.profile.load(path)


def test_a_file_of_any_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(b" " * (_profile.LARGEST + 1))
    with pytest.raises(ConfigError, match="more than 4 MiB"):
        unirun.profile.load(path)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unirun.profile.load(tmp_path / "nowhere.json")


# -- keys -----------------------------------------------------------------------------------------

SOURCE = "def f(n):\n    return [x for x in {'a', 'b', n} if x in {1, 2, 'c'}]\n"
PRINT_KEY = f"""
from unirun._profile import key_of
space = {{"__name__": "somewhere"}}
exec({SOURCE!r}, space)
print(key_of(space["f"]))
"""


def key_of(source: str) -> str:
    space: dict[str, Any] = {"__name__": "somewhere"}
    exec(source, space)
    return _profile.key_of(space["f"])


def test_the_key_of_a_function_is_the_same_in_every_process() -> None:
    for seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", PRINT_KEY],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert told.stdout.strip() == key_of(SOURCE)


def test_a_function_whose_code_changed_is_another_one_and_one_that_moved_is_not() -> None:
    assert key_of("\n\n# a comment\n" + SOURCE) == key_of(SOURCE)
    assert key_of(SOURCE.replace("'c'", "'d'")) != key_of(SOURCE)
    assert key_of(SOURCE.replace("[x for", "[-x for")) != key_of(SOURCE)
    assert key_of(SOURCE).startswith("somewhere:f#")


def test_a_task_goes_by_the_key_of_its_function_and_a_builtin_by_its_name() -> None:
    assert _profile.key_of(unirun.task(square)) == _profile.key_of(square)
    assert _profile.key_of(sorted) == "builtins:sorted"


# -- for people -----------------------------------------------------------------------------------


def test_figures_are_empty_until_something_is_known() -> None:
    assert _profile.figures(square) == ()
    learn_about(square, gil_share=0.9, bytes_in=10.4, calls_on="process", maps_on="thread")
    assert dict(_profile.figures(square)) == {
        "calls measured": 5,
        "seconds": 0.25,
        "cpu share": 0.8,
        "gil share": 0.9,
        "bytes in": 10,
        "bytes out": 0,
        "calls on": "process",
        "maps on": "thread",
    }
