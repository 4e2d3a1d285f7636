"""What a worker leaves behind when it dies: its last words on stderr, and its stack."""

import mmap
import os
import pty
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from process.line import PATIENCE

from unirun.backends.process import remains, system

CALL = 7
PRELUDE = """
import logging, mmap, os, sys, threading, traceback, warnings
from unirun.backends.process import remains

early = logging.StreamHandler(sys.stderr)
plain = sys.stderr
remains.prepare()
memory = mmap.mmap({fd}, remains.SIZE)
call = [{call}]
remains.arm({fd}, memory, lambda: call[0])
"""


class Death(NamedTuple):
    """What came of a process: what it left, how it ended, and what it really wrote to stderr."""

    remains: remains.Remains
    status: int
    written: str


@pytest.fixture
def memory() -> Iterator[int]:
    fd = system.make_memory(remains.SIZE)
    yield fd
    os.close(fd)


def die(memory: int, body: str, stderr: int | None = None, *, closed: bool = False) -> Death:
    """Run `body` in a process that leaves its remains in `memory`."""
    source = PRELUDE.format(fd=memory, call=CALL) + textwrap.dedent(body)
    command = [sys.executable, "-c", source]
    if closed:
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    done = subprocess.run(
        command,
        pass_fds=(memory,),
        stdout=subprocess.PIPE if stderr is None else None,
        stderr=subprocess.PIPE if stderr is None else stderr,
        text=True,
        timeout=PATIENCE,
    )
    return Death(remains.read(memory, CALL), done.returncode, done.stderr)


# -- what is written ------------------------------------------------------------------------------

