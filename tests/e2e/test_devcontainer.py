"""The dev container, opened by the dev containers' own command: this repository's, and the example for any other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.composed import BUILD, ROOT, SOON, Project, build_images, how_to_build
from tests.e2e.conftest import Command
from tests.node import environment, program

pytestmark = pytest.mark.usefixtures("image_tag")

# Whose the project is: a usual user's, not root's.
USER = 1000


class Opened:
    """A project that is opened in its dev container."""

    def __init__(self, project: Project) -> None:
        self.project = project
        for each in (project.directory, *project.directory.rglob("*")):
            os.chown(each, USER, USER, follow_symlinks=False)
        self._told = json.loads(self._run("up", timeout=BUILD).splitlines()[-1])
        assert self._told["outcome"] == "success", self._told

    def run(self, *command: str, timeout: float = SOON) -> str:
        """Run a command inside, as the IDE's terminal would; returns its standard output."""
        return self._run("exec", "--", *command, timeout=timeout).strip()

    def close(self) -> None:
        """Remove all containers and volumes, as the person does at the end, and the image made for the user."""
        about = ["--format={{.Config.Image}}", self._told["containerId"]]
        image = subprocess.run(["docker", "inspect", *about], capture_output=True, text=True, timeout=SOON, check=True)
        name = ["--project-name", self._told["composeProjectName"]]
        self.project.compose(*name, "down", "--volumes", "--remove-orphans")
        if image.stdout.startswith("vsc-"):
            subprocess.run(["docker", "rmi", image.stdout.strip()], capture_output=True, timeout=SOON, check=True)

    def _run(self, name: str, *more: str, timeout: float) -> str:
        done = subprocess.run(
            ["node", str(program("devcontainer")), name, f"--workspace-folder={self.project.directory}", *more],
            env=environment() | how_to_build(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr[-6000:]
        return done.stdout


def files_of_the_repository(target: Path) -> None:
    """Copy what a clone would have, with what is not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@contextmanager
def opened(project: Project) -> Iterator[Opened]:
    container = Opened(project)
    try:
        yield container
    finally:
        container.close()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Open this repository."""
    build_images()
    project = Project(tmp_path_factory.mktemp("dev") / "clone", "shared")
    files_of_the_repository(project.directory)
    project.write_settings(KERNEL_BRIDGE=".")
    with opened(project) as container:
        yield container


def test_the_package_the_kernel_the_picker_and_the_agent_are_there(ours: Opened) -> None:
    assert ours.run("whoami") == "dev"
    (listed,) = json.loads(ours.run("kernel-bridge", "ls", "--json"))["kernels"]
    assert (listed["name"], listed["kind"], listed["state"]) == ("shared", "sandbox", "alive")
    assert "Shared: shared" in ours.run("kernel-bridge", "ide", "ls")
    registered = json.loads(ours.run("cat", "/home/dev/.claude.json"))["mcpServers"]["kernel"]
    assert registered["args"][-3:] == ["serve", "--kernel", "shared"]
    assert ours.run("sh", "-c", "ls /var/run/docker.sock 2>/dev/null || echo none") == "none"


AGENT = """
import asyncio, json, pathlib
from mcp import Client, StdioServerParameters
entry = json.loads(pathlib.Path("/home/dev/.claude.json").read_text())["mcpServers"]["kernel"]
async def main():
    server = StdioServerParameters(command=entry["command"], args=entry["args"], env=entry.get("env"))
    async with Client(server) as client:
        result = await client.call_tool("execute_code", {"code": "agents = theirs + 1; print(agents)"})
        print(result.content[0].text)
asyncio.run(main())
"""
NOTEBOOK = """
from jupyter_client.manager import KernelManager
manager = KernelManager(kernel_name="kernel-bridge-shared")
manager.start_kernel()
client = manager.blocking_client()
client.start_channels()
client.wait_for_ready(timeout=60)
shown = client.execute_interactive("print(agents + 1)", timeout=60)
manager.shutdown_kernel()
"""


def test_host_agent_and_notebook_are_on_the_same_variables(ours: Opened, command: Command) -> None:
    file = str(ours.project.connection_file)
    os.chown(file, os.geteuid(), os.getegid())  # this test is the host's user, and here that is root
    assert command("run", file, "-c", "theirs = 40").returncode == 0
    assert ours.run("python", "-c", AGENT) == "41"
    assert ours.run("python", "-c", NOTEBOOK) == "42"
    assert command("run", file, "-c", "print(agents)").stdout == "41\n"


def test_the_tests_run_in_there_and_its_files_are_the_users(ours: Opened) -> None:
    done = ours.run("make", "lint", timeout=BUILD)
    assert "Success: no issues found" in done
    ran = ours.run("pytest", "-q", "tests/unit/test_execution.py", "tests/unit/test_layers.py", timeout=BUILD)
    assert re.search(r"\d+ passed", ran)
    kernel = ours.run("pytest", "-q", "tests/integration/test_session.py", "-k", "busy", timeout=BUILD)
    assert re.search(r"\d+ passed", kernel)
    ours.run("touch", "made-inside")
    about = (ours.project.directory / "made-inside").stat()
    assert (about.st_uid, about.st_gid) == (USER, USER)


# -- any other project


def example() -> dict[str, str]:
    """Return the files that the README has for another project, by their names."""
    text = (ROOT / ".devcontainer" / "README.md").read_text().partition("## Any other project")[2]
    found = re.findall(r"`([^`\n]+)`[^`]*?:\n\n```(?:yaml|json)\n(.*?)```", text, re.DOTALL)
    return dict(found)


def test_the_example_adds_the_shared_kernel_to_any_other_project(
    tmp_path: Path, command: Command, ours: Opened
) -> None:
    files = example()
    assert set(files) == {"compose.yaml", "kernel.yaml", ".devcontainer/devcontainer.json"}
    other = Project(tmp_path / "other", "other", file=files["compose.yaml"])
    (other.directory / ".devcontainer").mkdir()
    for name, text in files.items():
        (other.directory / name).write_text(text)
    (other.directory / "data.txt").write_text("of the project")
    with opened(other) as container:
        assert container.run("cat", "data.txt") == "of the project"
        file = other.connection_file
        os.chown(file, os.geteuid(), os.getegid())
        assert json.loads(command("ls", "--json").stdout)["kernels"][0]["name"] == "other"
        done = command("run", str(file), "-c", "print(open('data.txt').read()); open('new', 'w')")
        assert done.stdout == "of the project\n"
        assert "Read-only file system" in done.stderr
        assert container.run("kernel-bridge", "run", "other", "-c", "print(6 * 7)") == "42"
        container.run("kernel-bridge", "ide", "install", "other")
        assert container.run("python", "-c", NOTEBOOK.replace("shared", "other").replace("agents + 1", "41")) == "41"
