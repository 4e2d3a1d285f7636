"""`unirun info`, `config`, `explain`, --help and --version."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from commands import PATIENCE, WORK, Done, environment
from commands import unirun as run

import unirun

BUILTIN = {"coroutine", "inline", "process", "thread"}
ENTRY_POINTS = """
[unirun.backends]
elsewhere = elsewhere:Elsewhere
unfinished = unfinished:Backend
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(WORK)
    return tmp_path


def info(home: Path, status: int = 0, **variables: str) -> dict[str, Any]:
    done = run("info", "--json", cwd=home, **variables)
    assert (done.status, done.err) == (status, "")
    found = json.loads(done.out)
    assert isinstance(found, dict)
    return found


def setting(found: dict[str, Any], key: str) -> tuple[Any, str]:
    """The value and where it comes from."""
    settings = found["settings"] if "settings" in found else found["configuration"]["settings"]
    (row,) = [row for row in settings if row["key"] == key]
    return row["value"], row["source"]


# -- info -----------------------------------------------------------------------------------------


def test_info_knows_this_installation(home: Path) -> None:
    found = info(home)
    assert found["version"] == unirun.__version__
    assert Path(found["location"]) == Path(unirun.__file__).parent
    assert found["python"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert Path(found["python"]["executable"]).samefile(sys.executable)
    assert found["python"]["gil"] is not bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def test_info_counts_the_cores_that_may_be_used(home: Path) -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os, sys; os.sched_setaffinity(0, {{{one}}}); os.execv(sys.executable, sys.argv)"
    program = (sys.executable, "-c", code.replace("sys.argv)", "[sys.executable, *sys.argv[1:]])"))
    done = run("-m", "unirun", "info", "--json", cwd=home, program=program)
    cores = json.loads(done.out)["cores"]
    assert (cores["usable"], cores["affinity"], cores["machine"]) == (1, 1, os.cpu_count())


def test_info_lists_the_backends_and_what_they_can_do(home: Path) -> None:
    backends = {backend["name"]: backend for backend in info(home)["backends"]}
    assert backends.keys() >= BUILTIN
    assert all(backends[name]["available"] for name in BUILTIN)
    assert {"killable", "isolation"} <= set(backends["process"]["capabilities"])
    assert "killable" not in backends["thread"]["capabilities"]
    assert set(backends["process"]["kinds"]) == {"cpu", "isolated"}
    assert backends["inline"]["kinds"] == []


def test_info_says_why_a_backend_is_not_available(home: Path) -> None:
    metadata = home / "elsewhere-1.dist-info"
    metadata.mkdir()
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1\n")
    (home / "elsewhere.py").write_text(
        "from unirun.backends.thread import ThreadBackend\n"
        "class Elsewhere(ThreadBackend):\n    name = 'elsewhere'\n"
    )
    (home / "unfinished.py").write_text("import engine_of_theirs\n")
    backends = {b["name"]: b for b in info(home, UNIRUN_ROUTES="io=lost")["backends"]}
    assert backends["elsewhere"]["available"]
    assert "needs 'engine_of_theirs'" in backends["unfinished"]["missing"]
    assert "unknown backend 'lost'" in backends["lost"]["missing"]
    assert backends["lost"]["kinds"] == ["io"]
    assert "not available: the 'unfinished' backend needs" in run("info", cwd=home).out


def test_info_says_where_each_setting_comes_from(home: Path) -> None:
    file = home / "pyproject.toml"
    file.write_text("[tool.unirun]\ngrace = 7\nroutes = {io = 'inline'}\n")
    found = info(home, UNIRUN_MAX_WORKERS="3", UNIRUN_REQUIRE="killable")
    assert setting(found, "max_workers") == (3, "UNIRUN_MAX_WORKERS")
    assert setting(found, "require") == (["killable"], "UNIRUN_REQUIRE")
    assert setting(found, "kind") == ("auto", "default")
    value, source = setting(found, "grace")
    assert value == 7.0
    assert source == f"pyproject.toml [tool.unirun] (line 2 of {file})"
    assert setting(found, "routes.io")[0] == "inline"
    assert found["configuration"]["file"] == str(file)
    text = run("info", cwd=home, UNIRUN_MAX_WORKERS="3").out
    assert f"settings file: {file}\n" in text
    assert ["max_workers", "3", "UNIRUN_MAX_WORKERS"] in [
        line.split() for line in text.splitlines()
    ]


def test_info_finds_the_file_that_is_named(home: Path) -> None:
    (home / "mine.toml").write_text("grace = 1\n")
    assert info(home)["configuration"]["file"] is None
    assert info(home, UNIRUN_CONFIG="mine.toml")["configuration"]["file"] == str(home / "mine.toml")


def test_info_shows_the_rest_when_a_setting_is_wrong(home: Path) -> None:
    found = info(home, status=2, UNIRUN_KIND="cpuu")
    assert "did you mean 'cpu'?" in found["configuration"]["error"]
    assert {backend["name"] for backend in found["backends"]} >= BUILTIN
    done = run("info", cwd=home, UNIRUN_KIND="cpuu")
    assert done.status == 2
    assert "settings: unusable: UNIRUN_KIND: unknown kind 'cpuu'" in done.out


def test_info_and_config_refuse_the_same(home: Path) -> None:
    wrong = "UNIRUN_ROUTES: unknown backend 'thred'; did you mean 'thread'?"
    assert info(home, status=2, UNIRUN_ROUTES="io=thred")["configuration"]["error"] == wrong
    assert run("config", cwd=home, UNIRUN_ROUTES="io=thred").err == f"unirun: error: {wrong}\n"


def test_info_as_text_has_it_all(home: Path) -> None:
    found, text = info(home), run("info", cwd=home).out
    assert f"unirun {found['version']} ({found['location']})\n" in text
    assert f"cores: {found['cores']['usable']} usable\n" in text
    assert "GIL: " in text
    assert "settings file: none\n" in text
    rows = [line.split() for line in text.splitlines()]
    for row in found["configuration"]["settings"]:
        assert [row["key"], *json.dumps(row["value"]).split(), row["source"]] in rows
    for backend in found["backends"]:
        assert any(row[:1] == [backend["name"]] for row in rows)


# -- explain --------------------------------------------------------------------------------------


def test_explain_says_where_calls_run_and_why(home: Path) -> None:
    done = run("explain", "work:tasked", "--timeout=2m", cwd=home)
    assert done == Done(
        0,
        "work.tasked runs on backend 'process', because\n"
        "  - kind='cpu'\n"
        "  - kind 'cpu' is routed to 'process'\n"
        "settings:\n"
        "  kind = 'cpu'  (@task)\n"
        "  timeout = 120.0  (options())\n"
        "on this machine:\n"
        f"  usable cores: {unirun.cpu_count()}\n"
        f"  workers: {unirun.cpu_count()}\n"
        "  threads of BLAS, OpenMP and the like: 1 in each worker\n",
        "",
    )


@pytest.mark.parametrize(
    ("function", "options", "backend"),
    [
        ("work:double", (), "thread"),
        ("work:double", ("--kind=cpu",), "process"),
        ("work:double", ("--backend=inline",), "inline"),
        ("work:later", (), "coroutine"),
        ("work:tasked", (), "process"),
        ("work:Shop.tasked", (), "process"),
        ("work:Shop.tasked", ("--kind=io",), "thread"),
    ],
)
def test_explain_as_json_has_everything(
    home: Path, function: str, options: tuple[str, ...], backend: str
) -> None:
    done = run("explain", function, "--json", *options, cwd=home)
    found = json.loads(done.out)
    assert found["backend"] == backend
    assert found["function"] == function.replace(":", ".")
    assert found["reasons"]
    assert found["cores"] == unirun.cpu_count()
    assert found["profile"] == {}
    assert (found["library_threads"] is not None) == (backend == "process")
    assert (found["workers"] is None) == (backend == "coroutine")
    assert setting(found, "grace") == (3.0, "default")


def test_explain_tells_what_the_environment_forces(home: Path) -> None:
    done = run("explain", "work:tasked", cwd=home, UNIRUN_BACKEND="inline")
    assert "UNIRUN_BACKEND=inline forces every call" in done.out


# -- help -----------------------------------------------------------------------------------------


def test_version_is_the_version(home: Path) -> None:
    assert run("--version", cwd=home) == Done(0, f"unirun {unirun.__version__}\n", "")


@pytest.mark.parametrize("command", ["", "map", "config", "info", "explain"])
def test_help_explains_itself_and_the_exit_status(home: Path, command: str) -> None:
    done = run(*command.split(), "--help", cwd=home, COLUMNS="80")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"usage: unirun {command}".rstrip())
    assert "  130  ended by Ctrl-C\n" in done.out
    assert max(map(len, done.out.splitlines())) <= 90


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--wrong"]])
def test_help_imports_no_engine(arguments: list[str]) -> None:
    code = (
        "import sys, unirun.cli\n"
        "try:\n    unirun.cli.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "argparse" in loaded
    heavy = {"asyncio", "concurrent.futures", "logging", "multiprocessing", "socket"}
    assert not loaded & heavy
    ours = {name for name in loaded if name.startswith("unirun.")}
    assert ours <= {"unirun.cli", "unirun.cli.status"}


# -- config ---------------------------------------------------------------------------------------

PYPROJECT = """\
[tool.unirun]
grace = "500ms"
[tool.unirun.backend.process]
grace = 2
[tool.unirun.task."work:*"]
timeout = 30
[tool.unirun.profile.test]
routes.io = "lost"
"""


def test_config_shows_what_holds_where_it_comes_from_and_what_it_hides(home: Path) -> None:
    file = home / "pyproject.toml"
    file.write_text(PYPROJECT)
    done = run("config", cwd=home, UNIRUN_PROFILE="test", UNIRUN_GRACE="4")
    route = f"pyproject.toml [tool.unirun.profile.test] (line 8 of {file})"
    table = f"pyproject.toml [tool.unirun.backend.process] (line 4 of {file})"
    base = f"pyproject.toml [tool.unirun] (line 2 of {file})"
    rule = f'pyproject.toml [tool.unirun.task."work:*"] (line 6 of {file})'
    unknown = "unknown backend 'lost'; backends: "
    assert (done.status, done.err) == (0, "")
    assert done.out.partition(unknown)[0] == (
        f"settings file: {file}\n"
        "profile: test (of test)\n"
        "settings:\n"
        "  grace                  4.0     UNIRUN_GRACE\n"
        f"                         0.5     hidden, of {base}\n"
        f'  routes.io              "lost"  {route}\n'
        "  backend.process.grace  4.0     UNIRUN_GRACE\n"
        f"                         2.0     hidden, of {table}\n"
        f"                         0.5     hidden, of {base}\n"
        "rules for tasks, the first that has a key wins:\n"
        f"  work:*  timeout  30.0  {rule}\n"
        "to be looked at:\n"
        f"  {route}: "
    )


def test_config_as_json_has_everything(home: Path) -> None:
    (home / "pyproject.toml").write_text(PYPROJECT)
    (home / "unirun.toml").write_text("retries = 3\nprofile.ci.retries = 4\n")
    found = json.loads(run("config", "--json", cwd=home, UNIRUN_REQUIRE="killable").out)
    assert found["file"] == str(home / "unirun.toml")
    assert (found["profile"], found["profiles"], found["rules"]) == (None, ["ci"], [])
    assert setting(found, "require") == (["killable"], "UNIRUN_REQUIRE")
    assert setting(found, "grace") == (3.0, "default")
    beside = "has settings, too, and is not read: unirun.toml beside it comes first"
    assert found["notes"] == [f"{home / 'pyproject.toml'} {beside}"]


def test_config_without_any_setting_says_so_and_shows_the_defaults_if_asked(home: Path) -> None:
    says = "settings file: none\nsettings: all default (--all shows them)\n"
    assert run("config", cwd=home) == Done(0, says, "")
    rows = [line.split() for line in run("config", "--all", cwd=home).out.splitlines()]
    assert ["grace", "3.0", "default"] in rows


def test_config_says_what_is_wrong_and_fails(home: Path) -> None:
    done = run("config", cwd=home, UNIRUN_ROUTES="io=thred")
    says = "unirun: error: UNIRUN_ROUTES: unknown backend 'thred'; did you mean 'thread'?\n"
    assert done == Done(2, "", says)