WAYS = {
    "write": "sys.stderr.write('the words\\n')",
    "writelines": "sys.stderr.writelines(['the ', 'words\\n'])",
    "print": "print('the', 'words', file=sys.stderr)",
    "the stream of old": "print('the words', file=sys.__stderr__)",
    "the last resort of logging": "logging.warning('the words')",
    "a handler made before": "early.emit(logging.makeLogRecord({'msg': 'the words'}))",
    "a warning": "warnings.warn('the words')",
    "a traceback": "\ntry: raise ValueError('the words')\nexcept ValueError: traceback.print_exc()",
    "an error in a thread": (
        "t = threading.Thread(target=lambda: {}['the words']); t.start(); t.join()"
    ),
    "an error that cannot be raised": """
class Thing:
    def __del__(self):
        raise ValueError('the words')
Thing()
""",
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_is_written_is_left_and_comes_through(memory: int, way: str) -> None:
    death = die(memory, f"{way}\nos._exit(3)")
    assert death.status == 3
    assert "the words" in death.written
    assert death.remains.stderr == death.written


def test_what_is_written_comes_through_in_order(memory: int) -> None:
    body = """
    for n in range(3):
        print("python", n, file=sys.stderr)
        os.write(2, b"system %d\\n" % n)
    os._exit(0)
    """
    death = die(memory, body)
    expected = [f"{who} {n}" for n in range(3) for who in ("python", "system")]
    assert death.written.splitlines() == expected
    assert death.remains.stderr.splitlines() == [f"python {n}" for n in range(3)]


def test_a_line_that_was_not_ended_is_left(memory: int) -> None:
    death = die(memory, "print('working on 17 ...', end=' ', file=sys.stderr)\nos._exit(0)")
    assert death.remains.stderr == "working on 17 ... "


def test_words_are_left_by_a_process_that_is_killed(memory: int) -> None:
    death = die(memory, "print('so far', file=sys.stderr)\nos.kill(os.getpid(), 9)")
    assert death.status == -signal.SIGKILL
    assert (death.remains.stderr, death.remains.stack) == ("so far\n", "")


def test_who_writes_nothing_leaves_nothing(memory: int) -> None:
    death = die(memory, "os._exit(0)")
    assert (death.remains.stderr, death.remains.stack) == ("", "")


@pytest.mark.parametrize(
    "value", ["3", "b'bytes'", "None"], ids=["a number", "bytes", "nothing at all"]
)
def test_what_the_stream_refuses_it_still_refuses(memory: int, value: str) -> None:
    body = f"""
    try:
        sys.stderr.write({value})
    except TypeError as exc:
        print("refused:", exc, file=sys.stderr)
    """
    assert "refused: write() argument must be str" in die(memory, body).written


def test_a_text_that_no_encoding_has_is_left(memory: int) -> None:
    body = "print('caf\\u00e9 \\U0001f984 \\udcff', file=sys.stderr)"
    assert die(memory, body).remains.stderr == "caf\u00e9 \U0001f984 \\udcff\n"


# -- only the end, and only of this call ----------------------------------------------------------


def test_of_many_lines_the_last_are_left_from_a_whole_one_on(memory: int) -> None:
    death = die(memory, "for n in range(20000): print('line', n, file=sys.stderr)")
    written = death.written.splitlines()
    left = death.remains.stderr.splitlines()
    assert written == [f"line {n}" for n in range(20000)]
    assert len(left) > 500
    assert left == written[-len(left) :]


@pytest.mark.parametrize("character", ["x", "\u00e9", "\U0001f984"])
def test_of_a_long_text_the_end_is_left(memory: int, character: str) -> None:
    body = f"sys.stderr.write({character!r} * 100_000 + 'the end')"
    death = die(memory, body)
    assert death.written == character * 100_000 + "the end"
    left = death.remains.stderr
    assert left.endswith(character * 2000 + "the end")
    assert len(left) < 20_000


def test_long_and_short_texts_follow_one_another(memory: int) -> None:
    generator = random.Random(4)
    lengths = [generator.choice((1, 10, 5000, 30_000)) for _ in range(40)]
    body = f"for n, length in enumerate({lengths}): print(n, 'x' * length, file=sys.stderr)"
    death = die(memory, body)
    assert death.remains.stderr
    assert death.written.endswith(death.remains.stderr)


def test_words_are_those_of_the_call(memory: int) -> None:
    body = f"""
    call[0] = {CALL} - 1
    print("of the one before", file=sys.stderr)
    call[0] = {CALL}
    print("of this one", file=sys.stderr)
    """
    assert die(memory, body).remains.stderr == "of this one\n"


def test_words_of_an_earlier_call_are_not_those_of_one_that_says_nothing(memory: int) -> None:
    body = f"""
    call[0] = {CALL} - 1
    print("of the one before", file=sys.stderr)
    call[0] = {CALL}
    """
    assert die(memory, body).remains.stderr == ""
    assert remains.read(memory, CALL - 1).stderr == "of the one before\n"


# -- stderr stays what it was ---------------------------------------------------------------------

ABOUT = """
about = lambda f: (f.isatty(), f.fileno(), f.encoding, f.errors, f.line_buffering, f.name, f.mode)
"""


def test_the_stream_is_the_same_object(memory: int) -> None:
    body = """
    assert sys.stderr is sys.__stderr__ is plain
    assert sys.stderr.fileno() == 2
    assert not sys.stderr.isatty()
    assert type(sys.stderr).__name__ == "TextIOWrapper"
    sys.stderr.reconfigure(encoding="latin-1", errors="replace")
    assert sys.stderr.encoding == "latin-1"
    assert print("fine", file=sys.stderr) is None
    assert sys.stderr.write("four") == 4
    """
    assert die(memory, body).written == "finefour".replace("fine", "fine\n")


def test_a_terminal_stays_a_terminal(memory: int) -> None:
    ours, theirs = pty.openpty()
    try:
        body = "print(sys.stderr.isatty(), os.isatty(2), file=sys.stderr)"
        death = die(memory, body, theirs)
        assert os.read(ours, 1000).decode().split() == ["True", "True"]
        assert death.remains.stderr == "True True\n"
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    "replace",
    [
        "sys.stderr = io.StringIO()",
        "sys.stderr = sys.__stderr__ = io.StringIO()",
        "sys.stderr = None",
        "sys.stderr = open(os.devnull, 'w')",
        "sys.stderr = io.TextIOWrapper(sys.stderr.detach(), 'utf-8', line_buffering=True)",
        "sys.stderr.close()",
        "del sys.stderr",
        "del sys.stderr.write",
        "redirect = contextlib.redirect_stderr(io.StringIO()); redirect.__enter__()",
    ],
)
def test_a_task_may_replace_the_stream(memory: int, replace: str) -> None:
    body = f"import contextlib, io\nprint('before', file=sys.stderr)\n{replace}\n"
    body += "if getattr(sys, 'stderr', None) and not sys.stderr.closed:\n"
    body += "    print('after', file=sys.stderr)\nos._exit(5)"
    death = die(memory, body)
    assert death.status == 5
    assert death.remains.stderr.startswith("before\n")


