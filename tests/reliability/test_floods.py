"""Item 8: what workers write to stderr holds up nobody, however much, and whoever reads it."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from process import watch
from worlds import LIMIT

RecordProperty = Callable[[str, object], None]


FLOOD = """
import os, sys, time, psutil, unirun
import reliability_bodies_worlds as bodies

seconds, how = float(sys.argv[1]), sys.argv[2]
with unirun.Executor(2, backend="process", grace=0.2) as executor:
    executor.submit(bodies.double, 1).result(20)
    before = psutil.Process().memory_info().rss
    flag = os.path.abspath("flag")
    flooding = executor.submit(bodies.flood, seconds, how, flag)
    while not os.path.exists(flag):
        time.sleep(0.001)
    others, worst, until = 0, 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        begun = time.monotonic()
        assert executor.submit(bodies.double, others).result(20) == 2 * others
        others, worst = others + 1, max(worst, time.monotonic() - begun)
    grown = psutil.Process().memory_info().rss - before
    if sys.argv[3] == "read":
        rate = flooding.result(20) / seconds / 1e9
    else:
        assert flooding.running()
        rate = 0
        assert flooding.kill()
    assert executor.submit(bodies.double, 4).result(20) == 8
print(others, grown, f"{worst * 1000:.0f}", f"{rate:.1f}")
"""


def flooded(path: Path, how: str, reader: str, seconds: float, stderr: int) -> list[float]:
    """Calls beside it, bytes the parent has grown by, ms of the slowest call, GB/s written."""
    done = subprocess.run(
        [*watch.script(path, FLOOD), f"{seconds}", how, reader],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=LIMIT,
        cwd=path,
        check=True,
        env=watch.with_tests_on_path(),
    )
    return [float(word) for word in done.stdout.split()]


@pytest.mark.scenario("2 GB/s of worker stderr", "the others go on, and the parent does not grow")
@pytest.mark.parametrize("how", ["descriptor", "stream"])
def test_a_flood_of_stderr_holds_up_nobody(
    tmp_path: Path, how: str, record_property: RecordProperty
) -> None:
    """Nobody of ours stands between a worker and its stderr: it is the program's own."""
    others, grown, worst, rate = flooded(tmp_path, how, "read", 0.5, subprocess.DEVNULL)
    assert others > 10
    assert grown < 16 << 20
    record_property(
        "figure", f"{rate} GB/s; {others:.0f} calls beside it, the slowest {worst:.0f} ms"
    )


@pytest.mark.scenario(
    "stderr a pipe that nobody reads", "its call hangs; others go on; kill ends it"
)
@pytest.mark.parametrize("how", ["descriptor", "stream"])
def test_a_stderr_that_nobody_reads_holds_up_nobody_else(tmp_path: Path, how: str) -> None:
    reader, writer = os.pipe()
    try:
        others, grown, _, _ = flooded(tmp_path, how, "not read", 0.3, writer)
    finally:
        os.close(reader)
        os.close(writer)
    assert others > 10
    assert grown < 16 << 20


CLOSED = """
import sys, unirun
import reliability_bodies_worlds as bodies

with unirun.Executor(1, backend="process", mp_context=sys.argv[1]) as executor:
    error = executor.submit(bodies.complain).exception(20)
    assert error is None or isinstance(error, BrokenPipeError), error
    assert executor.submit(bodies.double, 3).result(20) == 6
print("fine")
"""


@pytest.mark.scenario("stderr a closed pipe", "a BrokenPipeError of the call that writes, no crash")
@pytest.mark.parametrize("method", ["zygote", "fork"])
def test_a_stderr_whose_reader_has_gone(tmp_path: Path, method: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*watch.script(tmp_path, CLOSED), method],
            stdout=subprocess.PIPE,
            stderr=writer,
            text=True,
            timeout=LIMIT,
            cwd=tmp_path,
            check=False,
            env=watch.with_tests_on_path(),
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stdout) == (0, "fine\n")
