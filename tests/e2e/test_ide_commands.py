"""`kernel-bridge ide`: what it writes is what Jupyter lists and starts, and what it tells is what a person can type."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from tests.conftest import HostKernel

SOON = 60.0
NO_ENGINE = {"KERNEL_BRIDGE_DOCKER_HOST": "unix:///nonexistent.sock"}
# A shell that has the same places as what runs without it.
PLACES = ("KERNEL_BRIDGE_OWNER", "JUPYTER_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")
PLAIN = dict.fromkeys(PLACES, "")
# What a desktop starts an IDE with.
BARE = {"PATH": "/usr/bin:/bin", "HOME": "/"}

Ide = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def kernels(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jupyter's kernelspecs of this test alone."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    return tmp_path / "jupyter" / "kernels"


@pytest.fixture
def ide(command: Any, kernels: Path) -> Ide:
    """Run `kernel-bridge ide …`, which must succeed and print nothing but data on stdout."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = command("ide", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def refused(command: Any, kernels: Path) -> Callable[..., str]:
    """Run `kernel-bridge ide …`, which must fail as bad usage, and return why."""

    def run(*arguments: str, **environment: str) -> str:
        done = command("ide", *arguments, **environment)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert "Traceback" not in done.stderr
        return str(done.stderr)

    return run


def listed() -> dict[str, Any]:
    """Return ours as Jupyter's own command lists them."""
    words = [sys.executable, "-m", "jupyter", "kernelspec", "list", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SOON, check=True)
    found = json.loads(done.stdout)["kernelspecs"]
    return {name: each for name, each in found.items() if name.startswith("kernel-bridge")}


def specs(ide: Ide) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(ide("ls", "--json").stdout)["kernelspecs"]}


def serve_notebook(file: Path, notebook: Path) -> None:
    """Have the connection file say what a Jupyter server would."""
    notebook.write_text("{}")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"jupyter_session": str(notebook)}))


def test_jupyter_lists_what_was_installed_and_starts_it_as_written(ide: Ide, shell_sandbox: str, kernels: Path) -> None:
    done = ide("install", shell_sandbox)
    assert done.stdout == f"{kernels}/kernel-bridge-shell\n"
    assert "runs yet" not in done.stderr
    [(name, found)] = listed().items()
    assert (name, found["resource_dir"]) == ("kernel-bridge-shell", str(kernels / "kernel-bridge-shell"))
    spec = found["spec"]
    assert (spec["display_name"], spec["language"]) == ("Shared: shell", "python")
    assert spec["interrupt_mode"] == "message"
    manager = KernelManager(kernel_name=name, connection_file="/run/a b/kernel.json")
    program, *arguments = manager.format_kernel_cmd()
    assert arguments == ["relay", "--kernel", "shell", "/run/a b/kernel.json"]
    # as an IDE would, which knows nothing of this shell
    subprocess.run([program, "--version"], capture_output=True, timeout=SOON, env=BARE, cwd="/", check=True)
    assert spec["env"]["JUPYTER_RUNTIME_DIR"] == os.environ["JUPYTER_RUNTIME_DIR"]
    assert spec["env"]["KERNEL_BRIDGE_OWNER"] == os.environ["KERNEL_BRIDGE_OWNER"]


def test_a_sandbox_need_not_run_yet_nor_an_engine(ide: Ide, tmp_path: Path) -> None:
    done = ide("install", "later")
    assert "kernel-bridge up later" in done.stderr
    assert "kernel-bridge up later" in ide("install", "later", **NO_ENGINE).stderr
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nattach: {allowed: false}\n")
    policy.chmod(0o600)
    assert "kernel-bridge up later" in ide("install", "later", "--policy", str(policy)).stderr
    assert str(policy) in listed()["kernel-bridge-later"]["spec"]["argv"]


def test_a_host_kernel_is_put_there_by_its_file_its_id_or_its_notebook(
    ide: Ide, start_host_kernel: Callable[..., Any], tmp_path: Path
) -> None:
    plain, serving = start_host_kernel("kernel-mine"), start_host_kernel("kernel-1a2b")
    notebook = tmp_path / "Today 1.ipynb"
    serve_notebook(serving.file, notebook)
    for which in ("kernel-mine", str(plain.file)):
        ide("install", which)
    ide("install", "1a2b")
    ide("install", str(notebook))
    kernel_of = {each["spec"]["display_name"]: each["spec"]["metadata"]["kernel-bridge"] for each in listed().values()}
    assert {shown: mark["kernel"] for shown, mark in kernel_of.items()} == {
        "Shared: kernel-mine.json": str(plain.file),
        "Shared: kernel-1a2b.json": str(serving.file),
        "Shared: Today 1.ipynb": str(notebook),
    }


