"""A server over stdio is ended while something goes on: in time, and what goes on is left as it is and found again.

One test for each thing that goes on, with the ways to end: the client closes stdin or stdout, a signal, SIGKILL.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.faults.conftest import SOON, Bridge, Cell, End, Serve, asked, ours, run, until


def runs(kernel: Any, code: str, printed: str) -> None:
    """The kernel lives, is found, and is as it was."""
    done = run("run", str(kernel.file), "-c", code)
    assert (done.returncode, done.stdout) == (0, printed), done.stderr


def journal_of(kernel: str, file: Path, **environment: str) -> str:
    """Return what a later command reads of what the bridge has seen."""
    done = run("export", kernel, str(file), **environment)
    assert done.returncode == 0, done.stderr
    return file.read_text()


def test_before_anybody_has_said_anything(bridge: Serve, end: End) -> None:
    server = bridge()
    until(lambda: signal.SIGTERM in caught(server), "its handlers of signals")
    end(server)


def caught(server: Bridge) -> set[int]:
    """Return the signals for which a process has handlers."""
    (line,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{server.process.pid}/status").read_text(), re.MULTILINE)
    return {number for number in range(1, 65) if int(line, 16) >> (number - 1) & 1}


def test_while_nothing_goes_on(bridge: Serve, end: End, host_kernel: Any, tmp_path: Path) -> None:
    server = bridge().greet()
    server.connect(host_kernel)
    server.call("execute_code", code="x = 6")
    end(server)
    runs(host_kernel, "print(x * 7)", "42\n")
    assert "x = 6" in journal_of(host_kernel.file.stem, tmp_path / "session.py")


def test_while_a_cell_runs_on_a_host_kernel(
    bridge: Serve, end: End, host_kernel: Any, cell: Cell, tmp_path: Path
) -> None:
    server = bridge().greet()
    server.connect(host_kernel)
    call = server.start_call("execute_code", code=cell.code)
    cell.until_begun()
    end(server)
    cell.go_on()
    assert host_kernel.process.poll() is None
    assert "while not (place" in journal_of(host_kernel.file.stem, tmp_path / "session.py")
    if end.how in ("SIGTERM", "SIGINT", "SIGHUP", "stdin closed"):
        assert "The connection was closed from this side" in server.text(call, failed=True)
    # and the next bridge has the kernel and its variables
    second = bridge().greet()
    second.connect(host_kernel)
    assert second.call("execute_code", code="place.name") == "'cell'"


def test_while_a_kernel_does_not_answer(bridge: Serve, hard_end: End, host_kernel: Any) -> None:
    server = bridge().greet()
    server.connect(host_kernel)
    server.call("execute_code", code="x = 6")
    server.call("list_variables")  # it has a subshell by then, which is given back when the kernel is left
    os.kill(host_kernel.process.pid, signal.SIGSTOP)
    try:
        server.start_call("execute_code", code="x = x * 7")
        server.start_call("list_variables")
        server.ask("ping")
        hard_end(server)
    finally:
        os.kill(host_kernel.process.pid, signal.SIGCONT)
    runs(host_kernel, "print(x)", "42\n")


def test_while_the_engine_says_nothing(bridge: Serve, hard_end: End, hanging_engine: tuple[str, socket.socket]) -> None:
    address, listening = hanging_engine
    server = bridge("--engine", address).greet()
    server.start_call("start_sandbox", name="never")
    with contextlib.closing(asked(listening)):
        hard_end(server)


# -- signals


def test_another_signal_while_it_leaves_neither_hurries_nor_hinders(bridge: Serve, host_kernel: Any) -> None:
    server = bridge().greet()
    server.connect(host_kernel)
    server.call("list_variables")
    os.kill(host_kernel.process.pid, signal.SIGSTOP)  # so that leaving takes a while
    try:
        server.process.send_signal(signal.SIGTERM)
        # no call that waits for the kernel: it may have left before one that came before the signal is answered
        until(lambda: "being stopped" in server.refused("get_execution", execution=99), "its leaving")
        for _ in range(3):
            server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGHUP)
        server.stdin.close()
        assert server.until_ended() == 143
    finally:
        os.kill(host_kernel.process.pid, signal.SIGCONT)
    assert "Traceback" not in server.log.read_text()


NOHUP = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from bridge.__main__ import main; main()"


def test_a_signal_that_whoever_started_it_has_it_ignore_is_ignored(bridge: Serve) -> None:
    server = bridge(program=("-c", NOHUP)).greet()
    server.process.send_signal(signal.SIGHUP)
    server.ask("tools/list")
    server.process.send_signal(signal.SIGTERM)
    assert server.until_ended() == 143


# -- sandboxes


def listed(name: str) -> str | None:
    """Return the state in which the next command finds a kernel; None where it finds none."""
    rows = json.loads(run("ls", "--json").stdout)["kernels"]
    return next((str(each["state"]) for each in rows if each["name"] == name), None)


def test_while_a_cell_runs_in_a_sandbox(
    bridge: Serve, hard_end: End, engine: docker.DockerClient, tmp_path: Path
) -> None:
    server = bridge().greet()
    server.call("start_sandbox", name="left")
    server.call("execute_code", code="import pathlib, time; place = pathlib.Path.home()")
    call = server.start_call("execute_code", code=IN_SANDBOX)
    second = bridge().greet()
    second.call("connect_to_kernel", connection_file="left")
    until(lambda: "begun" in second.call("list_variables"), "the cell's beginning")
    hard_end(server)
    if not hard_end.is_kill:
        assert "The connection was closed from this side" in server.text(call, failed=True)
    assert listed("left") == "alive"
    second.call("put_file", path="go", text="")
    assert second.call("execute_code", code="went_on, len(In) > 2", timeout=SOON) == "(True, True)"
    assert "went_on = True" in journal_of("left", tmp_path / "session.py")
    second.call("stop_sandbox", kernel="left")
    assert ours(engine) == []


IN_SANDBOX = """
begun = 1
while not (place / "go").exists(): time.sleep(0.02)
went_on = True
"""


@pytest.mark.parametrize("at", ["its first container", "its gateway", "its connection file"])
def test_while_a_sandbox_starts(
    bridge: Serve, hard_end: End, engine: docker.DockerClient, runtime: Path, at: str
) -> None:
    """What it has come to by then is either a sandbox that is found, or is removed by what comes next."""
    server = bridge().greet()
    server.start_call("start_sandbox", name="half")
    there = {
        "its first container": lambda: ours(engine),
        "its gateway": lambda: [each for each in ours(engine) if "gateway" in each],
        "its connection file": lambda: list(runtime.glob("kernel-bridge-half*")),
    }
    until(there[at], at)
    hard_end(server)
    if listed("half") == "alive":
        done = run("run", "half", "-c", "print(6 * 7)")
        assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
        assert run("stop", "half").returncode == 0
    else:
        again = run("up", "half")
        if again.returncode:
            # a start that nobody goes on with may hold the name for a while
            assert "half" in again.stderr
            assert run("stop", "half").returncode == 0
            again = run("up", "half")
        assert again.returncode == 0, again.stderr
        assert run("stop", "half").returncode == 0
    assert ours(engine) == []
    assert list(runtime.iterdir()) == []


# -- the disk of the journal


def test_while_the_journals_disk_is_full(
    bridge: Serve, hard_end: End, host_kernel: Any, cell: Cell, small_disk: Path, tmp_path: Path
) -> None:
    server = bridge(XDG_STATE_HOME=str(small_disk)).greet()
    server.connect(host_kernel)
    server.call("execute_code", code="first = 1")
    server.call("execute_code", code="import os; print(os.urandom(1_000_000).hex())")
    assert os.statvfs(small_disk).f_bavail < 100
    server.start_call("execute_code", code=cell.code)
    cell.until_begun()
    hard_end(server)
    cell.go_on()
    assert "first = 1" in journal_of(host_kernel.file.stem, tmp_path / "session.py", XDG_STATE_HOME=str(small_disk))


def test_while_another_program_holds_a_lock_on_the_journal(
    bridge: Serve, hard_end: End, host_kernel: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    server = bridge(XDG_STATE_HOME=str(state)).greet()
    server.connect(host_kernel)
    server.call("execute_code", code="first = 1")
    (file,) = state.rglob("cells.sqlite")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        told = server.call("execute_code", code="print('second')")
        assert told.startswith("second\nNot all of this output could be kept to be read later: another program held a")
        hard_end(server)
        other.execute("ROLLBACK")
    assert "first = 1" in journal_of(host_kernel.file.stem, tmp_path / "session.py", XDG_STATE_HOME=str(state))
    runs(host_kernel, "print(first)", "1\n")
