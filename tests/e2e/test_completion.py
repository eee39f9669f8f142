"""TAB at a real bash's prompt, and the scripts for the other shells."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SOON = 60.0
PROGRAM = Path(sys.executable).with_name("kernel-bridge")
# Bash's own part of it: the words so far, and the function that `complete -p` says is asked.
PRESS_TAB = r"""
eval "$(kernel-bridge completion bash)"
[[ $(complete -p kernel-bridge) =~ -F\ ([a-z_]+) ]] || exit 9
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
${BASH_REMATCH[1]} kernel-bridge "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""

Tab = Callable[..., list[str]]


@pytest.fixture
def tab(runtime: Path) -> Tab:
    """Press TAB after some words; returns what is offered."""

    def press(*words: str, **environment: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", PRESS_TAB, "bash", "kernel-bridge", *words],
            capture_output=True,
            text=True,
            timeout=SOON,
            check=False,
            env=os.environ | {"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"} | environment,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [line for line in done.stdout.splitlines() if line]

    return press


@pytest.fixture
def sandbox(runtime: Path) -> Iterator[str]:
    started = subprocess.run([PROGRAM, "up", "tabbed"], capture_output=True, text=True, timeout=SOON, check=False)
    assert started.returncode == 0, started.stderr
    yield "tabbed"
    subprocess.run([PROGRAM, "stop", "tabbed"], capture_output=True, timeout=SOON, check=False)


def test_commands_and_options_are_completed(tab: Tab) -> None:
    assert tab("do") == ["doctor"]
    assert tab("client", "") == ["add", "print"]
    assert tab("client", "add", "cl") == ["claude", "claude-desktop"]
    assert "--timeout" in tab("run", "--t")


def test_kernels_are_completed_by_their_names(tab: Tab, host_kernel: Any, sandbox: str, runtime: Path) -> None:
    assert tab("run", "") == [host_kernel.file.stem, sandbox]
    assert tab("run", "ta") == [sandbox]
    assert tab("stop", "") == [sandbox]
    # a sandbox whose file lies elsewhere is known to the engine
    assert tab("stop", "t", JUPYTER_RUNTIME_DIR=f"{runtime}/elsewhere") == [sandbox]


def test_no_engine_and_a_bad_policy_leave_the_prompt_quiet(tab: Tab, host_kernel: Any) -> None:
    nowhere = {"KERNEL_BRIDGE_DOCKER_HOST": "unix:///nonexistent.sock"}
    assert tab("run", "", **nowhere) == [host_kernel.file.stem]
    assert tab("run", "--policy", "/nonexistent.yaml", "", **nowhere) == []


def test_an_engine_that_never_answers_does_not_hold_up_the_prompt(tab: Tab, host_kernel: Any, tmp_path: Path) -> None:
    place = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(place))
        silent.listen(8)
        started = time.monotonic()
        assert tab("run", "", KERNEL_BRIDGE_DOCKER_HOST=f"unix://{place}") == [host_kernel.file.stem]
        assert time.monotonic() - started < 10


def test_a_files_name_cannot_put_anything_at_the_prompt(tab: Tab, host_kernel: Any, runtime: Path) -> None:
    for name in ("*", "$(touch x)", "a,b", "a b", "-rf", "a\nplain,b"):
        (runtime / f"{name}.json").write_bytes(host_kernel.file.read_bytes())
    assert tab("run", "") == [host_kernel.file.stem]


@pytest.mark.parametrize(
    ("shell", "begins", "asks"),
    [
        ("bash", "_kernel_bridge_completion() {", "bash_complete"),
        ("zsh", "#compdef kernel-bridge", "zsh_complete"),
        ("fish", "function _kernel_bridge_completion", "fish_complete"),
    ],
)
def test_each_shell_has_its_script(shell: str, begins: str, asks: str) -> None:
    # with no shell on PATH: a script is printed for another machine too
    done = subprocess.run(
        [PROGRAM, "completion", shell], capture_output=True, text=True, timeout=SOON, check=False, env={"PATH": ""}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(begins)
    assert f"_KERNEL_BRIDGE_COMPLETE={asks}" in done.stdout


def test_another_shell_is_refused() -> None:
    done = subprocess.run([PROGRAM, "completion", "csh"], capture_output=True, text=True, timeout=SOON, check=False)
    assert (done.returncode, done.stdout) == (2, "")
