"""The file of a trace: a JSON array that may lack its end, compressed or not, of one writer."""

import gzip
import json
import zlib
from pathlib import Path

import pytest

from unirun._trace_file import InUse, TraceFile, named

LINES = ['{"n":1}', '{"n":2}']


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        *(("run.json", "run.json"), ("run-%p.json", "run-7.json"), ("{pid}.gz", "7.gz")),
        *(("100%%p", "100%p"), ("%p%%%p", "7%7"), ("%d", "%d")),
    ],
)
def test_the_name_may_hold_the_number_of_the_process(pattern, name):
    assert named(pattern, 7) == name


def test_what_is_written_in_pieces_is_one_array(tmp_path):
    file = TraceFile(str(tmp_path / "run.json"))
    file.write(LINES)
    file.write([])
    file.write(LINES)
    file.close(['{"n":3}'])
    found = json.loads((tmp_path / "run.json").read_text())
    assert [each["n"] for each in found] == [1, 2, 1, 2, 3]


def test_a_compressed_one_is_the_same(tmp_path):
    file = TraceFile(str(tmp_path / "run.json.gz"))
    file.write(LINES)
    file.close(LINES)
    assert len(json.loads(gzip.decompress((tmp_path / "run.json.gz").read_bytes()))) == 4


@pytest.mark.parametrize("name", ["run.json", "run.json.gz"])
def test_every_write_can_be_read_before_the_file_is_closed(tmp_path, name):
    file = TraceFile(str(tmp_path / name))
    try:
        for count in (2, 4, 6):
            file.write(LINES)
            data = (tmp_path / name).read_bytes()
            if name.endswith(".gz"):
                data = zlib.decompressobj(wbits=31).decompress(data)
            assert len(json.loads(data.decode() + "]")) == count
    finally:
        file.forget()


def test_an_older_file_is_replaced_and_not_before_it_is_free(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("x" * 10_000)
    file = TraceFile(str(path))
    file.write(LINES)
    with pytest.raises(InUse):
        TraceFile(str(path))
    assert path.read_text().startswith("[\n{")
    file.close([])
    TraceFile(str(path)).close([])
    assert "n" not in path.read_text()


def test_what_cannot_be_made_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        TraceFile(str(tmp_path / "no" / "run.json"))


def test_a_full_disk_is_an_error_of_the_writer_and_the_file_is_closed_all_the_same():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    file = TraceFile("/dev/full")
    with pytest.raises(OSError, match="No space"):
        file.close(LINES)
    file.forget()
