"""Whoever does something with a kernel is in the audit with it: agents, the shell, IDEs, programs, tests."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from tests.audited import lines
from tests.e2e.conftest import Command, Connect
from tests.e2e.provisioned import POLICY, Started, containers, until, write_kernelspec
from tests.e2e.serving import Mode, Served, connected

SOON = 60.0
KERNEL = "kernel-test"
EITHER_ERA = pytest.mark.parametrize("mode", ["auto", "legacy"], ids=["modern", "legacy"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    directory = tmp_path / "audit"
    directory.mkdir(mode=0o700)
    return directory / "audit.jsonl"


@pytest.fixture
def policy(tmp_path: Path, file: Path) -> Path:
    written = tmp_path / "policy.yaml"
    written.write_text(f"{POLICY}audit: {{file: {file}}}\n")
    return written


def events(file: Path) -> list[str]:
    return [each["event"] if each["event"] != "end" else f"{each['of']} {each['outcome']}" for each in lines(file)]


def whos(file: Path) -> set[tuple[str, str | None]]:
    return {(each["who"]["by"], each["who"].get("client")) for each in lines(file)}


@pytest.mark.anyio
async def test_an_agent_over_stdio_is_told_with_its_name_and_version(
    connect: Connect, policy: Path, host_kernel: Any, file: Path
) -> None:
    async with asyncio.timeout(SOON), connect(policy) as agent:
        await agent.call("connect_to_kernel", connection_file=str(host_kernel.file))
        assert await agent.run("6 * 7") == "42"
        refused = await agent.refused("execute_code", code="1", timeout=10**6)
        await agent.refused("start_sandbox", name="lab", image="evil:1")
    told = lines(file)
    [execute] = [each for each in told if each["event"] == "execute"]
    assert execute["code"] == {"sha256": hashlib.sha256(b"6 * 7").hexdigest(), "bytes": 5}
    assert execute["policy"] == str(policy)
    assert execute["who"]["by"] == "mcp"
    assert execute["who"]["client"]
    assert execute["who"]["client_version"]
    assert execute["who"]["pid"] not in (os.getpid(), 0)
    reasons = {each["of"]: each for each in told if each["event"] == "refused"}
    assert reasons["execute_code"]["reason"] == refused
    assert "(calls.max_timeout" in refused
    assert reasons["execute_code"]["kernel"]["name"] == KERNEL
    assert "(sandbox.images, line 3)" in reasons["start"]["reason"]
    assert len(whos(file)) == 1


@EITHER_ERA
@pytest.mark.anyio
async def test_two_agents_on_one_server_are_told_apart(
    serve: Callable[..., Served], policy: Path, host_kernel: Any, file: Path, mode: Mode
) -> None:
    server = serve("--policy", str(policy))
    async with (
        asyncio.timeout(SOON),
        server.client("claude-code", mode) as claude,
        server.client("codex\n{", mode) as codex,
    ):
        await connected(claude, host_kernel)
        await connected(codex, host_kernel)
        for turn in range(3):
            await claude.run(f"'claude {turn}'", kernel=KERNEL)
            await codex.run(f"'codex {turn}'", kernel=KERNEL)
    by_code = {each["code"]["sha256"]: each["who"] for each in lines(file) if each["event"] == "execute"}
    assert len(by_code) == 6
    for turn in range(3):
        for name, code in (("claude-code", f"'claude {turn}'"), ("codex\n{", f"'codex {turn}'")):
            who = by_code[hashlib.sha256(code.encode()).hexdigest()]
            assert (who["by"], who["client"], who["client_version"]) == ("mcp", name, "1")


def fill(place: Path) -> None:
    with (place / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"x" * 4096)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 KiB, which can be filled."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k,mode=700", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.anyio
async def test_on_a_full_disk_nothing_is_executed_and_a_sandbox_can_still_be_stopped(
    connect: Connect, policy: Path, full_disk: Path, file: Path, command: Command
) -> None:
    policy.write_text(policy.read_text().replace(str(file), str(full_disk / "audit.jsonl")))
    async with asyncio.timeout(2 * SOON), connect(policy) as agent:
        await agent.call("start_sandbox", name="full")
        await agent.run("x = 1")
        fill(full_disk)
        told = ""
        while not told:  # what room is left in the file's last page is used up first
            result = await agent.client.call_tool("execute_code", {"code": "x += 1"})
            told = agent.text(result) if result.is_error else ""
        assert "No space left on device. Nothing was executed. For the user to do: make room there." in told
        (full_disk / "filler").unlink()
        done = sum(each["event"] == "execute" for each in lines(full_disk / "audit.jsonl"))
        assert await agent.run("x") == str(done)
        # what is left in the file's last page may be just enough for a short line
        await anyio.run_process(["mount", "-o", "remount,ro", str(full_disk)])
        await agent.call("stop_sandbox", kernel="full")
    assert "stop" not in events(full_disk / "audit.jsonl")
    assert not containers()


@pytest.mark.anyio
async def test_a_kernel_that_does_not_answer_is_told_once(connect: Connect, policy: Path, file: Path) -> None:
    async with asyncio.timeout(2 * SOON), connect(policy) as agent:
        await agent.call("start_sandbox", name="silent")
        await agent.call("restart_kernel")
        await agent.call("execute_code", code="import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", timeout=1)
        await agent.call("disconnect_kernel")
        before = len(lines(file))
        assert "does not answer; last," in await agent.refused("connect_to_kernel", connection_file="silent")
        assert events(file)[before:] == ["attach", "attach failed"]
        await agent.call("stop_sandbox", kernel="silent")
    assert not containers()


def test_the_shell_is_told_with_the_command_and_a_start_with_what_was_started(
    command: Command, policy: Path, runtime: Path, file: Path
) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = command(*arguments, "--policy", str(policy))
        assert done.returncode == 0, done.stderr
        return done

    about = json.loads(run("up", "lab", "--json", "--memory", "256MiB").stdout)
    run("run", "lab", "-c", "token = 'secret'")
    run("restart", "lab")
    run("stop", "lab")
    assert not containers()
    told = lines(file)
    start, started = told[:2]
    assert (start["event"], start["kernel"]) == ("start", {"name": "lab", "kind": "sandbox"})
    assert (start["image"], start["network"]) == ("docker.io/kernel-bridge/python:3.13", "isolated")
    assert start["memory"] == 256 * 2**20
    assert (started["of"], started["outcome"]) == ("start", "ok")
    assert started["image_id"].startswith("sha256:")
    assert started["image_id"] == about["image_id"]
    assert started["container"] == about["container"]
    assert [each["who"]["client"] for each in told if each["event"] in ("start", "execute", "restart", "stop")] == [
        "up",
        "run",
        "restart",
        "stop",
    ]
    assert {each["who"]["by"] for each in told} == {"shell"}
    assert "secret" not in file.read_text()
    assert "key" not in {name for each in told for name in each}


def test_gc_and_an_interrupt_are_told_too(command: Command, policy: Path, host_kernel: Any, file: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "run", str(host_kernel.file), "-c", "print(1, flush=True); input()"],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout
        assert running.stdout.readline() == "1\n"
        assert command("interrupt", str(host_kernel.file), "--policy", str(policy)).returncode == 0
        running.communicate(timeout=SOON)
    assert "interrupt" in events(file)
    assert command("up", "lab", "--policy", str(policy)).returncode == 0
    assert command("gc", "--all", "--policy", str(policy)).stdout == "lab\n"
    assert [each["who"]["client"] for each in lines(file) if each["event"] == "stop"] == ["gc"]


def test_a_relay_is_told_when_an_ide_gets_the_kernel(
    policy: Path, host_kernel: Any, file: Path, tmp_path: Path
) -> None:
    ide, _ = write_connection_file(str(tmp_path / "ide.json"), ip="127.0.0.1", key=b"of-the-ide")
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "relay", ide, "--kernel", str(host_kernel.file), "--policy", str(policy)]
    ) as relay:
        try:
            until(lambda: "attach ok" in events(file), "the attach and its end")
        finally:
            relay.terminate()
            relay.wait(SOON)
    [attach, _] = lines(file)
    assert (attach["event"], attach["directly"], attach["who"]["by"]) == ("attach", True, "relay")
    assert attach["kernel"]["name"] == KERNEL


def test_a_provisioner_is_told_with_the_start_and_the_stop_of_its_sandbox(
    policy: Path, runtime: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    kernel = Started(write_kernelspec(tmp_path / "jupyter", "tested", policy=str(policy)))
    kernel.shut_down()
    assert {each["who"]["by"] for each in lines(file)} == {"provisioner"}
    assert [each for each in events(file) if each in ("start", "start ok", "stop", "stop ok")] == [
        *("start", "start ok"),
        *("stop", "stop ok"),
    ]


KILLED = """
import sys
from tests.e2e.provisioned import Started
kernel = Started("tested")
print("there", flush=True)
sys.stdin.read()
"""


def test_the_guard_of_a_killed_program_is_told_with_the_stop(
    policy: Path, runtime: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    write_kernelspec(tmp_path / "jupyter", "tested", policy=str(policy))
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout
        assert program.stdout.readline() == "there\n"
        program.send_signal(signal.SIGKILL)
        program.wait(SOON)
    until(lambda: "stop ok" in events(file), "the guard's line")
    assert [each["who"]["by"] for each in lines(file) if each["event"] == "stop"] == ["guard"]
    assert not containers()


def test_the_pytest_plugin_is_told(policy: Path, runtime: Path, file: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    (project / "test_it.py").write_text("def test_it(sandbox_kernel):\n    sandbox_kernel.run('1')\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "bridge.testing", "--rootdir", str(project), str(project)],
        cwd=project, env=os.environ | {"KERNEL_BRIDGE_POLICY": str(policy)},
        capture_output=True, text=True, timeout=2 * SOON, check=False,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout
    assert {each["who"]["by"] for each in lines(file)} == {"pytest"}
    assert {"start ok", "execute ok", "stop ok"} <= set(events(file))


def test_the_policy_commands_and_the_doctor_say_where_and_whether_it_can_be_written(
    command: Command, policy: Path, file: Path
) -> None:
    def told(*arguments: str) -> str:
        return command(*arguments, KERNEL_BRIDGE_POLICY=str(policy)).stderr

    for arguments in (("policy", "show"), ("policy", "check", str(policy))):
        assert f"Recorded in {file}: all that is done with kernels.\n" in told(*arguments)
    found = json.loads(command("doctor", "--json", KERNEL_BRIDGE_POLICY=str(policy)).stdout)["findings"]
    [audit] = [each for each in found if each["check"] == "audit"]
    assert (audit["level"], audit["found"]) == ("ok", f"everything that is done with kernels is recorded in {file}")
    file.parent.rmdir()
    for arguments in (("policy", "show"), ("policy", "check", str(policy))):
        assert f"Recorded in {file}: not now, so nothing would be done: No such file or directory" in told(*arguments)
    doctor = command("doctor", "--json", KERNEL_BRIDGE_POLICY=str(policy))
    [audit] = [each for each in json.loads(doctor.stdout)["findings"] if each["check"] == "audit"]
    assert audit["level"] == "fail"
    assert audit["cure"] == f"make its directory: mkdir -p -m 700 {file.parent}"
    assert doctor.returncode == 3
    refused = command("up", "lab", KERNEL_BRIDGE_POLICY=str(policy))
    assert refused.returncode == 2
    assert "Nothing was started" in refused.stderr
    assert not containers()


@pytest.fixture
def console(policy: Path, host_kernel: Any, tmp_path: Path) -> Iterator[BlockingKernelClient]:
    """A Jupyter client on a relay, as an IDE has one."""
    ide, _ = write_connection_file(str(tmp_path / "ide.json"), ip="127.0.0.1", key=b"of-the-ide")
    arguments = ["relay", ide, "--kernel", str(host_kernel.file), "--policy", str(policy)]
    with subprocess.Popen([sys.executable, "-m", "bridge", *arguments]) as relay:
        client = BlockingKernelClient(connection_file=ide)
        try:
            client.load_connection_file()
            client.start_channels(hb=False)
            client.wait_for_ready(timeout=SOON)
            yield client
        finally:
            client.stop_channels()
            relay.terminate()
            relay.wait(SOON)


def test_what_an_ide_runs_through_its_relay_is_told(console: BlockingKernelClient, file: Path) -> None:
    before = len(lines(file))
    console.execute("1/0", reply=True, timeout=SOON)
    console.execute("", user_expressions={"a": "token"}, silent=True, reply=True, timeout=SOON)
    console.execute("input()", allow_stdin=True)
    console.get_stdin_msg(timeout=SOON)
    console.input("typed-secret")
    until(lambda: events(file).count("execute ok") == 2, "the end of the cell that asked")
    assert events(file)[before:] == [
        *("execute", "execute error", "execute", "execute ok"),
        *("execute", "input", "input ok", "execute ok"),
    ]
    first, _, looks = lines(file)[before : before + 3]
    assert first["code"]["sha256"] == hashlib.sha256(b"1/0").hexdigest()
    assert first["kernel"] == {"name": KERNEL, "kind": "host"}
    assert looks["silent"] is True
    assert looks["expressions"]["sha256"] == hashlib.sha256(b"token").hexdigest()
    assert {each["who"]["by"] for each in lines(file)} == {"relay"}
    assert "typed-secret" not in file.read_text()
    begun = console.execute("print('begun', flush=True)\nwhile True: pass")
    while console.get_iopub_msg(timeout=SOON)["msg_type"] != "stream":
        pass
    console.control_channel.send(console.session.msg("interrupt_request", {}))
    while console.get_shell_msg(timeout=SOON)["parent_header"]["msg_id"] != begun:
        pass
    assert {"interrupt", "execute interrupted"} <= set(events(file))


def test_what_cannot_be_recorded_an_ide_is_told_and_it_is_not_executed(
    console: BlockingKernelClient, file: Path
) -> None:
    console.execute("x = 1", reply=True, timeout=SOON)
    file.parent.rename(file.parent.with_name("gone"))
    reply = console.execute("x = 2", reply=True, timeout=SOON)
    assert (reply["content"]["status"], reply["content"]["ename"]) == ("error", "NotAudited")
    assert "Nothing was executed" in reply["content"]["evalue"]
    file.parent.with_name("gone").rename(file.parent)
    reply = console.execute("", user_expressions={"x": "x"}, reply=True, timeout=SOON)
    assert reply["content"]["user_expressions"]["x"]["data"]["text/plain"] == "1"
