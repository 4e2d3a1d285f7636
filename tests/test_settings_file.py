"""The settings that come from outside: which file is read, and what a wrong line gets to hear."""

from pathlib import Path

import pytest
from settings_files import pyproject, why, write

from unirun._config import load
from unirun._errors import ConfigError
from unirun._settings import KEYS, misplaced
from unirun._sources import LARGEST

KINDS = "kinds: auto, cpu, io, native, async, isolated"
CODE_ONLY = "deadline is a moment of this process and can be set in code only; use timeout instead"
NO_PROFILE = "UNIRUN_PROFILE: unknown profile 'test'; profiles: none (no settings file was found)"
TIMEOUT = 30.0

pytestmark = pytest.mark.usefixtures("here")


# -- bad input: environment ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        (
            "UNIRUN_MAX_WORKRS",
            "3",
            "unknown environment variable 'UNIRUN_MAX_WORKRS'; did you mean 'UNIRUN_MAX_WORKERS'?",
        ),
        (
            "UNIRUN_Max_Workers",
            "3",
            "unknown environment variable 'UNIRUN_Max_Workers'; did you mean 'UNIRUN_MAX_WORKERS'?",
        ),
        (
            "UNIRUN_MAX_WORKERS",
            "four",
            (
                "UNIRUN_MAX_WORKERS: cannot use 'four' as max_workers; max_workers must be greater"
                " than 0: a whole number, 'all' or 'half', or none"
            ),
        ),
        ("UNIRUN_KIND", "cpuu", f"UNIRUN_KIND: unknown kind 'cpuu'; did you mean 'cpu'? {KINDS}"),
        ("UNIRUN_DEADLINE", "3", f"UNIRUN_DEADLINE: {CODE_ONLY}"),
        (
            "UNIRUN_X",
            "1",
            "unknown environment variable 'UNIRUN_X'; environment variables: "
            + ", ".join(f"UNIRUN_{key.upper()}" for key in KEYS if key != "deadline")
            + ", UNIRUN_CONFIG, UNIRUN_PROFILE, UNIRUN_WITHOUT",
        ),
        ("UNIRUN_PROFILE", "test", NO_PROFILE),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert why(ConfigError, load) == says


@pytest.mark.parametrize("name", ["TRACE", "MONITOR", "CONFIG", "PROFILE"])
def test_variables_of_ours_that_are_no_settings_are_left_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"UNIRUN_{name}", "" if name in ("CONFIG", "PROFILE") else "1")
    load()


def test_an_empty_variable_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIRUN_BACKEND", "")
    monkeypatch.setenv("UNIRUN_GRACE", " ")
    resolved = load().resolve()
    assert resolved.source("backend") == resolved.source("grace") == "default"


