"""A disk that is full where the server keeps what runs: it serves on, and says what is not kept."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.faults.conftest import Bridge, Serve, fill, run


def serves_on(server: Bridge) -> None:
    """All of a session's everyday, on a kernel that is connected."""
    assert server.call("execute_code", code="y = 6\ny * 7").startswith("42")
    assert '"y"' in server.call("list_variables")
    assert "ZeroDivisionError" in server.refused("execute_code", code="1 / 0")
    long = server.call("execute_code", code="for n in range(20_000): print('line', n)")
    assert "line 0\n" in long
    assert "line 19999" in long
    assert server.call("get_execution", execution=1)


def test_when_the_server_starts(bridge: Serve, host_kernel: Any, small_disk: Path) -> None:
    fill(small_disk)
    server = bridge(XDG_STATE_HOME=str(small_disk)).greet()
    server.connect(host_kernel)
    first = server.call("execute_code", code="x = 6")
    assert first.startswith("Not all that runs here is kept on disk: database or disk is full. ")
    assert "Make room there" in first
    assert "kept" not in server.call("execute_code", code="print(x * 7)"), "once"
    serves_on(server)
    done = run("run", str(host_kernel.file), "-c", "print(x)", XDG_STATE_HOME=str(small_disk))
    assert (done.returncode, done.stdout) == (0, "6\n")
    assert done.stderr.count("is kept on disk") == 1
    assert "Traceback" not in server.log.read_text() + done.stderr


def test_while_it_runs(bridge: Serve, host_kernel: Any, small_disk: Path) -> None:
    server = bridge(XDG_STATE_HOME=str(small_disk)).greet()
    server.connect(host_kernel)
    assert "kept" not in server.call("execute_code", code="x = 6")
    fill(small_disk)
    told = server.call("execute_code", code="for n in range(20_000): print('line', n)")
    assert told.count("Not all of this output could be kept to be read later: database or disk is full.") == 1
    assert "reads all of it" not in told
    serves_on(server)
    assert "could be kept" in server.call("get_activity")
    assert server.log.read_text().count("not all output can be kept on disk") == 1
    (small_disk / "filling").unlink()
    assert "kept" not in server.call("execute_code", code="print(x * 7)"), "there is room again"
    assert "Traceback" not in server.log.read_text()


def test_a_lock_that_another_program_holds_for_a_while_is_told_as_that_and_a_full_disk_after_it_too(
    bridge: Serve, host_kernel: Any, small_disk: Path
) -> None:
    server = bridge(XDG_STATE_HOME=str(small_disk)).greet()
    server.connect(host_kernel)
    server.call("execute_code", code="x = 6")
    (file,) = small_disk.rglob("cells.sqlite")
    with closing(sqlite3.connect(file, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        told = server.call("execute_code", code="print(x * 7)")
        assert "another program held a lock on the file" in told
        assert "Make room" not in told
        foreign.execute("ROLLBACK")
    assert "kept" not in server.call("execute_code", code="print(x * 7)")
    fill(small_disk)
    assert "disk is full" in server.call("execute_code", code="for n in range(20_000): print('line', n)")
    serves_on(server)
