"""Worlds for a program to live in: mounts of its own, no rights, and tests/apps/life.py in them."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from process import watch
from process.line import PATIENCE

import unirun

LIFE = str(Path(__file__).parent / "apps" / "life.py")
FINE = [
    *("map", "lambda", "crash", "kill", "timeout", "large"),
    *("shared", "threads", "again", "shutdown"),
]
LIMIT = 50.0  # seconds for a life, which takes less than one


def live(
    *words: str, before: list[str] | None = None, path: Path | None = None, **variables: str | None
) -> dict[str, str]:
    """How each step ended; `before` is what starts it, a variable that is None is not there."""
    environment = watch.with_tests_on_path()
    for name, value in variables.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    done = subprocess.run(
        [*(before or []), sys.executable, LIFE, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        cwd=path,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stdout, done.stderr)
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def all_fine(*steps: str) -> dict[str, str]:
    return dict.fromkeys(steps or FINE, "fine")


@functools.cache
def namespace() -> tuple[str, ...]:
    """The command that gives a program mounts of its own; empty where that is not allowed."""
    for command in (("unshare", "-m"), ("unshare", "-r", "-m")):
        try:
            mount = [*command, "mount", "-t", "tmpfs", "none", "/mnt"]
            subprocess.run(mount, check=True, capture_output=True, timeout=PATIENCE)
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    return ()


def world(preparation: str) -> list[str]:
    """What starts a program after a shell has prepared the world for it."""
    if not namespace():
        pytest.skip("mounts of one's own are not allowed here")
    return [*namespace(), "sh", "-ec", f'{preparation}\nexec "$@"', "sh"]


def disks(kind: str, *places: object) -> str:
    """Other disks at these places."""
    return "".join(f"mount -t tmpfs -o {kind} none '{place}'\n" for place in places)


def everywhere(kind: str, path: Path) -> str:
    """The same for each place that files may be made in; `path` is the working directory."""
    places = [each for each in ("/tmp", "/var/tmp", "/usr/tmp") if Path(each).is_dir()]
    needed = (LIFE, unirun.__file__, sys.prefix, sys.base_prefix)
    if any(each.startswith(tuple(f"{place}/" for place in places)) for each in needed):
        pytest.skip("what is needed lies where files are made")
    mounts = disks(kind, *places[1:], path, places[0])
    return mounts + f"cd '{path}' 2>/dev/null || cd {places[0]}\nunset TMPDIR"


@functools.cache
def nobody() -> tuple[str, ...]:
    """What makes a program run as a user of its own, whose limits count nobody else's threads."""
    if os.getuid():
        pytest.skip("only root can become somebody else")
    rights = "+dac_read_search"  # this Python may lie where only root can read
    number = 60_000 + os.getpid() % 5_000
    user = [f"--reuid={number}", f"--regid={number}", "--clear-groups"]
    command = ("setpriv", *user, f"--inh-caps={rights}", f"--ambient-caps={rights}")
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True, timeout=PATIENCE)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no setpriv")
    return command
