"""What goes wrong on a machine that is not set up yet, provoked for real: each ends in a sentence that is enough.

The machine is not changed for it: another user is a process that gave up root, a missing engine and a full disk are in
a mount name space of the command's own.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.connection import runtime_directory

ROOT = Path(__file__).parents[2]
SOON = 60.0
BRIDGE = [sys.executable, "-m", "bridge"]
# Nobody, who may still read the checkout and Python wherever they are, as an installation in /usr could be read.
NOBODY = [
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search"),
]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"} | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False, env=environ)


def among_mounts(mounts: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours after some mounts that it alone sees."""
    script = f"set -e; {mounts}; exec {shlex.join([*BRIDGE, *arguments])}"
    return run("unshare", "--mount", "sh", "-c", script, **environment)


def sentence(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Return what a command said that must have failed with that code, and in one message."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("kernel-bridge:")]
    return line


@pytest.fixture
def theirs(tmp_path: Path) -> dict[str, str]:
    """The environment of another user, with a home and a runtime directory of his own."""
    made = tmp_path / "home"
    made.mkdir(mode=0o700)
    os.chown(made, 65534, 65534)
    return {"HOME": str(made), "JUPYTER_RUNTIME_DIR": str(made), "XDG_CONFIG_HOME": str(made), "XDG_RUNTIME_DIR": ""}


@pytest.mark.parametrize("arguments", [["up", "lab"], ["stop", "lab"]])
def test_a_user_who_may_not_use_the_engine_is_told_how_to_get_in(theirs: dict[str, str], arguments: list[str]) -> None:
    told = sentence(run(*NOBODY, *BRIDGE, *arguments, **theirs), 3)
    assert "may not be used by this user" in told
    assert "docker.sock (found at a well-known place)" in told
    assert "Add the user to the socket's group" in told


def test_who_may_not_use_the_engine_still_sees_the_host_kernels_and_why_no_sandboxes(theirs: dict[str, str]) -> None:
    listed = run(*NOBODY, *BRIDGE, "ls", **theirs)
    assert listed.returncode == 0
    assert "Sandboxes are not shown: The container engine at" in listed.stderr
    assert "No host kernels" in listed.stderr
    told = sentence(run(*NOBODY, *BRIDGE, "run", "lab", "-c", "1", **theirs), 2)
    assert "No kernel is called 'lab'" in told
    assert "Sandboxes could not be looked for" in told
    assert "may not be used by this user" in told


@pytest.mark.parametrize(("arguments", "code"), [(["up", "lab"], 3), (["run", "lab", "-c", "1"], 2)])
def test_without_any_engine_it_says_where_it_looked_and_how_to_name_one(
    tmp_path: Path, arguments: list[str], code: int
) -> None:
    told = sentence(among_mounts("mount -t tmpfs tmpfs /run", *arguments, HOME=str(tmp_path)), code)
    assert "no socket at /var/run/docker.sock" in told
    assert "KERNEL_BRIDGE_DOCKER_HOST" in told


@pytest.fixture
def full(runtime: Path) -> str:
    """The mount that makes the runtime directory a full disk."""
    at = shlex.quote(str(runtime))
    return f"mount -t tmpfs -o size=16k,mode=0700 tmpfs {at}; head -c 1M /dev/zero >{at}/filler 2>/dev/null || true"


def test_a_full_runtime_directory_costs_the_sandbox_and_says_so(full: str) -> None:
    told = sentence(among_mounts(full, "up", "full"), 3)
    assert f"{runtime_directory()}/kernel-bridge-full.json could not be written (No space left on device)" in told
    assert "the sandbox was removed again" in told
    assert run(*BRIDGE, "ls").stdout == ""


def test_a_demo_that_fails_ends_in_the_sentence_of_what_failed(full: str) -> None:
    told = among_mounts(full, "demo")
    assert told.returncode == 4
    assert "No space left on device" in told.stderr
    assert "Traceback" not in told.stderr
    host_only = among_mounts(full, "demo", "--no-sandbox")
    assert host_only.returncode == 4
    assert "The host kernel ended as soon as it was started: " in host_only.stderr
    assert "No space left on device" in host_only.stderr
    assert "Traceback" not in host_only.stderr


def test_an_older_python_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    # it answers as the real one would, but for its version
    old.write_text(
        '#!/bin/sh\ncase "$*" in\n  -V) echo Python 3.9.2 ;;\n'
        f"  *version_info*) exec {shlex.quote(sys.executable)} -c "
        '"import sys; sys.version_info = (3, 9, 2); exec(sys.argv[1])" "$2" ;;\n'
        "  *) exit 9 ;;\nesac\n"
    )
    old.chmod(0o755)
    checkout = tmp_path / "checkout"
    (checkout / ".ci").mkdir(parents=True)
    for name in ("Makefile", ".ci/venv.sh", "pyproject.toml", "requirements.lock"):
        (checkout / name).symlink_to(ROOT / name)
    # not as a part of the `make test` that this may be
    fresh = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "demo", f"PYTHON={old}"],
        cwd=checkout,
        env=fresh,
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
    )
    assert done.returncode == 2
    first, *rest = done.stderr.splitlines()
    assert first == f"{old} is Python 3.9.2; kernel-bridge needs Python 3.11 or newer. Name one: make PYTHON=python3.13"
    assert all(line.startswith("make: ***") for line in rest)
    assert not (checkout / ".venv").exists()
