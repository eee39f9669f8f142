"""A bridge is killed, and the next one goes on: its numbers, output, activity, and the cell that still runs."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import SOON, Bridge, Serve, run, until

# Goes on once the file is there.
UNTIL = "import pathlib, time\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.01)\n"


# As one that has none, before ipykernel 7.
WITHOUT_SUBSHELLS = """
kind = type(get_ipython().kernel)
told = kind.kernel_info.fget
kind.kernel_info = property(lambda kernel: told(kernel) | {"supported_features": []})
"""


def killed(server: Bridge) -> None:
    server.process.send_signal(signal.SIGKILL)
    assert server.until_ended() == 137


def left(server: Bridge) -> None:
    server.stdin.close()
    assert server.until_ended() == 0


def served(bridge: Serve, kernel: Any) -> Bridge:
    server = bridge().greet()
    server.connect(kernel)
    return server


def read(server: Bridge, number: int, *, wait: float = SOON) -> str:
    """Return what get_execution says; whether it says that the cell has raised is the test's affair."""
    result = server.answer(server.start_call("get_execution", execution=number, wait=wait))["result"]
    return "\n".join(each["text"] for each in result["content"] if each["type"] == "text")


def begun(server: Bridge, code: str) -> None:
    """Run a cell whose call returns before it ends."""
    told = server.call("execute_code", code=f"print('begun', flush=True)\n{code}", timeout=1)
    assert "begun" in told
    assert "running" in told


@pytest.mark.parametrize("ends", [killed, left])
def test_a_cell_that_runs_on_is_followed_to_its_end_and_all_it_printed_is_told(
    bridge: Serve, host_kernel: Any, tmp_path: Path, ends: Callable[[Bridge], None]
) -> None:
    go, end = tmp_path / "go", tmp_path / "end"
    first = served(bridge, host_kernel)
    first.call("execute_code", code="x = 6")
    begun(first, f"{UNTIL.format(str(go))}print('unheard', flush=True)\n{UNTIL.format(str(end))}print('last')\nx * 7")
    ends(first)
    go.touch()
    second = served(bridge, host_kernel)
    told = read(second, 2, wait=0)
    assert "begun" in told
    assert "The bridge that sent it has ended" in told
    end.touch()
    told = read(second, 2)
    assert re.search(r"begun\nunheard\nlast\n.*42", told, re.DOTALL), told
    assert "as the kernel itself has kept" in told
    assert second.call("execute_code", code="x + 1") == "7"
    assert "Execution 4 is not kept for this kernel; kept are 1 to 3." in second.refused("get_execution", execution=4)


def test_a_cell_that_ended_while_no_bridge_was_there_is_told_with_how_it_ended(
    bridge: Serve, host_kernel: Any, tmp_path: Path
) -> None:
    go, done = tmp_path / "go", tmp_path / "done"
    first = served(bridge, host_kernel)
    begun(first, f"{UNTIL.format(str(go))}print('unheard')\npathlib.Path({str(done)!r}).touch()\n1 / 0")
    killed(first)
    go.touch()
    until(done.exists, "the cell has come to its end")
    second = served(bridge, host_kernel)
    told = read(second, 1)
    assert "begun\nunheard" in told
    assert "ZeroDivisionError: division by zero" in told
    assert "as the kernel itself has kept" in told


def test_a_cell_that_runs_on_is_ours_to_interrupt(bridge: Serve, host_kernel: Any) -> None:
    first = served(bridge, host_kernel)
    begun(first, "import time; time.sleep(600)")
    killed(first)
    second = served(bridge, host_kernel)
    assert "execution 1 of this bridge" in second.call("kernel_status")
    assert "KeyboardInterrupt" in second.refused("interrupt_kernel")
    assert second.call("execute_code", code="'free'") == "'free'"


@pytest.mark.parametrize("is_asked", ["before", "after"])
def test_what_a_cell_asks_is_asked_by_the_heir_and_its_answer_is_taken(
    bridge: Serve, host_kernel: Any, tmp_path: Path, is_asked: str
) -> None:
    """Whether the bridge that died had heard the question, or nobody has."""
    go, asks = tmp_path / "go", f"pathlib.Path({str(tmp_path / 'asks')!r}).touch()\nprint('hello', input('who? '))"
    first = served(bridge, host_kernel)
    if is_asked == "before":
        go.touch()
        first.call("execute_code", code=f"{UNTIL.format(str(go))}{asks}")
    else:
        begun(first, f"{UNTIL.format(str(go))}{asks}")
    killed(first)
    go.touch()
    until((tmp_path / "asks").exists, "the cell is about to ask")
    second = served(bridge, host_kernel)
    until(lambda: "which asks `who?` (send_input answers)" in second.call("kernel_status"), "the question is found")
    assert "Waiting for input: `who?`, asked by execution 1." in read(second, 1)
    assert "hello you" in second.call("send_input", text="you", execution=1)
    assert second.call("execute_code", code="'free'") == "'free'"