# -- bad input: files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "place", "says"),
    [
        (
            ["", "max_workrs = 3"],
            "[tool.unirun] (line 3",
            "unknown key 'max_workrs'; did you mean 'max_workers'?",
        ),
        (
            ["grace = '3 parsecs'"],
            "[tool.unirun] (line 2",
            f"cannot use '3 parsecs' as grace; grace must be {KEYS['grace'].form.allowed}",
        ),
        (
            ["", "[tool.unirun.routes]", "# which", "cpuu = 'process'"],
            "[tool.unirun.routes] (line 3",
            f"unknown kind 'cpuu'; did you mean 'cpu'? {KINDS}",
        ),
        (
            ['[tool.unirun.task."a:*"] # ours', "timeot = 3"],
            '[tool.unirun.task."a:*"] (line 3',
            "unknown key 'timeot'; did you mean 'timeout'?",
        ),
        (
            ['[tool.unirun.task."a:*"]', "grace = 3"],
            '[tool.unirun.task."a:*"] (line 3',
            misplaced(KEYS["grace"]),
        ),
        (
            ["[tool.unirun.backend.process]", "preload = 3"],
            "[tool.unirun.backend.process] (line 3",
            f"cannot use 3 as preload; preload must be {KEYS['preload'].form.allowed}",
        ),
        (["deadline = 3"], "[tool.unirun] (line 2", CODE_ONLY),
        (
            ["task = 3"],
            "[tool.unirun] (line 2",
            "cannot use 3 as task; task must be a table of keys",
        ),
        (
            ["profile.ci = 3"],
            "[tool.unirun] (line 2",
            "cannot use 3 as profile.ci; profile.ci must be a table of keys",
        ),
        (
            ["[tool.unirun.profile.ci]", "kind = 'cpuu'"],
            "[tool.unirun.profile.ci] (line 3",
            f"unknown kind 'cpuu'; did you mean 'cpu'? {KINDS}",
        ),
    ],
)
def test_a_mistake_in_a_file_names_file_line_and_key(
    lines: list[str], place: str, says: str, here: Path
) -> None:
    path = pyproject(here, *lines)
    for _ in range(2):  # not only the first time
        assert why(ConfigError, load) == f"pyproject.toml {place} of {path}): {says}"


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        (["grace = 3", "kind ="], "(at line 3, column 7)"),
        (["backend = 'process'", "[tool.unirun.backend.process]"], "(at line 3, column 29)"),
        (["preload = ["], "(at end of document)"),
    ],
)
def test_malformed_toml_names_file_and_line(lines: list[str], place: str, here: Path) -> None:
    path = pyproject(here, *lines)
    text = why(ConfigError, load)
    assert text.startswith(f"{path}: malformed TOML: ")
    assert text.endswith(f"{place}; mend it, or set UNIRUN_CONFIG='' to read no file")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("grace = " + "9" * 5000, "Exceeds the limit"),
        ("preload = " + "[" * 5000, "recursion"),
        ("grace = 1\ngrace = 2", "Cannot overwrite a value"),
        ("grace = 25:00:00", "Expected newline or end of document"),
    ],
    ids=["digits", "depth", "twice", "hour"],
)
def test_whatever_the_parser_says_is_a_config_error(line: str, says: str, here: Path) -> None:
    path = write(here / "unirun.toml", line)
    text = why(ConfigError, load)
    assert text.startswith(f"{path}: malformed TOML: ")
    assert says in text
    assert len(text) < 500


def test_a_file_that_is_far_too_long_is_not_read(here: Path) -> None:
    path = write(here / "unirun.toml", "#" * (LARGEST + 1))
    says = f"is no settings file, it has more than {LARGEST} characters"
    assert why(ConfigError, load).startswith(f"{path}: {says}; make it shorter, or set")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that fails to read")
def test_a_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIRUN_CONFIG", "/proc/self/mem")
    text = why(ConfigError, load)
    assert text.startswith("/proc/self/mem: cannot be read ([Errno 5] ")
    assert text.endswith("; make it readable, or set UNIRUN_CONFIG='' to read no file")


def test_the_mark_that_editors_of_windows_write_is_read_over(here: Path) -> None:
    path = here / "unirun.toml"
    path.write_bytes(b"\xef\xbb\xbfkind = 'io'\r\nretries = 2\r\n")
    resolved = load().resolve()
    assert (resolved["kind"], resolved["retries"]) == ("io", 2)
    assert resolved.source("retries") == f"unirun.toml (line 2 of {path})"


def test_an_option_of_one_backend_for_all_is_told_where_it_belongs(here: Path) -> None:
    path = write(here / "unirun.toml", "", "arrays = 'copy'")
    says = "arrays is an option of one backend; write it as backend.process.arrays"
    assert why(ConfigError, load) == f"unirun.toml (line 2 of {path}): {says}"