def test_what_is_redirected_goes_there_and_back(memory: int) -> None:
    body = """
    import contextlib, io
    kept = io.StringIO()
    with contextlib.redirect_stderr(kept):
        print("kept", file=sys.stderr)
    print("not kept", file=sys.stderr)
    assert kept.getvalue() == "kept\\n"
    """
    death = die(memory, body)
    assert death.written == death.remains.stderr == "not kept\n"


def test_without_a_stderr_there_is_still_a_stack(memory: int) -> None:
    body = """
    assert sys.stderr is None
    os.write(2, b"where C code would write")
    os.abort()
    """
    death = die(memory, body, closed=True)
    assert os.pread(memory, 4096, 0) == bytes(4096)
    assert death.status == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in death.remains.stack


# -- the stack ------------------------------------------------------------------------------------

FATAL = {
    "SIGSEGV": ("__import__('ctypes').string_at(0)", "Segmentation fault"),
    "SIGABRT": ("os.abort()", "Aborted"),
    "SIGBUS": ("os.kill(os.getpid(), 7)", "Bus error"),
}


@pytest.mark.parametrize("name", FATAL)
def test_a_fatal_signal_leaves_the_stack(memory: int, name: str) -> None:
    act, text = FATAL[name]
    body = f"""
    def inner():
        {act}
    def outer():
        inner()
    outer()
    """
    death = die(memory, body)
    assert death.status == -getattr(signal, name)
    assert death.remains.stack.startswith(f"Fatal Python error: {text}")
    functions = [line.split()[-1] for line in death.remains.stack.splitlines() if "File" in line]
    at = functions.index("inner")
    assert functions[at : at + 3] == ["inner", "outer", "<module>"]
    assert death.written == ""


def test_the_stack_tells_of_every_thread(memory: int) -> None:
    body = """
    ready = threading.Event()
    def wait_in_vain():
        ready.set()
        threading.Event().wait()
    threading.Thread(target=wait_in_vain, daemon=True).start()
    ready.wait()
    os.abort()
    """
    stack = die(memory, body).remains.stack
    assert "in wait_in_vain" in stack
    assert stack.count("Current thread") == 1


def test_how_the_worker_came_to_call_the_task_is_left_out(memory: int) -> None:
    worker = str(Path(remains.__file__).with_name("worker.py"))
    part = (
        "Current thread 0x0000000000000001 (most recent call first):\n"
        '  File "/home/me/work.py", line 3 in task\n'
        f'  File "{worker}", line 300 in _outcome\n'
        f'  File "{worker}", line 200 in serve\n'
        '  File "<string>", line 1 in <module>'
    )
    os.pwrite(memory, f"Fatal Python error: X\n\n{part}\n\nExtension modules: a".encode(), 16384)
    assert remains.read(memory, CALL).stack == (
        "Fatal Python error: X\n\n"
        "Current thread 0x0000000000000001 (most recent call first):\n"
        '  File "/home/me/work.py", line 3 in task\n\n'
        "Extension modules: a"
    )


def test_a_stack_without_a_frame_of_the_task_keeps_one(memory: int) -> None:
    worker = str(Path(remains.__file__).with_name("worker.py"))
    text = f'Current thread 0x1:\n  File "{worker}", line 3 in a\n  File "{worker}", line 4 in b'
    os.pwrite(memory, text.encode(), 16384)
    assert remains.read(memory, CALL).stack == "\n".join(text.splitlines()[:2])


