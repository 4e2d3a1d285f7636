"""Surveys the source of the standard library of this Python: a whole job on unirun.

    files ──read (io)──> sources ──measure (cpu)──> measurements ──> report
                                       │ findings: a shared Queue
    Ctrl-C ──> stop: a shared Event    │
                                       └─ digests: a shared Queue ──> client ──socket──> server

Apart from the lines that begin with "time:", the report of a whole survey is the same wherever the
calls run; try UNIRUN_BACKEND=inline, thread or process.  A survey that is stopped, by --stop-after
or by Ctrl-C, reports on what had been measured by then.

Exit status: 0, or 130 after Ctrl-C.
"""

from __future__ import annotations  # as strings, annotations do not travel with the tasks

import argparse
import ast
import hashlib
import io
import itertools
import queue
import signal
import socket
import sys
import sysconfig
import threading
import time
import tokenize
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import unirun

LONG = 300
"""Lines from which on a function is a finding."""
PATIENCE = 0.5
"""Seconds after which the call that hangs is ended."""
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.BoolOp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Measurement(TypedDict):
    """What one file amounts to; zeros where it does not parse.

    A plain dict: a class of a script that is run travels by value, with each of its instances.
    """

    file: str
    digest: str
    bytes: int
    compressed: int
    lines: int
    functions: int
    branches: int
    longest: int
    longest_name: str


class Survey(NamedTuple):
    """What goes into the report."""

    files: list[str]
    measured: list[Measurement]
    findings: list[tuple[str, str]]
    seal: str
    hung: str
    stopped: bool


# -- the tasks ------------------------------------------------------------------------------------


@unirun.task(kind="io")
def read(root: str, file: str, findings: Any, stop: Any) -> tuple[str, bytes | None]:
    """The content of a file; None once the survey is to stop, or if it cannot be read."""
    if stop.is_set():
        return file, None
    try:
        return file, Path(root, file).read_bytes()
    except OSError as exc:
        findings.put((file, f"cannot be read: {exc.strerror}"))
        return file, None


@unirun.task(kind="cpu")
def measure(source: tuple[str, bytes | None], findings: Any, stop: Any) -> Measurement | None:
    """Parse and measure one file; what is remarkable about it goes into `findings`."""
    file, content = source
    if content is None or stop.is_set():
        return None
    functions, branches, longest, name = 0, 0, 0, ""
    for node in nodes(file, content, findings):
        branches += isinstance(node, BRANCHES)
        if isinstance(node, FUNCTIONS):
            functions += 1
            length = (node.end_lineno or 0) - node.lineno + 1
            longest, name = max((longest, name), (length, node.name))
    if longest >= LONG:
        findings.put((file, f"{name}() has {longest} lines"))
    return {
        "file": file,
        "digest": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "compressed": len(zlib.compress(content)),
        "lines": content.count(b"\n"),
        "functions": functions,
        "branches": branches,
        "longest": longest,
        "longest_name": name,
    }


def nodes(file: str, content: bytes, findings: Any) -> Iterator[ast.AST]:
    """Every node of the file's syntax tree; none, and a finding, if it does not parse."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        if encoding not in ("utf-8", "utf-8-sig"):
            findings.put((file, f"is encoded in {encoding}"))
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError) as exc:
        findings.put((file, f"does not parse: {str(exc).partition(' (')[0]}"))
        return
    yield from ast.walk(tree)


@unirun.task(kind="isolated", timeout=PATIENCE)
def hang(file: str) -> None:
    """Stands for a call that never comes back: on a process it is killed when its time is up."""
    while True:
        time.sleep(60)


def ignore_warnings() -> None:
    """In each worker: the library's tests hold code that the parser warns of, on purpose."""
    warnings.simplefilter("ignore")


# -- two long-running tasks that start together: a checksum service and its client -------------


