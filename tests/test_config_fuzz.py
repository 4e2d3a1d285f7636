"""Whatever is written somewhere, it is a setting or one readable error."""

import datetime
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from settings_files import write

from unirun._config import configure, load, reset
from unirun._errors import ConfigError
from unirun._settings import KEYS, OWN_OPTIONS, Key, parse, parse_option
from unirun._sources import from_environment, from_file

pytestmark = pytest.mark.usefixtures("here")

UNITS = ["", "s", "ms", " min", "h", "kB", "KiB", " GiB", "G", "none", "all", "inf", "nan", "e9"]
TEXTS = st.one_of(
    st.text(max_size=12),
    st.builds("{}{}".format, st.integers() | st.floats(), st.sampled_from(UNITS)),
    st.lists(st.sampled_from(["cpu", "killable", "json", "1", "64MiB", "a=b", ""])).map(",".join),
)
ATOMS = st.one_of(
    TEXTS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**400),
    st.floats(),
    st.binary(max_size=4),
    st.just(datetime.time(0, 30)),
    st.just(datetime.date(1979, 5, 27)),
    st.just(3j),
    st.just(object()),
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(ATOMS, inner, max_size=3),
    ),
    max_leaves=5,
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def is_readable(error: ConfigError, place: str) -> None:
    text = str(error)
    assert text.startswith(place)
    assert len(text) < 1500
    assert "\n" not in text
    assert text.isprintable()


@QUICK
@given(st.sampled_from(list(KEYS.values())), VALUES)
@example(KEYS["grace"], 10**5000)
@example(KEYS["memory"], float("inf"))
@example(KEYS["resources"], {"a": float("nan")})
def test_a_value_has_one_normal_form_or_is_refused(key: Key, value: Any) -> None:
    try:
        parsed = parse(key, value, "here")
    except ConfigError as exc:
        is_readable(exc, "here: ")
    else:
        assert parse(key, parsed, "here") == parsed
        hash(str(parsed))


@QUICK
@given(st.sampled_from(sorted(OWN_OPTIONS)), st.sampled_from(["copy", "window", "x"]), VALUES)
def test_so_has_an_option_of_a_backend(backend: str, option: str, value: Any) -> None:
    try:
        parsed = parse_option(backend, option, value, "here")
    except ConfigError as exc:
        is_readable(exc, "here: ")
    else:
        assert parse_option(backend, option, parsed, "here") == parsed


@QUICK
@given(st.dictionaries(st.sampled_from([*KEYS, "grase", "backend"]), VALUES, max_size=2))
@example({"backend": {"process": {3: 4}}})
@example({"backend": {3: {}}})
@example({"backend": {"": {}}})
@example({"backend": {"a\nb": 3}})
@example({"backend": {"process": {"a\nb": 3}}})
def test_configure_takes_it_or_says_why_not(keys: dict[str, Any]) -> None:
    reset()
    try:
        configure(**keys)
    except ConfigError as exc:
        is_readable(exc, "configure(): ")
    else:
        assert load().resolve().explain()


@QUICK
@given(st.dictionaries(st.sampled_from([f"UNIRUN_{key.upper()}" for key in KEYS]), TEXTS))
def test_the_environment_is_taken_or_says_why_not(variables: dict[str, str]) -> None:
    try:
        section = from_environment(variables)
    except ConfigError as exc:
        is_readable(exc, "UNIRUN_")
    else:
        for key in section.values:
            assert section.where(key) == f"UNIRUN_{key.upper()}"


NAMES = st.one_of(
    st.sampled_from([*KEYS, "task", "profile", "backend", "process", "arrays", "unirun", "tool"]),
    st.sampled_from(['"a:*"', "'*'", '"\\"', "x"]),
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(".".join)
WORDS = st.sampled_from(
    ["1", "-1", "'a'", '"5s"', "true", "[", "]", "{ a = 1 }", "[1, 'b']", '"""', "'''", "07:32:00"]
)
LINES = st.one_of(
    st.builds("{} = {}".format, PATHS, WORDS),
    PATHS.map("[{}]".format),
    PATHS.map("[[{}]]".format),
    WORDS,
    st.text(string.printable, max_size=8),
)


@QUICK
@given(st.lists(LINES, max_size=6))
@example(["task.'*'.routes.cpu = 3"])
@example(["backend.process = 3"])
@example(["[[profile]]"])
@example(["[[task.x]]"])
def test_a_file_is_taken_or_says_why_not(here: Path, lines: list[str]) -> None:
    path = write(here / "some.toml", *lines)
    try:
        found = from_file(str(path))
    except ConfigError as exc:
        text = str(exc)
        assert text.startswith(("some.toml [", "some.toml (", f"{path}: malformed TOML: "))
        assert "\n" not in text
    else:
        assert found is not None
