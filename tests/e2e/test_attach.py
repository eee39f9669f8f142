"""`kernel-bridge attach`: a person at a terminal, on the kernel of the others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from tests.e2e.terminals import ctrl_d, left, terminal, typed


def attached(kernel: str, kind: str = "dumb") -> AbstractContextManager[Any]:
    return terminal("bridge", "attach", kernel, kind=kind)


def test_ctrl_c_interrupts_and_exit_leaves_the_kernel_with_what_was_made_in_it(
    command: Any, shell_sandbox: str
) -> None:
    with attached(shell_sandbox) as child:
        child.expect("Ctrl-C interrupts what runs")
        typed(child, "x = 6 * 7")
        typed(child, "print('on', 1); import time; time.sleep(600)")
        child.expect("on 1")
        child.sendintr()
        child.expect("KeyboardInterrupt")
        typed(child, "exit")
        child.expect("it was not ended")
        assert left(child) == 0
    assert command("run", shell_sandbox, "-c", "print(x)").stdout == "42\n"


def test_what_others_run_is_shown_and_ctrl_d_leaves(command: Any, host_kernel: Any) -> None:
    with attached(str(host_kernel.file), kind="xterm") as child:
        child.expect(r"\]: ")
        assert command("run", str(host_kernel.file), "-c", "print('from', 'the agent')").returncode == 0
        child.expect("from the agent")
        ctrl_d(child)
        assert left(child) == 0
    assert host_kernel.process.poll() is None


def test_exit_leaves_a_kernel_on_the_host_too(host_kernel: Any, command: Callable[..., Any]) -> None:
    with attached(str(host_kernel.file)) as child:
        typed(child, "y = 1")
        typed(child, "quit()")
        assert left(child) == 0
    assert command("run", str(host_kernel.file), "-c", "print(y)").stdout == "1\n"


def test_a_kernel_that_is_not_there_is_told_before_a_console_opens(command: Any, runtime: Any) -> None:
    told = command("attach", "nobody")
    assert told.returncode == 2
    assert "No kernel is called 'nobody'" in told.stderr
    assert "In [" not in told.stdout


def test_a_kernel_that_ends_ends_the_console_with_the_reason(host_kernel: Any) -> None:
    with attached(str(host_kernel.file)) as child:
        typed(child, "print('on', 1); import time; time.sleep(600)")
        child.expect("on 1")
        host_kernel.kill()
        child.expect("has ended; its variables are lost")
        typed(child, "1")
        assert left(child) == 0
