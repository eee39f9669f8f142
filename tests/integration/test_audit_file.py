"""Many processes write one audit: through rotation, kills, a full disk, and where it may only be appended to."""

from __future__ import annotations

import json
import logging
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.audit.trail import Trail, Unwritten

SOON = 60.0
WRITER = """
import json, sys
from pathlib import Path
from bridge.audit.trail import Trail
file, name, lines, fill, max_size = sys.argv[1:]
trail = Trail(Path(file), max_size=int(max_size), keep=1000)
for number in range(int(lines)):
    line = json.dumps({"version": 1, "by": name, "number": number, "fill": "x" * int(fill)}, separators=(",", ":"))
    trail.append(line.encode() + b"\\n")
    print(number, flush=True)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    directory = tmp_path / "audit"
    directory.mkdir(mode=0o700)
    return directory / "audit.jsonl"


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(file: Path) -> Iterator[Start]:
    """Start processes that write lines; each says of every line that it is written."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *, lines: int, fill: int, max_size: int) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", WRITER, str(file), name, str(lines), str(fill), str(max_size)]
        started.append(subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait(SOON)


def line(number: int, fill: int = 0) -> bytes:
    return json.dumps({"version": 1, "number": number, "fill": "x" * fill}, separators=(",", ":")).encode() + b"\n"


def written(file: Path) -> list[tuple[str, int]]:
    """Read every file in the order of time; each must end with a whole line."""
    found = []
    for each in [*sorted(file.parent.glob("audit.jsonl.*")), file]:
        content = each.read_text()
        assert content.endswith("\n"), each
        found += [(told["by"], told["number"]) for told in map(json.loads, content.splitlines())]
    return found


def test_lines_of_many_processes_are_whole_and_none_is_lost_or_twice_while_files_are_moved_away(
    file: Path, start: Start
) -> None:
    names = "abcdef"
    writers = [start(name, lines=300, fill=200, max_size=10_000) for name in names]
    for each in writers:
        each.communicate(timeout=SOON)
        assert each.returncode == 0
    found = written(file)
    assert Counter(found) == Counter((name, number) for name in names for number in range(300))
    for name in names:
        assert [number for by, number in found if by == name] == list(range(300)), "in the order of time"
    moved = list(file.parent.glob("audit.jsonl.*"))
    assert len(moved) > 20
    assert all(each.stat().st_size <= 10_000 for each in (*moved, file))


def test_a_kill_in_the_middle_leaves_whole_lines_and_no_line_that_was_told_is_lost(file: Path, start: Start) -> None:
    chance = random.Random(8)  # noqa: S311 - which line is hit does not matter
    told: set[tuple[str, int]] = set()
    for turn in range(12):
        killed, goes_on = start(f"k{turn}", lines=10**6, fill=400_000, max_size=2**22), None
        assert killed.stdout is not None
        for _ in range(chance.randint(1, 6)):
            told.add((f"k{turn}", int(killed.stdout.readline())))
        killed.send_signal(signal.SIGKILL)
        rest, _ = killed.communicate(timeout=SOON)
        told |= {(f"k{turn}", int(each)) for each in rest.split("\n")[:-1]}
        goes_on = start(f"g{turn}", lines=2, fill=10, max_size=2**22)
        goes_on.communicate(timeout=SOON)
        assert goes_on.returncode == 0
        told |= {(f"g{turn}", 0), (f"g{turn}", 1)}
    found = written(file)
    assert len(found) == len(set(found))
    assert told <= set(found)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_on_a_full_disk_a_line_is_refused_whole_and_the_next_that_fits_is_written(small_disk: Path) -> None:
    file = small_disk / "audit.jsonl"
    trail = Trail(file, max_size=2**20, keep=1)
    count = 0

    def fill() -> None:
        nonlocal count
        while True:
            trail.append(line(count, 3000))
            count += 1

    with pytest.raises(Unwritten, match="No space left on device; make room there"):
        fill()
    assert count > 10
    numbers = [json.loads(each)["number"] for each in file.read_text().splitlines()]
    assert numbers == list(range(count)), "nothing of the last one is there"
    trail.append(line(count))
    assert json.loads(file.read_text().splitlines()[-1])["number"] == count


@pytest.fixture
def append_only(file: Path) -> Iterator[Path]:
    Trail(file, max_size=200, keep=3).append(line(0))
    subprocess.run(["chattr", "+a", str(file)], check=True)
    yield file
    subprocess.run(["chattr", "-a", str(file)], check=True)


def test_a_file_that_may_only_be_appended_to_grows_and_says_so_once(
    append_only: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trail = Trail(append_only, max_size=200, keep=3)
    with caplog.at_level(logging.WARNING):
        for number in range(1, 20):
            trail.append(line(number))
    assert [json.loads(each)["number"] for each in append_only.read_text().splitlines()] == list(range(20))
    assert list(append_only.parent.iterdir()) == [append_only]
    assert len(caplog.records) == 1
    assert "does not let it be moved" in caplog.text
    assert trail.is_too_long()


def test_a_torn_line_that_cannot_be_taken_out_gets_an_end(append_only: Path) -> None:
    with append_only.open("ab") as torn:
        torn.write(line(1)[:-5])
    Trail(append_only, max_size=10_000, keep=3).append(line(2))
    first, torn_line, last = append_only.read_text().splitlines()
    assert (json.loads(first)["number"], json.loads(last)["number"]) == (0, 2)
    assert torn_line == line(1)[:-5].decode()
