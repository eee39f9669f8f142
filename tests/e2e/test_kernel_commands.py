"""Looking after kernels from the shell: status, logs, interrupt, restart, gc."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from bridge.launchers.docker.owner import current_owner

SOON = 60.0


@contextmanager
def running(name: str, code: str) -> Iterator[subprocess.Popen[str]]:
    """Run a cell of somebody's; the command is ended with the block, whatever became of it."""
    command = [sys.executable, "-m", "bridge", "run", name, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def busy(name: str, code: str) -> Iterator[subprocess.Popen[str]]:
    """Run a cell of somebody's, and go on once it runs."""
    with running(name, f"print('on', flush=True)\n{code}") as process:
        assert process.stdout
        assert process.stdout.readline() == "on\n"
        yield process


def container(name: str, role: str) -> Any:
    client = docker.from_env(timeout=30)
    labels = [
        f"io.kernel-bridge.owner={current_owner(os.environ)}",
        f"io.kernel-bridge.name={name}",
        f"io.kernel-bridge.role={role}",
    ]
    [found] = client.containers.list(filters={"label": labels})
    client.close()
    return found


def kill_container(name: str) -> None:
    found = container(name, "kernel")
    found.kill()
    found.wait(timeout=SOON)
    found.client.close()


def test_status_tells_what_a_sandbox_is_and_whether_it_is_busy(command: Any, shell_sandbox: str) -> None:
    idle = command("status", shell_sandbox)
    assert idle.returncode == 0
    assert "state            idle" in idle.stdout
    assert "kernel-bridge/python:3.13" in idle.stdout
    with busy(shell_sandbox, "import time; time.sleep(60)") as cell:
        told = json.loads(command("status", shell_sandbox, "--json").stdout)
        assert told["status"]["state"] in ("busy", "unknown")
        assert told["sandbox"]["network"] == "isolated"
        cell.send_signal(signal.SIGINT)
        assert cell.wait(SOON) == 130
    assert "key" not in idle.stdout


def test_status_knows_a_host_kernel_by_its_file(command: Any, host_kernel: Any) -> None:
    told = command("status", str(host_kernel.file))
    assert told.returncode == 0, told.stderr
    assert "not isolated" in told.stdout
    host_kernel.kill()
    gone = command("status", str(host_kernel.file))
    assert gone.returncode == 4
    assert "has ended" in gone.stderr


def test_a_sandbox_that_was_killed_tells_how_and_its_log_is_there_until_gc(command: Any, shell_sandbox: str) -> None:
    kill_container(shell_sandbox)
    told = command("status", shell_sandbox)
    assert told.returncode == 4
    assert "killed from outside" in told.stdout
    assert "started  epoch 1" in command("logs", shell_sandbox).stdout
    swept = command("gc")
    assert (swept.returncode, swept.stdout) == (0, f"{shell_sandbox}\n")
    assert "killed from outside" in swept.stderr
    assert command("logs", shell_sandbox).returncode == 2


def test_a_restart_keeps_the_file_and_says_what_is_lost(command: Any, shell_sandbox: str) -> None:
    file = command("status", shell_sandbox, "--json")
    command("run", shell_sandbox, "-c", "x = 1")
    done = command("restart", shell_sandbox)
    assert done.returncode == 0
    assert "all its variables are gone" in done.stderr
    assert "NameError" in command("run", shell_sandbox, "-c", "x").stderr
    after = command("status", shell_sandbox, "--json")
    assert (
        json.loads(file.stdout)["sandbox"]["connection_file"] == json.loads(after.stdout)["sandbox"]["connection_file"]
    )
    assert "asked from outside" in json.loads(after.stdout)["last_ending"]


def test_a_kernel_that_answers_nothing_can_be_told_so_and_restarted(command: Any, shell_sandbox: str) -> None:
    # one loop in C: it keeps the interpreter's lock, so not even the control channel's thread runs, and sees no signal;
    # nor does the thread that would send what a cell has printed before it
    with running(shell_sandbox, "sum(range(10**15))") as cell:
        for _ in range(20):
            told = command("status", shell_sandbox)
            if told.returncode:
                break
        assert told.returncode == 4
        assert "a kernel that hangs" in told.stdout
        refused = command("interrupt", shell_sandbox)
        assert refused.returncode == 4
        assert "past its channels" in refused.stderr
        assert command("restart", shell_sandbox).returncode == 0
        assert cell.wait(SOON) == 4
    assert command("run", shell_sandbox, "-c", "print('fresh')").stdout == "fresh\n"


def test_the_person_may_interrupt_whoevers_cell_it_is(command: Any, shell_sandbox: str) -> None:
    with busy(shell_sandbox, "kept = 1\nimport time; time.sleep(60)") as cell:
        done = command("interrupt", shell_sandbox)
        assert done.returncode == 0, done.stderr
        assert "Interrupted in shell" in done.stderr
        assert cell.wait(SOON) == 1
    assert command("run", shell_sandbox, "-c", "print(kept)").stdout == "1\n"
    assert "Nothing runs" in command("interrupt", shell_sandbox).stderr


def test_the_person_may_interrupt_a_host_kernel_but_not_restart_it(command: Any, host_kernel: Any) -> None:
    command("run", str(host_kernel.file), "-c", "1")
    with busy(str(host_kernel.file), "import time; time.sleep(60)") as cell:
        assert command("interrupt", str(host_kernel.file)).returncode == 0
        assert cell.wait(SOON) == 1
    refused = command("restart", str(host_kernel.file))
    assert refused.returncode == 2
    assert "where it was started" in refused.stderr
    assert "where it was started" in command("logs", str(host_kernel.file)).stderr


def test_logs_tell_starts_ends_and_what_the_process_wrote_itself(command: Any, shell_sandbox: str) -> None:
    command("run", shell_sandbox, "-c", "import os; os.write(2, b'from below\\n')")
    command("run", shell_sandbox, "-c", "import os; os._exit(3)")
    lines = command("logs", shell_sandbox).stdout.splitlines()
    assert any("supervisor" in line and "exit status 3" in line for line in lines)
    assert any("gateway" in line and "ready" in line for line in lines)
    assert any("kernel" in line and line.endswith("from below") for line in lines)
    assert lines == sorted(lines, key=lambda line: line[:24])
    rows = [json.loads(line) for line in command("logs", shell_sandbox, "--json").stdout.splitlines()]
    assert {row["source"] for row in rows} == {"supervisor", "gateway", "kernel"}
    assert len(command("logs", shell_sandbox, "--tail", "1").stdout.splitlines()) == 1


@contextmanager
def following(name: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bridge", "logs", "--follow", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_following_the_log_shows_what_comes_and_ends_with_the_sandbox(command: Any, shell_sandbox: str) -> None:
    with following(shell_sandbox) as process:
        assert process.stdout
        # it has read what there was, so what comes now can only be followed
        seen = [process.stdout.readline()]
        command("run", shell_sandbox, "-c", "import os; os._exit(7)")
        for line in process.stdout:
            seen.append(line)
            if "exit status 7" in line:
                break
        assert len([line for line in seen if "exit status 7" in line]) == 1
        assert any("started  epoch 1" in line for line in seen)
        command("stop", shell_sandbox)
        rest, errors = process.communicate(timeout=SOON)
        assert process.returncode == 0, errors
        assert "Traceback" not in rest + errors


def test_control_c_ends_following_at_once(shell_sandbox: str) -> None:
    with following(shell_sandbox) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 130
        assert "Traceback" not in errors


def test_gc_leaves_running_sandboxes_alone_unless_told_otherwise(command: Any, shell_sandbox: str) -> None:
    kept = command("gc")
    assert (kept.returncode, kept.stdout) == (0, "")
    assert "Nothing of yours is left behind" in kept.stderr
    assert command("run", shell_sandbox, "-c", "print(1)").stdout == "1\n"
    assert command("gc", "--all").stdout == f"{shell_sandbox}\n"
    assert json.loads(command("ls", "--json").stdout)["kernels"] == []


@pytest.mark.parametrize("sent", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM]], ids=str)
def test_a_start_that_is_interrupted_leaves_nothing_however_often_one_presses(
    sent: list[signal.Signals], runtime: Path
) -> None:
    client = docker.from_env(timeout=30)
    ours: dict[str, Any] = {"label": f"io.kernel-bridge.owner={current_owner(os.environ)}"}
    before = {each.id for each in client.containers.list(all=True, ignore_removed=True, filters=ours)}
    starting = subprocess.Popen(
        [sys.executable, "-m", "bridge", "up", "pressed"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while starting.poll() is None:
        if {each.id for each in client.containers.list(all=True, ignore_removed=True, filters=ours)} - before:
            break
    for each in sent:
        starting.send_signal(each)
    _, errors = starting.communicate(timeout=SOON)
    assert starting.returncode == (130 if sent[0] == signal.SIGINT else 143), errors
    assert "Traceback" not in errors
    assert {each.id for each in client.containers.list(all=True, filters=ours)} == before
    client.close()
    assert list(runtime.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["status", "nope"], "No kernel is called 'nope'"),
        (["logs", "nope"], "No kernel is called 'nope'"),
        (["interrupt", "nope"], "No kernel is called 'nope'"),
        (["restart", "nope"], "No kernel is called 'nope'"),
        (["logs", "x", "-f", "--tail", "3"], "either --follow or --tail"),
    ],
)
def test_what_is_not_there_is_told_by_its_name(
    command: Any, runtime: Path, arguments: list[str], sentence: str
) -> None:
    done = command(*arguments)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sandbox_that_has_ended_is_told_by_the_next_listing_though_others_were_looked_for_meanwhile(
    command: Any, shell_sandbox: str, host_kernel: Any
) -> None:
    kill_container(shell_sandbox)
    # as VS Code names its files, behind which a relay may stand, so that the sandboxes are looked at too
    seen_by_vs_code = host_kernel.file.with_name("kernel-v3abc.json")
    seen_by_vs_code.write_bytes(host_kernel.file.read_bytes())
    assert command("interrupt", seen_by_vs_code.name).returncode == 0
    rows = {each["name"]: each["state"] for each in json.loads(command("ls", "--json").stdout)["kernels"]}
    assert rows[shell_sandbox].startswith("ended: killed")
