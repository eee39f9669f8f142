"""`kernel-bridge doctor` on a machine with faults: every one is found, told with its cure, and left as it is."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from bridge.launchers.docker import DockerLauncher

SOON = 60.0
AN_HOUR = 3600.0


@dataclass(frozen=True)
class Told:
    """What the doctor said and how it ended."""

    code: int
    findings: list[dict[str, Any]]
    text: str

    def one(self, check: str) -> dict[str, Any]:
        [found] = [each for each in self.findings if each["check"] == check]
        return found

    def level(self, check: str) -> str:
        return str(self.one(check)["level"])


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridge", *arguments],
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
        env=os.environ | environment,
    )


Doctor = Callable[..., Told]


@pytest.fixture
def doctor(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Run it in a home of its own, so that this machine's own clients and kernels play no part."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))

    def ask(*arguments: str, **environment: str) -> Told:
        done = command("doctor", "--json", *arguments, **environment)
        assert "Traceback" not in done.stderr
        told = json.loads(done.stdout)
        faults = [each for each in told["findings"] if each["level"] != "ok"]
        assert all(each["cure"] for each in faults)
        assert told["able"] is (done.returncode == 0)
        return Told(done.returncode, told["findings"], done.stdout + done.stderr)

    return ask


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(each): (each.lstat().st_mode, each.read_bytes() if each.is_file() else b"") for each in directory.rglob("*")
    }


def test_where_all_is_well_it_says_so_and_ends_with_zero(doctor: Doctor, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    told = doctor()
    assert told.code == 0
    cgroups = subprocess.run(
        ["docker", "info", "--format={{.CgroupVersion}}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert told.level("limits") == ("ok" if cgroups == "2" else "warn")  # v1 does not count what waits in sockets
    assert {each["check"]: each["level"] for each in told.findings if each["check"] != "limits"} == dict.fromkeys(
        [
            *("python", "policy", "engine", "image storage", "clock", "image", "leftovers"),
            *("runtime directory", "disk space", "configuration", "socket directory", "connection files"),
            *("MCP clients", "kernelspecs", "audit"),
        ],
        "ok",
    )
    assert "API 1." in told.one("engine")["found"]
    assert snapshot(tmp_path) == before


def test_a_person_reads_one_line_for_each_and_the_cure_below(doctor: Doctor) -> None:
    done = command("doctor", "--engine", "unix:///nonexistent.sock")
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok    python")
    [row] = [number for number, line in enumerate(lines) if line.startswith("fail  engine")]
    assert lines[row + 1].lstrip().startswith("-> start the engine")
    assert "only attaching to kernels on the host works" in lines[row + 1]
    assert done.stderr == "1 failed, so no sandbox starts; 0 warnings.\n"


def test_without_an_engine_everything_else_is_still_told(doctor: Doctor) -> None:
    told = doctor("--engine", "unix:///nonexistent.sock")
    assert told.code == 3
    assert "/nonexistent.sock" in told.one("engine")["found"]
    assert [each["check"] for each in told.findings if each["level"] != "ok"] == ["engine"]
    assert told.level("connection files") == told.level("runtime directory") == "ok"


def test_an_engine_that_never_answers_does_not_make_it_hang(doctor: Doctor, tmp_path: Path) -> None:
    place = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(place))
        silent.listen(8)
        started = time.monotonic()
        told = doctor(DOCKER_HOST=f"unix://{place}")
        assert time.monotonic() - started < 20
    assert told.code == 3
    assert told.level("engine") == "fail"
    assert "did not end within 10 s" in told.one("engine")["found"]
    assert told.level("connection files") == "ok"


@pytest.mark.parametrize(
    ("policy", "check", "said", "cure"),
    [
        ("version: 1\nsandbox: {default_image: 'kernel-bridge/python:none'}\n", "image", "no image", "image build"),
        ("version: 1\nsandbox: {runtime: nosuch}\n", "runtime", "nosuch", "configure it in the engine"),
        ("version: 1\nsandbox: {privileged: true}\n", "policy", "line 2", "policy check"),
    ],
)
def test_what_the_policy_asks_for_and_is_not_there_fails(
    doctor: Doctor, tmp_path: Path, policy: str, check: str, said: str, cure: str
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(policy)
    file.chmod(0o600)
    told = doctor("--policy", str(file))
    assert told.code == 3
    fault = told.one(check)
    assert fault["level"] == "fail"
    assert said in fault["found"]
    assert cure in fault["cure"]
    assert told.level("engine") == "ok"


def test_a_policy_without_sandboxes_is_no_fault(doctor: Doctor, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("version: 1\nsandbox: {max_running: 0}\n")
    file.chmod(0o600)
    told = doctor(KERNEL_BRIDGE_POLICY=str(file))
    assert told.code == 0
    assert "allows no sandboxes" in told.one("policy")["found"]
    assert str(file) in told.one("policy")["found"]


def test_a_runtime_directory_that_cannot_be_written_fails(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = doctor(JUPYTER_RUNTIME_DIR=str(tmp_path / "file" / "runtime"))
    assert told.code == 3
    assert f"{tmp_path}/file is not a directory" in told.one("runtime directory")["found"]


def test_directories_that_others_can_reach_are_warnings(doctor: Doctor, runtime: Path, tmp_path: Path) -> None:
    runtime.chmod(0o755)
    configuration = tmp_path / "home" / ".config" / "kernel-bridge"
    configuration.mkdir(parents=True)
    configuration.chmod(0o775)
    told = doctor()
    assert told.code == 0
    assert told.one("runtime directory")["cure"] == f"chmod 700 {runtime}"
    assert told.one("configuration")["cure"].startswith(f"chmod go-w {configuration}")
    assert runtime.stat().st_mode & 0o777 == 0o755


def test_socket_paths_that_are_too_long_fail_only_where_they_are_needed(doctor: Doctor, tmp_path: Path) -> None:
    long = tmp_path / ("r" * 90)
    long.mkdir(mode=0o700)
    told = doctor(XDG_RUNTIME_DIR=str(long))
    assert (told.code, told.level("socket directory")) == (0, "warn")
    file = tmp_path / "policy.yaml"
    file.write_text("version: 1\nsandbox: {network: none}\n")
    file.chmod(0o600)
    told = doctor("--policy", str(file), XDG_RUNTIME_DIR=str(long))
    assert (told.code, told.level("socket directory")) == (3, "fail")


def test_what_ended_sandboxes_left_is_told_and_left_there(doctor: Doctor) -> None:
    assert command("up", "gone").returncode == 0
    engine = docker.from_env()
    try:
        ours = f"io.kernel-bridge.owner={DockerLauncher().owner}"
        [kernel] = engine.containers.list(filters={"label": [ours, "io.kernel-bridge.role=kernel"]})
        kernel.kill()
        kernel.wait(timeout=SOON)
        for _ in range(2):
            told = doctor()
            assert told.code == 0
            assert told.one("leftovers")["level"] == "warn"
            assert "gone" in told.one("leftovers")["found"]
            assert told.one("leftovers")["cure"] == "kernel-bridge gc"
    finally:
        command("stop", "gone")
        engine.close()
    assert doctor().level("leftovers") == "ok"


def test_stale_connection_files_are_told_and_live_ones_are_not(
    doctor: Doctor, start_host_kernel: Callable[..., Any]
) -> None:
    live, dead = start_host_kernel("kernel-live"), start_host_kernel("kernel-dead")
    dead.kill()
    for each in (live, dead):
        os.utime(each.file, (time.time() - AN_HOUR, time.time() - AN_HOUR))
    told = doctor()
    assert told.code == 0
    assert told.one("connection files")["found"].startswith("1 of host kernels that have ended")
    assert told.one("connection files")["cure"] == f"rm {dead.file}"
    assert dead.file.exists()
    assert live.info.key not in told.text


def test_clients_that_start_the_bridge_are_found_and_their_faults_told(doctor: Doctor, tmp_path: Path) -> None:
    home = tmp_path / "home"
    program = str(Path(sys.executable).with_name("kernel-bridge"))
    good = {"command": program, "args": ["serve"], "env": {"API_KEY": "s3cret"}}
    gone = {"command": "/gone/kernel-bridge", "args": ["serve"]}
    lost = {"command": program, "args": ["serve", "--policy", "/gone.yaml"]}
    other = {"command": "npx", "args": ["other", "--token", "s3cret"]}
    files = {
        ".claude.json": json.dumps({"mcpServers": {"kernel": good, "other": other}, "oauth": "s3cret"}),
        ".cursor/mcp.json": json.dumps({"mcpServers": {"kernel": gone}}),
        ".config/Code/User/mcp.json": '{\n  // mine\n  "servers": {}\n}',
        ".codex/config.toml": f'[mcp_servers.kernel]\ncommand = "{program}"\nargs = ["serve"]\n',
        ".gemini/settings.json": json.dumps({"mcpServers": {"kernel": lost}}),
        ".config/Claude/claude_desktop_config.json": json.dumps({"mcpServers": {"other": other}}),
    }
    for name, content in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(content)
    told = doctor()
    assert told.code == 0
    assert told.one("client claude")["found"] == f"kernel in {home}/.claude.json starts {program}"
    assert told.level("client codex") == "ok"
    assert "/gone/kernel-bridge is not there" in told.one("client cursor")["found"]
    assert told.one("client cursor")["cure"] == "kernel-bridge client add cursor --name kernel --force"
    assert "line 2, column 3" in told.one("client vscode")["found"]
    assert "/gone.yaml is not there" in told.one("client gemini")["found"]
    assert told.one("client gemini")["cure"].endswith("--name kernel --force -- --policy /gone.yaml")
    assert not [each for each in told.findings if each["check"] == "client claude-desktop"]
    assert "s3cret" not in told.text
    (home / ".mcp.json").write_text(files[".cursor/mcp.json"])
    (home / ".codex/config.toml").write_text('[mcp_servers.k]\ncommand = "/gone/kernel-bridge"\n')
    told = doctor()
    cures = {each["cure"] for each in told.findings if each["check"] in ("client claude", "client codex")}
    assert cures == {
        None,
        "kernel-bridge client add claude --name kernel --scope project --force",
        f"remove [mcp_servers.k] from {home}/.codex/config.toml, then: kernel-bridge client add codex --name k",
    }