@unirun.task(kind="io")
def serve(barrier: Any, address: Any) -> int:
    """Answer one client: collect its lines "digest file", and seal them when it has no more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address.put(server.getsockname())
        barrier.wait()
        server.settimeout(10)
        connection, _ = server.accept()
    with connection, connection.makefile("rwb") as stream:
        lines = stream.readlines()
        stream.write(seal_of(lines).encode())
    return len(lines)


@unirun.task(kind="io")
def ask(barrier: Any, address: Any, digests: Any) -> str:
    """Hand on digests as they come, until their queue is shut down; then fetch the seal."""
    barrier.wait()
    with socket.create_connection(address.get(timeout=10), timeout=10) as connection:
        for digest, file in digests:
            connection.sendall(line(digest, file))
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read().decode()


def line(digest: str, file: str) -> bytes:
    return f"{digest} {file}\n".encode()


def seal_of(lines: Iterable[bytes]) -> str:
    """One checksum over all, in whatever order they came."""
    return hashlib.sha256(b"".join(sorted(lines))).hexdigest()


@contextmanager
def checksum_service() -> Iterator[tuple[Any, unirun.Future[str]]]:
    """A queue for digests, and the future of the seal over all that were put into it.

    The two tasks have an executor of their own, so that they take no worker from the survey.
    """
    with unirun.Executor(max_workers=2) as services:
        digests, address = services.Queue(), services.Queue(1)
        barrier = services.Barrier(2, timeout=30)
        served = services.submit(serve, barrier, address)
        seal = services.submit(ask, barrier, address, digests)
        try:
            yield digests, seal
        finally:
            digests.shutdown()
        served.result()


# -- the survey, at once and one by one --------------------------------------------------------


def survey(root: str, files: list[str], args: argparse.Namespace, pressed: list[int]) -> Survey:
    """Measure all files but one, whose call hangs."""
    executor = unirun.Executor(args.workers, initializer=ignore_warnings)
    with checksum_service() as (digests, seal), executor:  # tasks run on the innermost one
        hung, others = split(files)
        findings, stop = executor.Queue(), executor.Event()
        stuck = hang.submit(hung)
        measured: list[Measurement] = []
        for measurement in measure_all(root, others, findings, stop, progress=args.progress):
            if measurement is not None:
                measured.append(measurement)
                digests.put((measurement["digest"], measurement["file"]))
            if pressed or len(measured) == args.stop_after:
                stop.set()
        digests.shutdown()
        if not isinstance(stuck.exception(), unirun.TaskTimeout):
            raise RuntimeError("the call that hangs was not ended by its timeout")
        found = sorted(drained(findings))
        return Survey(files, in_order(measured), found, seal.result(), hung, stop.is_set())


def measure_all(
    root: str, files: list[str], findings: Any, stop: Any, *, progress: bool
) -> Iterator[Measurement | None]:
    """Measurements as they finish; a file is read when its turn is near, so memory stays flat."""
    shared = (itertools.repeat(findings), itertools.repeat(stop))
    sources = read.map(itertools.repeat(root), files, *shared, ordered=False)
    return measure.map(sources, *shared, ordered=False, progress=progress)


def survey_serially(root: str, files: list[str], pressed: list[int]) -> Survey:
    """The same, one file after the other: a task that is called is a plain function."""
    hung, others = split(files)
    findings: Any = queue.SimpleQueue()
    stop = threading.Event()
    measured: list[Measurement] = []
    for file in others:
        if pressed:
            break
        measurement = measure(read(root, file, findings, stop), findings, stop)
        if measurement is not None:
            measured.append(measurement)
    seal = seal_of(line(each["digest"], each["file"]) for each in measured)
    found = sorted(drained(findings))
    return Survey(files, in_order(measured), found, seal, hung, bool(pressed))


def split(files: list[str]) -> tuple[str, list[str]]:
    """The file whose call is made to hang, and the others."""
    middle = len(files) // 2
    return files[middle], files[:middle] + files[middle + 1 :]


def in_order(measured: list[Measurement]) -> list[Measurement]:
    return sorted(measured, key=lambda each: each["file"])


def drained(findings: Any) -> Iterator[tuple[str, str]]:
    while True:
        try:
            yield findings.get_nowait()
        except queue.Empty:
            return


# -- the report -----------------------------------------------------------------------------------


def report(survey: Survey) -> Iterator[str]:
    """The lines of the report; the same for the same measurements."""
    measured = survey.measured
    version = ".".join(map(str, sys.version_info[:3]))
    yield f"The source of Python {version}"
    yield f"  files measured {len(measured):>12,} of {len(survey.files):,}"
    for key in ("lines", "functions", "branches", "bytes", "compressed"):
        yield f"  {key:<14} {sum(each[key] for each in measured):>12,}"
    yield "longest functions"
    for each in sorted(measured, key=lambda each: -each["longest"])[:5]:
        yield f"  {each['longest']:>6,} lines     {each['file']}: {each['longest_name']}()"
    yield "most branches"
    for each in sorted(measured, key=lambda each: -each["branches"])[:5]:
        yield f"  {each['branches']:>6,} branches  {each['file']}"
    yield f"findings: {len(survey.findings)}"
    for file, text in survey.findings:
        yield f"  {file}: {text}"
    yield f"given up: 1\n  {survey.hung}: made to hang, ended after {PATIENCE:g} s"
    yield f"seal of {len(measured):,} digests, from the checksum service\n  {survey.seal}"
    if survey.stopped:
        yield "stopped early: this is a partial report"


def python_files(everything: bool) -> tuple[str, list[str]]:
    """The library's directory, and its source files; those of installed packages on demand."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = (path.relative_to(root) for path in root.rglob("*.py"))
    installed = {"site-packages", "dist-packages"}
    return str(root), sorted(
        path.as_posix() for path in found if everything or not installed & set(path.parts)
    )


def at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Survey the source of the standard library.")
    number: Any = {"type": at_least_one, "metavar": "N"}
    parser.add_argument("--files", **number, help="only the first N files")
    parser.add_argument("--all", action="store_true", help="installed packages (site-packages) too")
    parser.add_argument("--workers", **number, help="workers of each backend")
    parser.add_argument("--stop-after", **number, help="stop the survey after N measurements")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no bar")
    parser.add_argument("--no-serial", dest="serial", action="store_false", help="do not compare")
    return parser.parse_args()


def note_interrupts() -> list[int]:
    """A list that gets an entry at the first Ctrl-C; the second one interrupts as usual."""
    pressed: list[int] = []

    def note(signum: int, frame: object) -> None:
        pressed.append(signum)
        signal.signal(signum, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    return pressed


def main() -> int:
    args = options()
    pressed = note_interrupts()
    root, files = python_files(args.all)
    files = files[: args.files]
    began = time.perf_counter()
    result = survey(root, files, args, pressed)
    took = time.perf_counter() - began
    print(*report(result), sep="\n")
    where = f"{read.explain().backend} and {measure.explain().backend}"
    print(f"time: {took:.2f} s on backends {where}")
    if args.serial and not result.stopped:
        ignore_warnings()
        began = time.perf_counter()
        serial = survey_serially(root, files, pressed)
        alone = time.perf_counter() - began
        if not serial.stopped:
            print(f"one file after the other: {'the same' if serial == result else 'DIFFERENT'}")
            print(f"time: {alone:.2f} s one file after the other, {alone / took:.2f} times as long")
    return 130 if pressed else 0


if __name__ == "__main__":
    sys.exit(main())
