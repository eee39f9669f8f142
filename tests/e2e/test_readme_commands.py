"""Every command of the README is run, in its order, as a newcomer would type it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.composed import how_to_build, project

pytestmark = pytest.mark.usefixtures("image_tag")

ROOT = Path(__file__).parents[2]
# `make demo` and `docker compose up` on a busy machine, where an image may have to be built
LONGEST = 600.0


def blocks() -> list[list[str]]:
    """Return the shell blocks, line by line, without the remarks."""
    found = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return [[re.sub(r"\s+#\s.*", "", line) for line in block.splitlines()] for block in found]


def test_the_readme_has_the_commands_that_a_newcomer_needs() -> None:
    lines = [line for block in blocks() for line in block]
    for start in ("make demo", "kernel-bridge up", "kernel-bridge run", "kernel-bridge policy check"):
        assert any(line.startswith(start) for line in lines), start


@contextmanager
def in_background(line: str, folder: Path, environment: dict[str, str], command: Any) -> Iterator[None]:
    """Run what the README puts into the background, and go on once its kernel answers."""
    with subprocess.Popen(
        ["bash", "-c", line.removesuffix("&")],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            while process.poll() is None:
                listed = json.loads(command("ls", "--json", **environment).stdout)["kernels"]
                if any(each["state"] == "alive" for each in listed):
                    break
            assert process.poll() is None, f"ended at once: {line}"
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block[0][:40])
def test_the_commands_of_the_readme_work_as_they_stand(
    block: list[str], command: Any, tmp_path: Path, runtime: Path
) -> None:
    environment = {
        **how_to_build(),
        **{name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    waiting = [line for line in block if line.endswith("&")]
    assert len(waiting) <= 1
    if any(line.startswith("docker compose") for line in block):  # in a project of its own, and on ports of its own
        with project(tmp_path / "project", "shared") as clone:
            run(block, clone.directory, environment)
    elif waiting:
        with in_background(waiting[0], tmp_path, environment, command):
            run([line for line in block if line not in waiting], tmp_path, environment)
    else:
        run(block, tmp_path, environment)


def run(lines: list[str], folder: Path, environment: dict[str, str]) -> None:
    for line in lines:
        # what is said of the clone is typed in the clone, everything else anywhere
        here = ROOT if line.startswith(("make", ".venv/")) else folder
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