# -- children, descriptors, garbage ---------------------------------------------------------------


def test_a_forked_child_writes_and_crashes_on_its_own_account(memory: int) -> None:
    body = """
    print("the worker", file=sys.stderr)
    def crash():
        print("the child", file=sys.stderr)
        os.abort()
    pid = os.fork()
    if not pid:
        crash()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -6
    os._exit(3)
    """
    death = die(memory, body)
    assert (death.remains.stderr, death.remains.stack) == ("the worker\n", "")
    assert death.written.startswith("the worker\nthe child\nFatal Python error: Aborted")
    assert "in crash" in death.written


def test_a_forked_child_without_stderr_leaves_nothing(memory: int) -> None:
    body = """
    pid = os.fork()
    if not pid:
        os.abort()
    os._exit(int(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -6))
    """
    death = die(memory, body, closed=True)
    assert death.status == 1
    assert (death.remains.stderr, death.remains.stack) == ("", "")


def test_the_files_of_a_task_that_closes_everything_are_its_own(
    memory: int, tmp_path: Path
) -> None:
    body = f"""
    os.closerange(3, 1000)
    fds = [os.open({str(tmp_path)!r} + f"/{{n}}", os.O_RDWR | os.O_CREAT) for n in range(100)]
    print("still heard", file=sys.stderr)
    os.fork()
    os.abort()
    """
    death = die(memory, body)
    assert death.status == -signal.SIGABRT
    assert death.remains.stderr == "still heard\n"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b""] * 100


def test_the_programs_of_a_task_inherit_nothing_of_it(memory: int) -> None:
    body = f"""
    import subprocess
    os.set_inheritable({memory}, False)
    sys.stdout.write(subprocess.run(
        ["ls", "-l", "/proc/self/fd"], close_fds=False, stdout=subprocess.PIPE, text=True
    ).stdout)
    print([os.get_inheritable(fd) for fd in range(200, 210) if os.path.exists(f"/dev/fd/{{fd}}")],
          file=sys.stderr)
    """
    assert die(memory, body).remains.stderr == "[False, False]\n"


@pytest.mark.parametrize(
    ("allowed", "place", "stack"),
    [(100, "remains.prepare()", True), (100, "remains.arm(", False), (0, "remains.arm(", False)],
)
def test_few_descriptors_are_no_reason_not_to_work(
    memory: int, allowed: int, place: str, stack: bool
) -> None:
    limit = "import faulthandler, fcntl, resource\n"
    limit += f"resource.setrlimit(resource.RLIMIT_NOFILE, ({allowed}, 1000))"
    source = PRELUDE.format(fd=memory, call=CALL).replace(place, f"{limit}\n{place}")
    source += "print('words', file=sys.stderr)\nos.abort()"
    done = subprocess.run(
        [sys.executable, "-c", source],
        pass_fds=(memory,),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGABRT, "words\n")
    left = remains.read(memory, CALL)
    assert left.stderr == "words\n"
    assert ("Aborted" in left.stack) == stack


@pytest.mark.parametrize("seed", range(20))
def test_any_garbage_is_some_text(memory: int, seed: int) -> None:
    data = bytearray(random.Random(seed).randbytes(remains.SIZE))
    data[4096:4104] = CALL.to_bytes(8, "little")
    os.pwrite(memory, bytes(data), 0)
    left = remains.read(memory, CALL)
    assert isinstance(left.stderr, str)
    assert isinstance(left.stack, str)
    assert len(left.stderr) <= remains.SIZE


def test_a_mapping_reads_as_its_descriptor(memory: int) -> None:
    die(memory, "print('words', file=sys.stderr)\nos.abort()")
    with mmap.mmap(memory, remains.SIZE) as mapped:
        left, same = remains.read(mapped, CALL), remains.read(memory, CALL)
    assert (left.stderr, left.stack) == (same.stderr, same.stack)
    assert left.stderr == "words\n"
    assert "Aborted" in left.stack
