"""What the machine lets us use: cgroup files of both versions, affinity, the GIL."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import unirun
from unirun import _machine

HAS_AFFINITY = hasattr(os, "sched_setaffinity")


def quota(tmp_path: Path, files: dict[str, str], own: str = "0::/") -> float | None:
    """The quota with these files in the cgroup file system, and `own` as /proc/self/cgroup."""
    root = tmp_path / "cgroup"
    root.mkdir()
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    return _machine.cgroup_quota(str(root), str(tmp_path / "own"))


# -- version 2 ------------------------------------------------------------------------------------


@pytest.mark.scenario("empty cpu.max", "is no quota")
@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("50000 100000\n", 0.5),
        ("1000 100000\n", 0.01),
        ("max 100000\n", None),
        ("max", None),
        ("", None),
        ("\n", None),
        ("100000", None),
        ("0 100000", None),
        ("-1 100000", None),
        ("100000 0", None),
        ("rubbish 100000", None),
        ("100000 rubbish", None),
        ("200000 100000 and what later kernels may add", 2.0),
    ],
)
def test_cpu_max_is_quota_and_period(tmp_path: Path, text: str, cores: float | None) -> None:
    assert quota(tmp_path, {"cpu.max": text}) == cores


@pytest.mark.scenario(61, "the quota of the cgroup decides")
@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"a/b/cpu.max": "300000 100000"}, 3.0),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "300000 100000"}, 2.0),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "100000 100000"}, 1.0),
        ({"cpu.max": "100000 100000", "a/b/cpu.max": "200000 100000"}, 1.0),
        ({"other/cpu.max": "100000 100000", "a/b/c/cpu.max": "100000 100000"}, None),
        ({"a/b/cgroup.procs": "1"}, None),
    ],
)
def test_the_tightest_quota_above_us_counts(
    tmp_path: Path, files: dict[str, str], cores: float | None
) -> None:
    assert quota(tmp_path, files, "0::/a/b\n") == cores


def test_in_a_container_the_root_is_ours_whatever_our_name_outside(tmp_path: Path) -> None:
    own = "0::/../../system.slice/docker-123.scope\n"
    assert quota(tmp_path, {"cpu.max": "250000 100000"}, own) == 2.5


# -- version 1 ------------------------------------------------------------------------------------

V1 = "12:cpuset:/\n4:cpu,cpuacct:/docker/123\n1:name=systemd:/docker/123\n"


def v1(folder: str, microseconds: str, period: str = "100000\n") -> dict[str, str]:
    return {
        f"cpu/{folder}cpu.cfs_quota_us": microseconds,
        f"cpu/{folder}cpu.cfs_period_us": period,
    }


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        (v1("", "150000\n"), 1.5),
        (v1("docker/123/", "300000\n"), 3.0),
        (v1("docker/", "100000\n") | v1("docker/123/", "300000\n"), 1.0),
        (v1("docker/123/", "-1\n"), None),
        (v1("docker/123/", ""), None),
        (v1("docker/123/", "100000", ""), None),
        (v1("docker/123/", "100000", "0"), None),
        (v1("docker/456/", "100000\n"), None),
        ({"cpu/docker/123/cpu.cfs_quota_us": "100000"}, None),
    ],
)
def test_version_1_has_two_files(
    tmp_path: Path, files: dict[str, str], cores: float | None
) -> None:
    assert quota(tmp_path, files, V1) == cores


def test_of_both_versions_the_tighter_one_counts(tmp_path: Path) -> None:
    files = {**v1("docker/123/", "300000"), "a/cpu.max": "200000 100000"}
    assert quota(tmp_path, files, V1 + "0::/a\n") == 2.0


@pytest.mark.parametrize(
    "own", ["", "rubbish", "::", "0:\n\n", "4:cpu\n", "\x00\xff:::", "a:b:c:d"]
)
def test_what_cannot_be_read_is_no_quota(tmp_path: Path, own: str) -> None:
    assert quota(tmp_path, {}, own) is None


def test_where_there_are_no_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert _machine.cgroup_quota(missing, missing) is None


def test_bytes_that_are_no_text_are_no_quota(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    root.mkdir()
    (root / "cpu.max").write_bytes(b"\xff\xfe 100000")
    assert _machine.cgroup_quota(str(root), str(tmp_path / "missing")) is None


def test_a_cgroup_may_have_any_name(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/cgroup/\xff\xfe"
    Path(os.fsdecode(folder)).mkdir(parents=True)
    (Path(os.fsdecode(folder)) / "cpu.max").write_text("100000 100000")
    (tmp_path / "own").write_bytes(b"0::/\xff\xfe\n")
    assert _machine.cgroup_quota(str(tmp_path / "cgroup"), str(tmp_path / "own")) == 1.0


# -- cores ----------------------------------------------------------------------------------------


@pytest.mark.scenario(61, "affinity within the quota decides")
@pytest.mark.parametrize(
    ("affinity", "limit", "cores"),
    [
        (8, None, 8),
        (8, 2.0, 2),
        (8, 1.5, 2),
        (8, 1.01, 2),
        (8, 0.1, 1),
        (2, 16.0, 2),
        (1, 0.5, 1),
        (1, None, 1),
    ],
)
def test_cores_are_those_of_the_mask_within_the_quota(
    monkeypatch: pytest.MonkeyPatch, affinity: int, limit: float | None, cores: int
) -> None:
    mask = set(range(affinity))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: mask, raising=False)
    monkeypatch.setattr(_machine, "cgroup_quota", lambda: limit)
    assert unirun.cpu_count() == cores


@pytest.mark.parametrize(("counted", "cores"), [(6, 6), (None, 1)])
def test_without_a_mask_the_cores_of_the_machine_count(
    monkeypatch: pytest.MonkeyPatch, counted: int | None, cores: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    monkeypatch.setattr(_machine, "cgroup_quota", lambda: None)
    assert unirun.cpu_count() == cores


@pytest.mark.skipif(not HAS_AFFINITY, reason="this system has no affinity masks")
def test_a_process_that_is_bound_to_one_core_has_one() -> None:
    code = (
        "import os, unirun\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "with unirun.Executor(backend='process') as executor:\n"
        "    print(unirun.cpu_count(), executor._max_workers,\n"
        "          executor.submit(unirun.cpu_count).result(20),\n"
        "          executor.stats()['process'].max_workers)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == ["1", "1", "1", "1"]


def test_the_cores_of_this_machine_are_at_least_one_and_not_more_than_it_has() -> None:
    assert 1 <= unirun.cpu_count() <= (os.cpu_count() or 1)


# -- the GIL --------------------------------------------------------------------------------------


@pytest.mark.parametrize("enabled", [True, False])
def test_whether_there_is_a_gil_is_what_this_python_says(
    monkeypatch: pytest.MonkeyPatch, enabled: bool
) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: enabled, raising=False)
    assert _machine.gil_enabled() is enabled


def test_a_python_that_cannot_tell_has_a_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    assert _machine.gil_enabled()
