"""What a call costs in things that are counted, not timed: the same however slow a machine is.

    python -m benchmarks._counts NAME       # prints what that probe counts, as JSON

Each probe is a function without arguments in PROBES. It runs in a process of its own, so that
nothing has been imported or started before. What only Linux tells, or a program that is not there,
is left out, not guessed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from shutil import which

Counts = dict[str, float]


# -- what is imported and started -----------------------------------------------------------------


def imports() -> Counts:
    from benchmarks._tasks import modules

    before = set(sys.modules)
    import unirun

    facade = len(set(sys.modules) - before)
    with unirun.Executor(2, backend="process") as executor:
        assert executor.submit(pow, 2, 3).result() == 8
        program = len(set(sys.modules) - before)
        worker = executor.submit(modules).result()
    bare = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import sys; print(len(sys.modules))"],
        check=True,
        capture_output=True,
    )
    return {
        "modules: import unirun": facade,
        "modules: program with a call on a process": program,
        "modules: worker": worker - int(bare.stdout),
    }


def started() -> Counts:
    import unirun
    from benchmarks._tasks import nothing, pid_after

    threads, fds = _entries("task"), _entries("fd")
    with unirun.Executor(2, backend="process") as executor:
        pids = {future.result() for future in [executor.submit(pid_after, 0.05) for _ in range(8)]}
        assert executor.submit(nothing, 1).result() == 1
        found = {
            "started: processes of two workers": _children(),
            "started: threads of two workers": _entries("task") - threads,
            "opened: descriptors of two workers": _entries("fd") - fds,
        }
        assert 1 <= len(pids) <= 2
    with unirun.Executor(2, backend="thread") as executor:
        threads = _entries("task")
        assert executor.submit(nothing, 1).result() == 1
        found["started: threads for a call on a thread"] = _entries("task") - threads
    return found


def _entries(name: str) -> int:
    return len(os.listdir(f"/proc/self/{name}"))  # noqa: PTH208 - pathlib is an import to be counted


def _children() -> int:
    from benchmarks.lifecycle import descendants

    return len(descendants(os.getpid()))


# -- what calls make the system do ----------------------------------------------------------------


def one_by_one() -> Counts:
    """System calls of program and worker for a call that is waited for before the next."""
    calls = 1000
    used = _used_by_calls(calls, many=False)
    return {f"one by one: {name}": count / calls for name, count in used.items()}


def many() -> Counts:
    calls = 10_000
    used = _used_by_calls(calls, many=True)
    return {f"many: {name}": count / calls for name, count in used.items()}


def _used_by_calls(calls: int, many: bool) -> Counts:
    import unirun
    from benchmarks._tasks import nothing

    with unirun.Executor(1, backend="process") as executor:
        worker = executor.submit(os.getpid).result()
        for future in [executor.submit(nothing, n) for n in range(300)]:
            future.result()
        before = _use(worker)
        if many:
            for future in [executor.submit(nothing, n) for n in range(calls)]:
                future.result()
        else:
            for n in range(calls):
                executor.submit(nothing, n).result()
        after = _use(worker)
    return {name: after[name] - before[name] for name in after}


def _use(worker: int) -> Counts:
    mine, its = _io(os.getpid()), _io(worker)
    return {
        "writes by the program": mine["syscw"],
        "reads by the program": mine["syscr"],
        "writes by the worker": its["syscw"],
        "reads by the worker": its["syscr"],
        "bytes written by the program": mine["wchar"],
        "bytes written by the worker": its["wchar"],
        "switches to another thread or process": _switches(os.getpid()) + _switches(worker),
    }


def _io(pid: int) -> dict[str, int]:
    with open(f"/proc/{pid}/io") as file:  # noqa: PTH123 - as above
        return {name: int(count) for name, count in (line.split(": ") for line in file)}


def _switches(pid: int) -> int:
    """Voluntary ones, of all threads: how often one had to wait for something."""
    found = 0
    for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - as above
        with open(f"/proc/{pid}/task/{thread}/status") as file:  # noqa: PTH123 - as above
            found += sum(int(line.split()[1]) for line in file if line.startswith("voluntary"))
    return found


def mapped() -> Counts:
    import unirun
    from benchmarks._tasks import nothing

    items = 100_000
    with unirun.Executor(1, backend="process") as executor:
        worker = executor.submit(os.getpid).result()
        assert len(list(executor.map(nothing, range(5000)))) == 5000
        before = _use(worker)
        assert len(list(executor.map(nothing, range(items)))) == items
        after = _use(worker)
    names = ("writes by the program", "writes by the worker", "bytes written by the program")
    used = {name: after[name] - before[name] for name in names}
    return {f"map: {name}, for 1000 items": count * 1000 / items for name, count in used.items()}


def copied() -> Counts:
    """Bytes that go through pipes for an argument of 16 MiB, there and back: it should not."""
    import unirun
    from benchmarks._tasks import echo

    data, calls = b"\7" * (16 << 20), 4
    with unirun.Executor(1, backend="process") as executor:
        worker = executor.submit(os.getpid).result()
        assert executor.submit(echo, data).result() == data
        before = _io(os.getpid())["wchar"] + _io(worker)["wchar"]
        for _ in range(calls):
            assert len(executor.submit(echo, data).result()) == len(data)
        after = _io(os.getpid())["wchar"] + _io(worker)["wchar"]
    return {"16 MiB there and back: KiB through pipes": (after - before) / calls / 1024}


def system_calls() -> Counts:
    """All there are, of all processes and threads, as strace counts them."""
    if which("strace") is None:
        return {}
    few, more = (_traced(calls) for calls in (200, 700))
    return {"one by one: system calls of all processes": (more - few) / 500}


def _traced(calls: int) -> int:
    import tempfile

    with tempfile.NamedTemporaryFile("r") as file:
        program = ["strace", "-f", "-c", "-U", "calls,name", "-o", file.name]
        program += [sys.executable, "-m", "benchmarks._counts", "one_process", str(calls)]
        if subprocess.run(program, stdout=subprocess.DEVNULL, check=False).returncode:
            return 0
        return int(file.read().splitlines()[-1].split()[0])


def one_process(calls: int) -> None:
    import unirun
    from benchmarks._tasks import nothing

    with unirun.Executor(1, backend="process") as executor:
        for n in range(calls):
            executor.submit(nothing, n).result()


# -- what calls make the interpreter do -----------------------------------------------------------


def functions() -> Counts:
    """Functions called in the thread that submits, Python's and C's."""
    import threading

    import unirun
    from benchmarks._tasks import nothing

    found = {}
    for backend in ("process", "thread", "inline"):
        with unirun.Executor(1, backend=backend) as executor:
            for n in range(50):
                executor.submit(nothing, n).result()
            gate = threading.Event()
            if backend == "thread":  # its worker waits: what is counted is the submitting alone
                executor.submit(gate.wait)
            seen = _functions_of(lambda submit=executor.submit: submit(nothing, 1), 200)
            gate.set()
            found[f"functions called by submit: {backend}"] = seen
    return found


def _functions_of(action: Callable[[], object], times: int) -> float:
    count = 0

    def see(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    counts = []
    for _ in range(times):
        count = 0
        sys.setprofile(see)
        action()
        sys.setprofile(None)
        counts.append(count)
    return sorted(counts)[times // 2]


def memory() -> Counts:
    """Blocks of memory that a call which waits takes."""
    import threading

    import unirun
    from benchmarks._tasks import nothing

    found = {}
    for backend, kind in (("process", "cpu"), ("thread", "io")):
        with unirun.Executor(1) as executor:
            view = executor.options(kind=kind)
            for future in [view.submit(nothing, n) for n in range(300)]:
                future.result()
            gate = executor.Event() if kind == "cpu" else threading.Event()
            blocked = view.submit(gate.wait)
            waiting = [view.submit(nothing, n) for n in range(500)]
            before = sys.getallocatedblocks()
            waiting += [view.submit(nothing, n) for n in range(5000)]
            found[f"blocks of memory of a waiting call: {backend}"] = (
                sys.getallocatedblocks() - before
            ) / 5000
            gate.set()
            assert blocked.result()
            assert waiting[-1].result() == 4999
    return found


def instructions() -> Counts:
    """Of the processor, for a call of a task in the caller itself; valgrind counts them."""
    if which("valgrind") is None:
        return {}
    few, more = (_counted(calls) for calls in (50, 250))
    return {"thousand instructions of an inline call": (more - few) / 200 / 1000}


def _counted(calls: int) -> int:
    program = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    program += [sys.executable, "-m", "benchmarks._counts", "inline", str(calls)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    [line] = [line for line in done.stderr.splitlines() if "refs:" in line and " I" in line]
    return int(line.split()[-1].replace(",", ""))


def inline(calls: int) -> None:
    import unirun
    from benchmarks._tasks import nothing

    with unirun.Executor(1, backend="inline") as executor:
        for n in range(calls):
            executor.submit(nothing, n).result()


PROBES: dict[str, Callable[[], Counts]] = {
    each.__name__: each
    for each in (
        imports,
        started,
        one_by_one,
        many,
        mapped,
        copied,
        system_calls,
        functions,
        memory,
        instructions,
    )
}


def main(name: str, *numbers: str) -> None:
    if numbers:
        {"inline": inline, "one_process": one_process}[name](int(numbers[0]))
    else:
        print(json.dumps(PROBES[name]()))


if __name__ == "__main__":
    main(*sys.argv[1:])