def test_a_host_kernel_that_does_not_answer_is_said_to(ide: Ide, host_kernel: Any) -> None:
    host_kernel.kill()
    assert "not answering" in ide("install", host_kernel.file.stem).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["install", "/nonexistent/kernel.json"], "/nonexistent/kernel.json"),
        (["install", "analysis", "--memory", "1GiB"], "--owner"),
        (["install", "Bad Name", "--owner"], "cannot be one"),
        (["install", "--memory", "900GiB"], "memory"),
        (["remove", "analysis"], "Ours are: none"),
        (["remove"], "Ours are: none"),
        (["remove", "a", "--all"], "either"),
        (["guide", "analysis"], "Ours are: none"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    refused: Callable[..., str], kernels: Path, words: list[str], said: str
) -> None:
    assert said in refused(*words)
    assert not kernels.exists()


def test_a_kernel_that_is_not_there_is_refused_with_those_that_are(
    refused: Callable[..., str], kernels: Path, host_kernel: Any
) -> None:
    for which in ("No Such", "gone.ipynb"):
        assert host_kernel.file.stem in refused("install", which)
    assert not kernels.exists()


def test_an_owner_may_ask_for_what_the_policy_allows_and_no_value_is_an_argument(
    ide: Ide, kernels: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nsandbox: {environment: [TOKEN]}\n")
    policy.chmod(0o600)
    options = ["--policy", str(policy), "--memory", "512MiB", "--env", "TOKEN=s3cret"]
    done = ide("install", *options, "--provisioner", **PLAIN)
    assert "s3cret" not in done.stdout + done.stderr
    assert "TOKEN" in done.stderr
    ide("install", "mine", "--owner", *options)
    for name, start in (("kernel-bridge", []), ("kernel-bridge-mine", ["--owner"])):
        spec = json.loads((kernels / name / "kernel.json").read_text())
        assert spec["argv"][1 : 2 + len(start)] == ["relay", *start]
        assert "s3cret" not in " ".join(spec["argv"])
        assert "s3cret" in spec["env"].values()
        assert ("kernel_provisioner" in spec["metadata"]) is (name == "kernel-bridge")
    shown = {each["display_name"]: (each["kernel"], each["owner"]) for each in specs(ide).values()}
    assert shown == {"Sandbox": (None, True), "Sandbox: mine": ("mine", True)}


def test_a_provisioner_is_not_installed_for_what_it_could_not_keep_or_find(
    refused: Callable[..., str], kernels: Path, host_kernel: HostKernel
) -> None:
    runtime = {"JUPYTER_RUNTIME_DIR": str(host_kernel.file.parent)}
    assert "without --provisioner" in refused("install", "kernel-test", "--provisioner", **PLAIN | runtime)
    assert "has KERNEL_BRIDGE_OWNER, by which" in refused("install", "--provisioner", **PLAIN | {PLACES[0]: "other"})
    assert "has JUPYTER_RUNTIME_DIR, by which" in refused("install", "--provisioner", **PLAIN | runtime)
    assert not kernels.exists()


def test_remove_takes_ours_only_and_the_person_is_told_of_what(
    ide: Ide, refused: Callable[..., str], kernels: Path
) -> None:
    foreign = kernels / "kernel-bridge-theirs" / "kernel.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text(json.dumps({"argv": ["x"], "display_name": "Shared: theirs", "language": "python"}))
    for name in ("a", "b", "c"):
        ide("install", name, **NO_ENGINE)
    ide("install")
    assert "is not ours" in refused("remove", "kernel-bridge-theirs")
    assert "theirs" in refused("install", "theirs", **NO_ENGINE)
    assert ide("remove", "a").stdout == f"{kernels}/kernel-bridge-a\n"
    assert ide("remove").stdout == f"{kernels}/kernel-bridge\n"
    assert list(specs(ide)) == ["kernel-bridge-b", "kernel-bridge-c"]
    assert ide("remove", "--all").stdout == f"{kernels}/kernel-bridge-b\n{kernels}/kernel-bridge-c\n"
    assert ide("remove", "--all").stdout == ""
    assert [each.name for each in kernels.iterdir()] == ["kernel-bridge-theirs"]
    assert json.loads(foreign.read_text())["display_name"] == "Shared: theirs"


def test_a_kernel_that_has_ended_is_told_and_what_is_told_removes_it(
    ide: Ide, command: Any, host_kernel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ide("install", host_kernel.file.stem)
    ide("install", "analysis", **NO_ENGINE)
    host_kernel.kill()
    host_kernel.file.unlink()
    name = f"kernel-bridge-{host_kernel.file.name}"
    assert {each: found["fault"] is None for each, found in specs(ide).items()} == {
        "kernel-bridge-analysis": True,
        name: False,
    }
    cure = specs(ide)[name]["cure"]
    assert "leads nowhere" in ide("ls").stdout
    assert cure in ide("guide").stdout
    findings = json.loads(command("doctor", "--json").stdout)["findings"]
    ours = {each["level"]: each for each in findings if each["check"] == "kernelspecs"}
    assert "Shared: analysis" in ours["ok"]["found"]
    assert ours["warn"]["cure"] == cure
    program, *words = shlex.split(cure)
    assert program == "kernel-bridge"
    assert command(*words).returncode == 0
    assert list(specs(ide)) == ["kernel-bridge-analysis"]


def test_the_guide_has_the_steps_for_what_is_here(ide: Ide, tmp_path: Path) -> None:
    programs, home = tmp_path / "programs", tmp_path / "home"
    programs.mkdir()
    (programs / "code").write_text("#!/bin/sh\n")
    (programs / "code").chmod(0o755)
    (home / ".config" / "zed").mkdir(parents=True)
    here = {"PATH": str(programs), "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
    told = ide("guide", **here)
    assert f"VS Code ({programs}/code)" in told.stdout
    assert f"Zed ({home}/.config/zed)" in told.stdout
    assert "Jupyter Kernel… > Shared: NAME" in told.stdout
    assert "Spyder" not in told.stdout
    assert "spyder" in told.stderr
    ide("install", "analysis", **NO_ENGINE, **here)
    told = ide("guide", "analysis", **here)
    assert '"kernel_selections": {"python": "kernel-bridge-analysis"}' in told.stdout
    told = ide("guide", "analysis", "--ide", "spyder", **here)
    assert f"{os.environ['JUPYTER_RUNTIME_DIR']}/kernel-bridge-analysis.json" in told.stdout
    assert "VS Code" not in told.stdout


def test_the_steps_of_one_ide_follow_an_installation(ide: Ide) -> None:
    done = ide("install", "analysis", "--ide", "vscode", **NO_ENGINE)
    assert "Jupyter Kernel… > Shared: analysis" in done.stderr
    assert done.stdout.count("\n") == 1
    assert "JUPYTER_DATA_DIR" in done.stderr, "an IDE from the desktop does not look there"


def test_a_place_that_cannot_be_had_is_a_sentence(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Not a directory" in refused("install", "a", JUPYTER_DATA_DIR=str(tmp_path / "file"), **NO_ENGINE)
    assert "Not a directory" in refused("ls", JUPYTER_DATA_DIR=str(tmp_path / "file"))
    assert "JUPYTER_DATA_DIR" in refused("install", "a", JUPYTER_DATA_DIR="/proc/nowhere", **NO_ENGINE)


def test_names_are_completed(ide: Ide, host_kernel: Any) -> None:
    def tab(words: str) -> list[str]:
        environment = {
            "_KERNEL_BRIDGE_COMPLETE": "bash_complete",
            "COMP_WORDS": f"kernel-bridge {words}",
            "COMP_CWORD": str(len(words.split(" "))),
        }
        done = subprocess.run(
            [sys.executable, "-m", "bridge"],
            capture_output=True,
            text=True,
            timeout=SOON,
            check=False,
            env=os.environ | NO_ENGINE | environment,
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    ide("install", "analysis", **NO_ENGINE)
    ide("install")
    assert tab("ide ") == ["guide", "install", "ls", "remove"]
    assert tab("ide install ") == [host_kernel.file.stem]
    assert tab("ide remove ") == ["analysis"]
    assert tab("ide guide --ide vsc") == ["vscode", "vscode-insiders", "vscodium"]