def test_what_a_dead_bridge_heard_is_asked_where_the_kernel_does_not_tell(bridge: Serve, host_kernel: Any) -> None:
    first = served(bridge, host_kernel)
    first.call("execute_code", code=WITHOUT_SUBSHELLS)
    first.call("execute_code", code="name, age = input('who? '), input('how old? ')")
    assert "how old?" in first.call("send_input", text="Ada")
    killed(first)
    second = served(bridge, host_kernel)
    assert "which asks `how old?` (send_input answers)" in second.call("kernel_status")
    second.call("send_input", text="36")
    assert second.call("execute_code", code="name, age") == "('Ada', '36')"


def test_a_password_that_a_dead_bridges_cell_asks_for_is_never_asked(
    bridge: Serve, host_kernel: Any, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    first = served(bridge, host_kernel)
    begun(first, f"{UNTIL.format(str(go))}import getpass; getpass.getpass('token? ')")
    killed(first)
    go.touch()
    second = served(bridge, host_kernel)
    told = read(second, 1)
    assert "The cell asked for a password, which is never asked through an agent" in told
    assert "KeyboardInterrupt" in told
    assert second.call("execute_code", code="'free'") == "'free'"


def test_what_was_run_and_seen_before_is_read_by_number_and_in_the_activity(bridge: Serve, host_kernel: Any) -> None:
    first = served(bridge, host_kernel)
    first.call("execute_code", code="for n in range(20_000): print('line', n)")
    assert run("run", str(host_kernel.file), "-c", "print('hers')").stdout == "hers\n"
    until(lambda: "hers" in first.call("get_activity"), "it is seen")
    killed(first)
    second = served(bridge, host_kernel)
    assert "line 2\n" in (told := read(second, 1))
    assert "reads on" in told
    assert "print('hers')" in second.call("get_activity")
    assert second.call("execute_code", code="'third'") == "'third'"
    assert "'third'" in read(second, 2)


def test_of_two_bridges_that_come_at_once_one_follows_the_cell_on_and_the_other_waits_for_it(
    bridge: Serve, host_kernel: Any, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    first = served(bridge, host_kernel)
    begun(first, f"{UNTIL.format(str(go))}print('end')")
    killed(first)
    heirs = [bridge().greet() for _ in range(2)]
    calls = [each.start_call("connect_to_kernel", connection_file=str(host_kernel.file)) for each in heirs]
    for each, call in zip(heirs, calls, strict=True):
        each.text(call)
    (heir,) = [each for each in heirs if "execution 1 of this bridge" in each.call("kernel_status")]
    (other,) = [each for each in heirs if each is not heir]
    waiting = other.start_call("execute_code", code="'after'")
    go.touch()
    assert "end" in read(heir, 1)
    assert "'after'" in other.text(waiting)


def test_a_kernel_that_was_started_again_has_nothing_of_the_process_before(
    bridge: Serve, shell_sandbox: Any, tmp_path: Path
) -> None:
    first = bridge().greet()
    first.call("connect_to_kernel", connection_file="heir")
    begun(first, "import time; time.sleep(600)")
    killed(first)
    assert run("restart", "heir").returncode == 0
    second = bridge().greet()
    second.call("connect_to_kernel", connection_file="heir")
    assert second.call("execute_code", code="'new'") == "'new'"
    assert "'new'" in read(second, 1)


def test_a_sandboxs_cell_is_followed_on_too(bridge: Serve, shell_sandbox: Any) -> None:
    first = bridge().greet()
    first.call("connect_to_kernel", connection_file="heir")
    code = f"{UNTIL.format('/home/kernel/go')}print('in the sandbox')"
    begun(first, code)
    killed(first)
    second = bridge().greet()
    second.call("connect_to_kernel", connection_file="heir")
    second.call("put_file", path="go", text="")
    told = read(second, 1)
    assert "begun\nin the sandbox" in told


@pytest.fixture
def shell_sandbox(runtime: Path) -> Iterator[None]:
    """A sandbox that is started from the shell."""
    started = run("up", "heir")
    assert started.returncode == 0, started.stderr
    yield
    assert run("stop", "heir").returncode == 0
