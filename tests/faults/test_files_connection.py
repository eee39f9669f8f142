"""Connection files that change while they are read, and what stands where a kernel should be."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.connection import ConnectionInfo, load
from bridge.errors import BadConnectionFile

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


def content(number: int) -> bytes:
    """Return a connection file; its length says which."""
    ports = {name: number + place for place, name in enumerate(PORTS, 1)}
    return json.dumps({"ip": "127.0.0.1", "key": str(number) * 32, **ports}, indent=1).encode()


@contextmanager
def rewritten(file: Path, pieces: int) -> Iterator[None]:
    """Have two connection files written over each other, in pieces, again and again."""
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            number = 3 - max(number, 1)
            whole = content(number * 1000)
            with file.open("wb", buffering=0) as out:
                for start in range(0, len(whole), len(whole) // pieces):
                    out.write(whole[start : start + len(whole) // pieces])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()


def test_a_file_that_is_just_being_written_is_read_whole_or_told_as_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "kernel-x.json"
    file.write_bytes(content(1000))
    seen: set[str] = set()
    with rewritten(file, 7):
        for number in range(300_000):
            if number > 3000 and len(seen) > 2:
                break
            try:
                info = load(file)
            except BadConnectionFile as error:
                seen.add(str(error).removeprefix(f"The connection file {file} "))
            else:
                seen.add("whole" if info == expected(info.shell_port - 1) else f"mixed: {info}")
    again = "; start the kernel again or name another."
    assert seen <= {"whole", f"is empty{again}", f"is not complete JSON (cut short, or being written just now){again}"}
    assert len(seen) == 3


def expected(number: int) -> ConnectionInfo:
    one, two, three, four, five = range(number + 1, number + 6)
    return ConnectionInfo("tcp", "127.0.0.1", one, two, three, four, five, key=str(number) * 32)
