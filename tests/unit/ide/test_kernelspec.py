"""What stands in a kernelspec, for every program that reads one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bridge.connection import ConnectionInfo
from bridge.entry import Program
from bridge.errors import NotOurs, UsageError
from bridge.ide.kernelspec import Target, content, provisioner_config, relay, target_of
from bridge.kernels.files import KernelFile
from bridge.kernels.finder import Found
from bridge.launchers import Sandbox
from bridge.policy import SandboxRequest

NOTHING = SandboxRequest(name="")
EVERYTHING = SandboxRequest(
    name="",
    image="kernel-bridge/scipy:3.13",
    network="none",
    workspace=Path("/data/pro ject"),
    workspace_mode="rw",
    memory=2 * 2**30,
    cpus=1.5,
    environment={"TOKEN": "s3cret", "TZ": "UTC"},
)
STARTED = Program("/v/bin/kernel-bridge", ("relay", "--kernel", "analysis"), {})
INFO = ConnectionInfo("tcp", "127.0.0.1", 1, 2, 3, 4, 5, "key")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "DOCKER_HOST": "unix:///d.sock", "AWS_KEY": "s3cret"}


def host(path: str, notebook: str | None = None) -> Found:
    info = ConnectionInfo("tcp", "127.0.0.1", 1, 2, 3, 4, 5, "key", jupyter_session=notebook)
    return Found(Path(path), KernelFile(Path(path), info))


def test_the_content_is_what_every_program_takes() -> None:
    made = content(Target("analysis", "analysis"), "Shared: analysis", STARTED)
    assert made["argv"] == ["/v/bin/kernel-bridge", "relay", "--kernel", "analysis", "{connection_file}"]
    assert (made["display_name"], made["language"], made["interrupt_mode"]) == ("Shared: analysis", "python", "message")
    assert "env" not in made
    assert made["metadata"]["debugger"] is True
    assert made["metadata"]["kernel-bridge"] | {"version": ""} == {"kernel": "analysis", "owner": False, "version": ""}
    assert "kernel_provisioner" not in made["metadata"]
    assert json.loads(json.dumps(made)) == made


def test_a_provisioner_is_named_only_where_it_was_asked_for() -> None:
    target = Target("analysis", "analysis", owner=True)
    started = relay(target, EVERYTHING, Path("/p.yaml"), "unix:///e.sock", {"HOME": "/home/a"})
    config = provisioner_config(target, EVERYTHING, started)
    made = content(target, "Sandbox: analysis", STARTED, config)
    assert made["metadata"]["kernel_provisioner"] == {
        "provisioner_name": "kernel-bridge",
        "config": {
            "kernel": "analysis",
            "owner": True,
            "policy": "/p.yaml",
            "engine": "unix:///e.sock",
            "sandbox": {
                "image": "kernel-bridge/scipy:3.13",
                "network": "none",
                "workspace": "/data/pro ject",
                "workspace_mode": "rw",
                "memory": 2 * 2**30,
                "cpus": 1.5,
                "environment": ["TOKEN", "TZ"],
            },
        },
    }
    assert provisioner_config(Target(owner=True), NOTHING, Program("k", ("relay",), {})) == {
        "owner": True,
        "policy": None,
        "engine": None,
        "sandbox": {},
    }


@pytest.mark.parametrize("variable", ["KERNEL_BRIDGE_DOCKER_HOST", "DOCKER_HOST"])
def test_a_provisioner_is_told_what_the_relay_has_in_variables(home: dict[str, str], variable: str) -> None:
    del home["DOCKER_HOST"]
    shell = home | {variable: "unix:///e.sock", "KERNEL_BRIDGE_POLICY": "/p.yaml", "JUPYTER_DATA_DIR": "/data"}
    target = Target("analysis", "analysis")
    config = provisioner_config(target, NOTHING, relay(target, NOTHING, None, None, shell))
    assert (config["policy"], config["engine"]) == ("/p.yaml", "unix:///e.sock")


@pytest.mark.parametrize(
    "variable", ["KERNEL_BRIDGE_OWNER", "JUPYTER_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"]
)
def test_a_provisioner_is_refused_where_it_would_look_elsewhere(home: dict[str, str], variable: str) -> None:
    target = Target("analysis", "analysis")
    started = relay(target, NOTHING, None, None, home | {variable: "/other"})
    with pytest.raises(UsageError, match=f"this shell has {variable}, by which"):
        provisioner_config(target, NOTHING, started)


def test_a_provisioner_is_refused_for_a_kernel_on_the_host() -> None:
    with pytest.raises(NotOurs, match=r"kernel-1\.json is a kernel on the host.*without --provisioner"):
        provisioner_config(Target("/run/kernel-1.json", "kernel-1.json"), NOTHING, STARTED)


def test_the_relay_is_told_everything_and_no_value_of_a_variable(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home["HOME"])
    made = relay(Target("analysis", "analysis", owner=True), EVERYTHING, Path("p.yaml"), "unix:///e.sock", home)
    assert list(made.arguments) == [
        *("relay", "--owner", "--policy", f"{home['HOME']}/p.yaml", "--engine", "unix:///e.sock"),
        *("--image", "kernel-bridge/scipy:3.13", "--network", "none", "--workspace", "/data/pro ject"),
        *("--memory", "2GiB", "--cpus", "1.5", "--rw", "--env", "TOKEN", "--env", "TZ", "--kernel", "analysis"),
    ]
    assert Path(made.command).is_absolute()
    assert made.environment == {"TOKEN": "s3cret", "TZ": "UTC"}


def test_only_what_a_bare_environment_lacks_is_given(home: dict[str, str]) -> None:
    assert relay(Target("a", "a"), NOTHING, None, None, home).environment == {"DOCKER_HOST": "unix:///d.sock"}
    assert relay(Target(owner=True), NOTHING, None, "unix:///e.sock", home).arguments == (
        *("relay", "--engine", "unix:///e.sock"),
    )


@pytest.mark.parametrize("word", ["{connection_file}", "{prefix}", "{resource_dir}"])
def test_what_programs_would_replace_in_a_path_is_refused(home: dict[str, str], word: str) -> None:
    with pytest.raises(UsageError, match=re.escape(word)):
        relay(Target(f"/run/{word}.json", "x"), NOTHING, None, None, home)
    assert relay(Target("/run/{other}.json", "x"), NOTHING, None, None, home).arguments[-1] == "/run/{other}.json"


def test_what_programs_would_replace_in_a_variable_is_refused_without_its_value(home: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="TOKEN") as refused:
        relay(Target(owner=True), SandboxRequest(name="", environment={"TOKEN": "pa$$word"}), None, None, home)
    assert "word" not in str(refused.value).replace("'$'", "")


@pytest.mark.parametrize(
    ("found", "which", "kernel", "shown", "directory"),
    [
        (
            host("/run/kernel-mine.json"),
            "mine",
            "/run/kernel-mine.json",
            "Shared: kernel-mine.json",
            "kernel-bridge-kernel-mine.json",
        ),
        # who names the kernel means that kernel, who names the notebook means the notebook's
        (
            host("/run/kernel-1a.json", "/n/Today 1.ipynb"),
            "1a",
            "/run/kernel-1a.json",
            "Shared: kernel-1a.json",
            "kernel-bridge-kernel-1a.json",
        ),
        (
            host("/run/kernel-1a.json", "/n/Today 1.ipynb"),
            "Today 1.ipynb",
            "/n/Today 1.ipynb",
            "Shared: Today 1.ipynb",
            "kernel-bridge-today-1.ipynb",
        ),
        # an old server's, with a path that is not full, cannot be found again by it
        (
            host("/run/kernel-1a.json", "today.ipynb"),
            "today.ipynb",
            "/run/kernel-1a.json",
            "Shared: kernel-1a.json",
            "kernel-bridge-kernel-1a.json",
        ),
        (
            host("/run/日本\n.json"),
            "/run/日本\n.json",
            "/run/日本\n.json",
            "Shared: 日本?.json",
            "kernel-bridge--.json",
        ),
    ],
)
def test_a_kernel_has_a_name_in_the_picker_and_one_for_its_directory(
    found: Found, which: str, kernel: str, shown: str, directory: str
) -> None:
    target = target_of(found, which)
    assert target.kernel == kernel
    assert next(target.names()) == (directory, shown)


def test_a_sandbox_is_named_by_its_name_however_it_was_found(sandbox: Sandbox) -> None:
    target = target_of(Found(sandbox.connection_file, sandbox=sandbox), str(sandbox.connection_file))
    assert target == Target("analysis", "analysis")
    assert list(target.names()) == [("kernel-bridge-analysis", "Shared: analysis")]
    assert list(Target("analysis", "analysis", owner=True).names()) == [("kernel-bridge-analysis", "Sandbox: analysis")]
    assert list(Target(owner=True).names()) == [("kernel-bridge", "Sandbox")]


@pytest.fixture
def sandbox() -> Sandbox:
    values: dict[str, Any] = {
        "name": "analysis",
        "connection_file": Path("/run/kernel-bridge-analysis.json"),
        "image": "i",
        "network": "isolated",
        "state": "running",
        "started_at": "",
    }
    return Sandbox(**values)


@pytest.mark.parametrize("label", ["a" * 255, "a" * 250 + ".json", "Ä b.json", "a/b", "..", "-"])
def test_every_directorys_name_is_one_that_jupyter_takes(label: str) -> None:
    for directory, _ in Target(f"/run/{label}", label).names():
        assert re.fullmatch(r"[a-z0-9._-]+", directory)
        assert len(directory) < 200
        assert directory.startswith("kernel-bridge-")


def test_two_kernels_of_one_name_differ_in_their_second_names() -> None:
    first, second = (list(Target(f"/{each}/a.ipynb", "a.ipynb").names()) for each in "xy")
    assert first[0] == second[0]
    assert first[1][0] != second[1][0]
    assert (first[1][1], second[1][1]) == ("Shared: a.ipynb in /x", "Shared: a.ipynb in /y")


def test_the_connection_file_is_known_where_it_is_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "/run/j")
    assert Target("analysis", "analysis").connection_file == Path("/run/j/kernel-bridge-analysis.json")
    assert Target("/x/kernel-1.json", "kernel-1.json").connection_file == Path("/x/kernel-1.json")
    assert Target("/n/a.ipynb", "a.ipynb").connection_file is None
    assert Target().connection_file is None
