"""Tries what works on every system, Windows too: threads, coroutines, inline calls, shared objects.

python .ci/smoke.py               on this system
python .ci/smoke.py --no-posix    as far as that can be tried elsewhere: without the modules
                                  and functions that Windows has not
"""

import os
import sys
from importlib import import_module

ONLY_POSIX = ("fcntl", "grp", "_posixshmem", "pty", "pwd", "resource", "syslog", "termios", "tty")
NOT_IN_OS = (
    *("fork", "forkpty", "getpgid", "killpg", "memfd_create", "pidfd_open", "register_at_fork"),
    *("setsid", "wait4"),
)


def without_posix() -> None:
    """From here on as on Windows, but for what Python itself has imported at its start."""
    for chosen_by_system in ("asyncio", "concurrent.futures.process", "pathlib", "subprocess"):
        import_module(chosen_by_system)
    import psutil  # noqa: F401  # as above

    os.name = "neither"  # with "nt", pathlib would make paths of Windows
    sys.platform = "win32"
    sys.modules.update(dict.fromkeys(ONLY_POSIX))
    for name in NOT_IN_OS:
        if hasattr(os, name):
            delattr(os, name)


def main() -> None:
    import asyncio

    import unirun
    from unirun.cli import main as main_of_cli

    async def later(n: int) -> int:
        await asyncio.sleep(0)
        return n + 1

    for backend in ("inline", "thread"):
        with unirun.Executor(2, backend=backend) as executor:
            queue, lock = executor.Queue(), executor.Lock()
            with lock:
                executor.submit(queue.put, backend).result(30)
            assert queue.get(timeout=30) == backend
            assert list(executor.map(pow, [2, 3], [3, 2])) == [8, 9]
            assert executor.submit(later, 1).result(30) == 2
    with unirun.Executor(2, kind="io") as executor:
        assert executor.submit(later, 1).result(30) == 2
        late = executor.options(timeout=0.1).submit(__import__("time").sleep, 1)
        assert isinstance(late.exception(30), unirun.TaskTimeout)
    assert unirun.submit(abs, -1).result(30) == 1
    assert "thread" in str(unirun.explain(abs))
    assert main_of_cli(["info"]) == 0
    if os.name == "posix":
        with unirun.Executor(1, backend="process") as executor:
            assert executor.submit(os.getpid).result(60) != os.getpid()
        print("threads, coroutines, inline calls and processes work")
        return
    try:
        unirun.submit(unirun.task(kind="cpu")(abs), -1).result(30)
    except unirun.BackendUnavailable as error:
        refusal = str(error)
    else:
        refusal = "they are not refused"
    print("threads, coroutines and inline calls work; processes:", refusal)
    if "needs POSIX" not in refusal:
        sys.exit(1)


if __name__ == "__main__":
    if "--no-posix" in sys.argv:
        without_posix()
    main()
