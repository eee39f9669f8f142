"""What another program is told to start, and which variables it is given."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from bridge.entry import absolute, environment, executable, program
from bridge.errors import UsageError


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "PATH": "/usr/bin", "SECRET_TOKEN": "s3cret", "USER": "me"}


def executable_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_command_is_the_one_that_was_called_through_its_link(tmp_path: Path) -> None:
    real = executable_file(tmp_path / "versions" / "1" / "kernel-bridge")
    link = tmp_path / "bin" / "kernel-bridge"
    link.parent.mkdir()
    link.symlink_to(real)
    assert executable(str(link), "/nonexistent/python") == [str(link)]


def test_else_it_is_the_one_beside_this_python_and_else_python_itself(tmp_path: Path) -> None:
    python = executable_file(tmp_path / "venv" / "bin" / "python")
    assert executable("/x/bridge/__main__.py", str(python)) == [str(python), "-P", "-m", "bridge"]
    beside = executable_file(python.with_name("kernel-bridge"))
    assert executable("/x/bridge/__main__.py", str(python)) == [str(beside)]


def test_a_policy_is_given_by_its_full_path(home: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home["HOME"])
    assert absolute(["--policy", "p.yaml"], home) == ["--policy", f"{home['HOME']}/p.yaml"]
    assert absolute(["--policy=~/p.yaml"], home) == [f"--policy={home['HOME']}/p.yaml"]
    home["KERNEL_BRIDGE_POLICY"] = "p.yaml"
    assert environment([], home)["KERNEL_BRIDGE_POLICY"] == f"{home['HOME']}/p.yaml"
    assert "KERNEL_BRIDGE_POLICY" not in environment(["--policy", "q.yaml"], home)


def test_a_kernel_is_given_by_its_files_full_path_or_by_its_name(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home["HOME"])
    (Path(home["HOME"]) / "k.json").touch()
    assert absolute(["--kernel", "k.json"], home) == ["--kernel", f"{home['HOME']}/k.json"]
    assert absolute(["--kernel=~/k.json"], home) == [f"--kernel={home['HOME']}/k.json"]
    assert absolute(["--kernel", "lab", "--kernel=lab"], home) == ["--kernel", "lab", "--kernel=lab"]


def test_no_other_variable_is_written_down(home: dict[str, str]) -> None:
    made = environment([], home | {"KERNEL_BRIDGE_OWNER": "ci", "DOCKER_HOST": "unix:///d.sock", "AWS_KEY": "x"})
    assert made == {"DOCKER_HOST": "unix:///d.sock", "KERNEL_BRIDGE_OWNER": "ci"}


def test_directories_are_written_down_only_where_they_are_unusual(home: dict[str, str]) -> None:
    usual = {
        "XDG_CONFIG_HOME": f"{home['HOME']}/.config",
        "XDG_DATA_HOME": f"{home['HOME']}/.local/share",
        "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}",
        "JUPYTER_RUNTIME_DIR": "",
        "DOCKER_HOST": "unix:///d.sock",
    }
    assert environment([], home | usual) == {"DOCKER_HOST": "unix:///d.sock"}
    unusual = {"XDG_CONFIG_HOME": "/c", "XDG_RUNTIME_DIR": "/r", "JUPYTER_RUNTIME_DIR": "/j", "DOCKER_HOST": "x"}
    assert environment([], home | unusual) == unusual


def test_the_engine_of_the_current_context_is_written_down(home: dict[str, str], tmp_path: Path) -> None:
    name = "other"
    meta = tmp_path / ".docker" / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Endpoints": {"docker": {"Host": "unix:///other.sock"}}}))
    (tmp_path / ".docker" / "config.json").write_text(json.dumps({"currentContext": name}))
    assert environment([], home) == {"KERNEL_BRIDGE_DOCKER_HOST": "unix:///other.sock"}
    assert environment(["--engine", "unix:///mine.sock"], home) == {}
    mine = home | {"DOCKER_HOST": "unix:///a.sock", "KERNEL_BRIDGE_DOCKER_HOST": "unix:///b.sock"}
    assert environment([], mine) == {"KERNEL_BRIDGE_DOCKER_HOST": "unix:///b.sock"}


def test_a_path_that_is_not_text_is_refused(home: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="not valid UTF-8"):
        program("serve", ["--policy", os.fsdecode(b"/p\xff.yaml")], home)


def test_a_command_is_started_by_its_name_with_its_arguments(home: dict[str, str]) -> None:
    made = program("serve", ["--engine", "unix:///e.sock"], home)
    assert made.command == str(Path(sys.executable).with_name("kernel-bridge"))
    assert made.arguments == ("serve", "--engine", "unix:///e.sock")
    assert made.environment == {}
