"""`.ci/engine.sh` decides what to do about an engine, with commands that stand in for the real ones."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Stubs = Callable[[str, str], Path]
Run = Callable[..., subprocess.CompletedProcess[str]]

SCRIPT = Path(__file__).parents[3] / ".ci" / "engine.sh"


@pytest.fixture
def run(stubs: Stubs, tmp_path: Path) -> Run:
    """Run the script as root of a Debian without an engine, unless the stubs say otherwise."""
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_ID=12\n")
    asked = tmp_path / "asked"
    asked.touch()
    stubs("docker", f"""
      echo "docker $*" >>{asked}
      case "$*" in
        *version*) [ -e {tmp_path}/answers ] && echo 27.0 ;;
        'context inspect'*) echo default ;;
        'image inspect'*) exit 0 ;;
      esac""")  # fmt: skip
    stubs("id", "echo 0")
    stubs("apt-get", f'echo "apt-get $*" >>{asked}; case "$*" in *docker.io*) touch {tmp_path}/installed ;; esac')
    stubs("apt-cache", "exit 1")
    stubs("dpkg-query", f"[ -e {tmp_path}/installed ] && echo 'install ok installed'")
    # so that no process of this machine is taken for an engine
    stubs("grep", 'case "$*" in *comm*) exit 1 ;; esac; exec /usr/bin/grep "$@"')
    stubs("start-engine", f"echo started >>{asked}; touch {tmp_path}/answers; exec sleep 1")

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "ENGINE_SOCKET": str(tmp_path / "docker.sock"),
            "ENGINE_RUN": str(tmp_path),
            "ENGINE_LOG": str(tmp_path / "log"),
            "ENGINE_DOCKERD": "absent-dockerd",
            "ENGINE_OS_RELEASE": str(tmp_path / "os-release"),
        }
        return subprocess.run(
            ["sh", str(SCRIPT)], env=environ | variables, capture_output=True, text=True, timeout=30, check=False
        )

    return run


@pytest.fixture
def refusing_socket(tmp_path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(tmp_path / "docker.sock"))
    return tmp_path / "docker.sock"


def asked(tmp_path: Path) -> str:
    return (tmp_path / "asked").read_text()


def test_an_engine_that_answers_is_used_as_it_is(run: Run, refusing_socket: Path, tmp_path: Path) -> None:
    (tmp_path / "answers").touch()
    done = run()
    assert done.returncode == 0
    assert done.stderr == f"engine: using Docker 27.0 at unix://{refusing_socket}\n"
    assert "apt-get" not in asked(tmp_path)


def test_engine_none_goes_on_without_one(run: Run, tmp_path: Path) -> None:
    done = run(ENGINE="none")
    assert done.returncode == 0
    assert "nothing is isolated" in done.stderr
    assert asked(tmp_path) == ""


@pytest.mark.parametrize("variable", ["DOCKER_HOST", "KERNEL_BRIDGE_DOCKER_HOST"])
def test_nothing_is_installed_where_the_caller_named_an_engine(run: Run, tmp_path: Path, variable: str) -> None:
    done = run(**{variable: "tcp://127.0.0.1:1"})
    assert done.returncode == 3
    assert "does not answer" in done.stderr
    assert "apt-get" not in asked(tmp_path)


def test_nothing_is_installed_where_a_socket_refuses(run: Run, refusing_socket: Path, tmp_path: Path) -> None:
    done = run()
    assert (done.returncode, run(ENGINE="required").returncode) == (0, 3)
    assert str(refusing_socket) in done.stderr
    assert "nothing is isolated" in done.stderr
    assert "apt-get" not in asked(tmp_path)


def test_an_installed_engine_that_has_ended_is_started_again(run: Run, refusing_socket: Path, tmp_path: Path) -> None:
    (tmp_path / "installed").touch()
    (tmp_path / "docker.pid").write_text("1")  # by now the number of some other program
    done = run(ENGINE_DOCKERD="start-engine")
    assert done.returncode == 0, done.stderr
    assert "left over" in done.stderr
    assert "removing" in done.stderr
    assert not (tmp_path / "docker.pid").exists()
    assert "apt-get" not in asked(tmp_path)
    assert "started" in asked(tmp_path)


def test_an_engine_that_is_started_has_no_directory_of_the_session_that_it_outlives(
    run: Run, stubs: Stubs, tmp_path: Path
) -> None:
    stubs(
        "start-engine",
        f'echo "started in ${{XDG_RUNTIME_DIR-}}${{TMPDIR-}}" >>{tmp_path}/asked; touch {tmp_path}/answers',
    )
    done = run(ENGINE_DOCKERD="start-engine", XDG_RUNTIME_DIR="/run/user/0", TMPDIR="/tmp/session")
    assert done.returncode == 0, done.stderr
    assert "started in \n" in asked(tmp_path)


def test_where_there_is_no_sign_of_an_engine_the_distributions_own_is_installed_and_started(
    run: Run, stubs: Stubs, tmp_path: Path
) -> None:
    stubs("apt-get", f'echo "apt-get $*" >>{tmp_path}/asked; ln -sf start-engine {tmp_path}/stubs/absent-dockerd')
    done = run()
    assert done.returncode == 0, done.stderr
    assert "installing" in done.stderr
    lines = asked(tmp_path).splitlines()
    (update, install) = [line for line in lines if line.startswith("apt-get")]
    assert update.endswith("update")
    assert "--no-install-recommends docker.io iptables debootstrap" in install
    assert lines.index(install) < lines.index("started")


def test_nothing_is_installed_for_others_than_root_or_on_other_systems(run: Run, stubs: Stubs, tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text("ID=fedora\n")
    other = run(ENGINE="required")
    (tmp_path / "os-release").write_text("ID=ubuntu\n")
    stubs("id", "echo 1000")
    user = run(ENGINE="required")
    assert (other.returncode, user.returncode) == (3, 3)
    assert "neither Debian nor Ubuntu" in other.stderr
    assert "needs root" in user.stderr
    assert "apt-get" not in asked(tmp_path)


def test_where_none_can_be_had_the_caller_goes_on_unless_it_needs_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text("ID=fedora\n")
    done = run()
    assert done.returncode == 0
    assert "nothing is isolated" in done.stderr
    assert run(ENGINE="required").returncode == 3


def test_an_engine_that_ends_at_once_is_told_with_what_it_said(run: Run, stubs: Stubs) -> None:
    stubs("start-engine", "echo 'no cgroups here' >&2; exit 1")
    done = run(ENGINE_DOCKERD="start-engine", ENGINE="required")
    assert done.returncode == 3
    assert "no cgroups here" in done.stderr
    assert "ended at once" in done.stderr