def test_an_unknown_profile_is_answered_with_those_there_are(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pyproject(here, "profile.test.kind = 'io'", "profile.ci.kind = 'io'")
    monkeypatch.setenv("UNIRUN_PROFILE", "tset")
    says = "UNIRUN_PROFILE: unknown profile 'tset'; did you mean 'test'? profiles: test, ci"
    assert why(ConfigError, load) == f"{says} (in {path})"


def test_a_file_that_is_no_text_is_named(here: Path) -> None:
    (here / "unirun.toml").write_bytes(b"kind = '\xff'")
    text = why(ConfigError, load)
    assert text.startswith(f"{here}/unirun.toml: cannot be read ('utf-8' codec")
    assert text.endswith("save it as UTF-8, or set UNIRUN_CONFIG='' to read no file")


def test_a_table_of_ours_that_is_none_is_named(here: Path) -> None:
    path = write(here / "pyproject.toml", "[tool]", "unirun = 3")
    says = "cannot use 3 as tool.unirun; tool.unirun must be a table of keys"
    assert why(ConfigError, load) == f"pyproject.toml [tool] (line 2 of {path}): {says}"


# -- which file --------------------------------------------------------------------------------


def kind_found() -> str:
    kind: str = load().resolve()["kind"]
    return kind


def test_the_nearest_file_upward_is_used(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyproject(here, "kind = 'cpu'")
    pyproject(here / "a", "kind = 'io'")
    (here / "a" / "b").mkdir()
    for directory, kind in ((here, "cpu"), (here / "a", "io"), (here / "a" / "b", "io")):
        monkeypatch.chdir(directory)
        assert kind_found() == kind


def test_unirun_toml_wins_over_pyproject_in_its_directory_only(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyproject(here, "kind = 'cpu'", "retries = 5")
    path = write(here / "unirun.toml", "kind = 'io'")
    resolved = load().resolve()
    assert (resolved["kind"], resolved["retries"]) == ("io", 0)
    assert resolved.source("kind") == f"unirun.toml (line 1 of {path})"
    monkeypatch.chdir(pyproject(here / "a", "kind = 'native'").parent)
    assert kind_found() == "native"


@pytest.mark.parametrize(
    "text",
    ["[project]\nname = 'x'", "[tool.black]\n# no unirun here", "[project]\nname = 'unirun-app'"],
)
def test_a_pyproject_without_our_table_ends_no_search(
    text: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyproject(here, "kind = 'io'")
    monkeypatch.chdir(write(here / "a" / "pyproject.toml", text).parent)
    assert kind_found() == "io"


def test_a_broken_pyproject_that_does_not_concern_us_is_not_parsed(here: Path) -> None:
    write(here / "pyproject.toml", "this is no TOML")
    assert kind_found() == "auto"


def test_a_directory_of_that_name_is_no_file(here: Path) -> None:
    (here / "unirun.toml").mkdir()
    assert kind_found() == "auto"


def test_a_deleted_working_directory_has_no_file(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    assert kind_found() == "auto"


def test_unirun_config_names_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyproject(here, "kind = 'cpu'")
    write(here / "a" / "ci.toml", "kind = 'io'")
    pyproject(here / "b", "kind = 'native'")
    for named, kind in (("a/ci.toml", "io"), (str(here / "b" / "pyproject.toml"), "native")):
        monkeypatch.setenv("UNIRUN_CONFIG", named)
        assert kind_found() == kind
    monkeypatch.setenv("UNIRUN_CONFIG", "")
    assert kind_found() == "auto"


def test_unirun_config_must_name_a_file_with_our_settings(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIRUN_CONFIG", "nowhere.toml")
    says = f"UNIRUN_CONFIG: there is no file '{here}/nowhere.toml'; name one, or '' for none"
    assert why(ConfigError, load) == says
    path = write(here / "pyproject.toml", "[project]")
    monkeypatch.setenv("UNIRUN_CONFIG", "pyproject.toml")
    says = f"UNIRUN_CONFIG: '{path}' has no [tool.unirun]; add it, or unset it"
    assert why(ConfigError, load) == says


def test_a_file_is_read_again_only_when_it_has_changed(here: Path) -> None:
    path = pyproject(here, "kind = 'cpu'")
    first = load()
    assert load()._files[0] is first._files[0]
    pyproject(here, "kind = 'isolated'")
    assert kind_found() == "isolated"
    assert first.resolve()["kind"] == "cpu"
    path.unlink()
    assert kind_found() == "auto"


def test_a_line_number_is_found_whatever_the_spelling(here: Path) -> None:
    lines = [
        "tool.unirun.grace = 1",  # 1
        "[tool]",
        "unirun.kind = 'io'",  # 3
        "[tool.unirun.'task'.\"m:*\"]",
        "",
        "resources = { gpu = 1 }",  # 6
    ]
    path = write(here / "unirun.toml", *[line.replace("tool.unirun.", "") for line in lines[:1]])
    assert load().resolve().source("grace") == f"unirun.toml (line 1 of {path})"
    path.unlink()
    path = write(here / "pyproject.toml", *lines[1:3])
    assert load().resolve().source("kind") == f"pyproject.toml [tool] (line 2 of {path})"
    path.write_text("\n".join(lines[3:]))
    header = "[tool.unirun.'task'.\"m:*\"]"
    resolved = load().resolve(task="m:f")
    assert resolved.source("resources") == f"pyproject.toml {header} (line 3 of {path})"


def test_a_line_number_counts_what_only_looks_like_settings(here: Path) -> None:
    lines = [
        "[project]",
        'description = """',
        "[tool.unirun]",
        "retries = 1",
        """it's \\" unirun",""" + '"""',
        "keywords = [",
        "  'a = \"',  # retries = 3, [x",
        "  [ 'b' ],",
        "]",
        "[tool.unirun]  # [here",
        "preload = [",
        "  'json', 'email',",
        "  # retries = 5",
        "]",
        "backend.of_others.matrix = [",
        "  [ 1, 2 ],",
        "]",
        "name = '''",
        "retries = 6'''",
        "retries = 'seven'",
    ]
    path = write(here / "pyproject.toml", *lines)
    number = lines.index("retries = 'seven'") + 1
    place = f"pyproject.toml [tool.unirun] (line {number} of {path})"
    assert why(ConfigError, load).startswith(f"{place}: cannot use 'seven' as retries")


def test_a_line_number_counts_lines_as_editors_do(here: Path) -> None:
    path = here / "unirun.toml"
    path.write_text("name = 'a\u2028b\u0085c'\nretries = 2\n", encoding="utf-8")
    assert load().resolve().source("retries") == f"unirun.toml (line 2 of {path})"


# -- rules for tasks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "timeout", "retries"),
    [
        ("shop.etl:load", 3, 2),  # each key from the longest pattern that has it
        ("shop.etl:clean", 2, 2),
        ("shop.web:load", 1, 0),
        ("shop.etl:load.<locals>.inner", 2, 2),
        ("other:load", None, 0),
        (None, None, 0),
    ],
)
def test_of_the_rules_that_match_the_longest_pattern_wins(
    here: Path, task: str | None, timeout: float | None, retries: int
) -> None:
    lines = [
        '[tool.unirun.task."shop.etl:*"]',
        "timeout = 2",
        "retries = 2",
        '[tool.unirun.task."shop.etl:load"]',
        "timeout = 3",
        '[tool.unirun.task."shop.*"]',
        "timeout = 1",
    ]
    pyproject(here, *lines)
    resolved = load().resolve(task=task)
    assert (resolved["timeout"], resolved["retries"]) == (timeout, retries)


def test_the_rule_of_a_profile_wins_over_the_same_rule_outside(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = "task.'*:f'.timeout ="
    pyproject(here, f"{rule} 1", f"profile.ci.{rule} 2", "profile.ci.kind = 'io'", "kind = 'cpu'")
    resolved = load().resolve(task="m:f")
    assert (resolved["timeout"], resolved["kind"]) == (1.0, "cpu")
    monkeypatch.setenv("UNIRUN_PROFILE", "ci")
    resolved = load().resolve(task="m:f")
    assert (resolved["timeout"], resolved["kind"]) == (2.0, "io")
