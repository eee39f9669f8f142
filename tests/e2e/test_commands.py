"""The command line as a person and a script use it: output, exit codes, what is left."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SOON = 60.0


def test_a_sandbox_from_the_shell(command: Any, shell_sandbox: str) -> None:
    done = command("run", shell_sandbox, "-c", "import sys; x = 6 * 7; print(x); print('e', file=sys.stderr); x")
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n42\n", "e\n")
    raised = command("run", shell_sandbox, "-c", "print('before'); 1/0")
    assert (raised.returncode, raised.stdout) == (1, "before\n")
    assert "ZeroDivisionError" in raised.stderr
    listed = json.loads(command("ls", "--json").stdout)["kernels"]
    assert [(each["name"], each["state"]) for each in listed] == [("shell", "alive")]
    assert "shell  sandbox  alive" in command("ls").stdout
    assert command("up", "shell").returncode == 3
    assert command("stop", "shell").returncode == 0
    assert command("stop", "shell").returncode == 2
    assert command("run", "shell", "-c", "1").returncode == 2


def test_code_comes_from_a_file_or_from_stdin(command: Any, shell_sandbox: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('from a file')")
    assert command("run", shell_sandbox, str(script)).stdout == "from a file\n"
    piped = subprocess.run(
        [sys.executable, "-m", "bridge", "run", shell_sandbox, "-"],
        input="print('from stdin')",
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
    )
    assert piped.stdout == "from stdin\n"


def test_control_c_interrupts_the_cell_and_not_only_the_command(command: Any, host_kernel: Any) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "bridge",
            "run",
            str(host_kernel.file),
            "-c",
            "print('on', flush=True); import time; time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SOON)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert command("run", str(host_kernel.file), "-c", "print('free')", "--timeout", "20").stdout == "free\n"


def test_a_reader_that_leaves_ends_the_command_and_its_cell(command: Any, host_kernel: Any) -> None:
    endless = "import time\nwhile True: print('line', flush=True); time.sleep(0.01)"
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge", "run", str(host_kernel.file), "-c", endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.wait(SOON) == 0
    assert process.stderr.read() == ""
    process.stderr.close()
    assert command("run", str(host_kernel.file), "-c", "print('free')", "--timeout", "20").stdout == "free\n"


def test_what_the_terminal_cannot_show_costs_no_output(command: Any, host_kernel: Any) -> None:
    code = "print('a \u2192 b'); print('second'); '\u2192'"
    done = command("run", str(host_kernel.file), "-c", code, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a \\u2192 b\nsecond\n'\\u2192'\n", "")


def test_an_output_that_cannot_be_written_fails_the_command(command: Any, host_kernel: Any) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bridge", "run", str(host_kernel.file), "-c", "print('x', flush=True); 1"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SOON,
            check=False,
        )
    assert done.returncode == 4
    assert "could not be written (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cell_that_outlives_the_timeout_is_a_kernel_failure_for_a_script(command: Any, host_kernel: Any) -> None:
    command("run", str(host_kernel.file), "-c", "1")
    done = command("run", str(host_kernel.file), "-c", "import time; time.sleep(3)", "--timeout", "1")
    assert done.returncode == 4
    assert "goes on" in done.stderr


def test_a_kernel_that_dies_is_exit_code_four(command: Any, host_kernel: Any) -> None:
    command("run", str(host_kernel.file), "-c", "1")
    done = command("run", str(host_kernel.file), "-c", "import os; os._exit(1)")
    assert done.returncode == 4
    assert "has ended" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["run", "nope", "-c", "1"], 2, "No kernel is called 'nope'"),
        (["run", "x"], 2, "either a FILE or -c CODE"),
        (["run", "x", "-c", "1", "/nope.py"], 2, "nope.py"),
        (["stop", "nope"], 2, "nope"),
        (["up", "Bad_Name"], 2, "Bad_Name"),
        (["up", "--image", "evil.io/kernel-bridge/python:3.13"], 2, "evil.io"),
        (["up", "--image", "kernel-bridge/python:none"], 3, "image build"),
        (["up", "--memory", "9TiB"], 2, "memory"),
        (["up", "--env", "LD_PRELOAD=x"], 2, "LD_PRELOAD"),
        (["up", "--workspace", "~nobody-of-that-name/x"], 2, "no such user's home"),
        (["up", "--env", "NOT_SET_ANYWHERE"], 2, "NOT_SET_ANYWHERE"),
        (["up", "--engine", "unix:///nonexistent.sock"], 3, "nonexistent.sock"),
        (["ls", "--policy", "/nonexistent.yaml"], 2, "nonexistent.yaml"),
        (["policy", "check", "/nonexistent.yaml"], 2, "nonexistent.yaml"),
        (["nonsense"], 2, "nonsense"),
        (["up", "--nonsense"], 2, "nonsense"),
    ],
)
def test_each_failure_has_its_exit_code_and_its_sentence(
    command: Any, runtime: Path, arguments: list[str], code: int, sentence: str
) -> None:
    done = command(*arguments)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_policy_is_checked_with_all_its_problems_at_once(command: Any, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("version: 1\n")
    bad.write_text("version: 1\nsandbox:\n  network: host\n  limits: {pids: true}\n  privileged: true\n")
    for each in (good, bad):
        each.chmod(0o600)
    assert command("policy", "check", str(good)).returncode == 0
    done = command("policy", "check", str(bad))
    assert done.returncode == 2
    for line in ("line 3", "line 4", "line 5"):
        assert line in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        *("", "serve", "up", "stop", "restart", "interrupt", "ls", "status", "logs", "run", "gc", "demo"),
        *("image", "image build", "image ls", "policy", "policy check", "policy show", "policy explain"),
        *("doctor", "client", "client add", "client print", "completion"),
    ],
)
def test_every_command_has_help_with_an_example(command: Any, name: str) -> None:
    done = command(*name.split(), "--help")
    assert done.returncode == 0
    assert "Example:" in done.stdout or name in ("", "image", "policy")


def test_the_demo_shows_the_main_job_in_one_screen(command: Any, tmp_path: Path) -> None:
    done = command("demo", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    assert "the agent reads x = 43" in done.stdout
    assert "still alive, x = 43" in done.stdout
    assert "image/png" in done.stdout
    assert len(shown.splitlines()) < 40
    [plot] = tmp_path.glob("kernel-bridge-demo-*.png")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_without_an_engine_the_demo_says_that_nothing_is_isolated(command: Any) -> None:
    done = command("demo", KERNEL_BRIDGE_DOCKER_HOST="unix:///nonexistent.sock")
    assert done.returncode == 0, done.stderr
    assert "NOTHING IS ISOLATED" in done.stderr
    assert "still alive, x = 43" in done.stdout


def test_the_demo_leaves_nothing_among_what_the_persons_bridges_keep(command: Any, tmp_path: Path) -> None:
    state, temporary = tmp_path / "state", tmp_path / "tmp"
    temporary.mkdir()
    done = command("demo", "--no-sandbox", XDG_STATE_HOME=str(state), TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    assert "still alive, x = 43" in done.stdout
    assert not [*state.rglob("*.sqlite")]
    assert not [*temporary.iterdir()]


def test_an_engine_that_hangs_delays_no_command_about_host_kernels(
    command: Any, host_kernel: Any, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(tmp_path / "hung.sock"))
        hung.listen()
        before = time.monotonic()
        done = command("ls", "--engine", f"unix://{tmp_path}/hung.sock")
        # the request itself would be given up after thirty seconds
        assert time.monotonic() - before < 15
    assert done.returncode == 0, done.stderr
    assert "did not answer" in done.stderr
    assert "kernel-test" in done.stdout
