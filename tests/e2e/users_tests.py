"""Tests as a user of the fixture writes them; `test_plugin.py` runs them in a project of their own."""

from __future__ import annotations

import asyncio
import base64
import threading

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from bridge.errors import NotOurs, UsageError
from bridge.testing import Cell, CellExecutionError, CellTimeoutError, SandboxKernel

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
FOREVER = "while True: pass"
SOON = 30.0


def test_what_it_prints_and_what_it_is(sandbox_kernel: SandboxKernel) -> None:
    cell = sandbox_kernel.run(
        """
        import sys
        for word in ("one", "two"):
            print(word)
        print("bad", file=sys.stderr)
        {"a": 1}
        """
    )
    assert isinstance(cell, Cell)
    assert cell.stdout == "one\ntwo\n"
    assert cell.stderr == "bad\n"
    assert cell.value == "{'a': 1}"
    assert cell.error is None
    assert cell.notes == ()
    assert sandbox_kernel.run("x = 1").value is None


def test_what_it_shows(sandbox_kernel: SandboxKernel) -> None:
    cell = sandbox_kernel.run(
        f"""
        from IPython.display import HTML, Image, display
        display(Image(data={PNG!r}))
        HTML("<b>bold</b>")
        """
    )
    assert cell.images == (PNG,)
    assert cell.displays[1]["text/html"] == "<b>bold</b>"
    assert cell.value == "<IPython.core.display.HTML object>"


def test_what_it_raises(sandbox_kernel: SandboxKernel) -> None:
    with pytest.raises(CellExecutionError, match="ZeroDivisionError: division by zero") as caught:
        sandbox_kernel.run("1 / 0")
    assert caught.value.ename == "ZeroDivisionError"
    error = sandbox_kernel.run("def f():\n    raise KeyError('k')\nprint('before')\nf()", check=False).error
    assert error
    assert (error.ename, error.evalue) == ("KeyError", "'k'")
    assert "----> 2     raise KeyError('k')" in error.traceback
    assert "\x1b" not in error.traceback


def test_a_late_cell_is_interrupted_and_the_kernel_goes_on(sandbox_kernel: SandboxKernel) -> None:
    sandbox_kernel.run("kept = 1")
    with pytest.raises(CellTimeoutError, match="did not end within 1 s, and was interrupted") as late:
        sandbox_kernel.run(f"print('so far', flush=True)\n{FOREVER}", timeout=1)
    assert late.value.cell
    assert late.value.cell.stdout == "so far\n"
    assert FOREVER in str(late.value)
    assert "KeyboardInterrupt" in str(late.value)
    assert sandbox_kernel.run("kept").value == "1"


def test_what_no_interrupt_ends_is_told_and_a_restart_ends_it(sandbox_kernel: SandboxKernel) -> None:
    code = f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{FOREVER}"
    with pytest.raises(CellTimeoutError, match="an interrupt did not end it"):
        sandbox_kernel.run(code, timeout=1)
    sandbox_kernel.restart()
    assert sandbox_kernel.run("'anew'").value == "'anew'"


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_no_time_at_all_is_refused(sandbox_kernel: SandboxKernel, timeout: float) -> None:
    with pytest.raises(UsageError, match="is no time to wait for a cell"):
        sandbox_kernel.run("1", timeout=timeout)


@pytest.mark.parametrize(
    ("ask", "says"), [("input('Name? ')", "asks for input ('Name? ')"), ("getpass.getpass()", "asked for a password")]
)
def test_a_cell_that_asks_is_interrupted_and_told(sandbox_kernel: SandboxKernel, ask: str, says: str) -> None:
    with pytest.raises(CellExecutionError) as caught:
        sandbox_kernel.run(f"import getpass\n{ask}", timeout=SOON)
    assert says in str(caught.value).splitlines()[0]
    assert sandbox_kernel.run("'goes on'").value == "'goes on'"


def test_a_restart_empties_it(sandbox_kernel: SandboxKernel) -> None:
    sandbox_kernel.run("x = 1")
    name = sandbox_kernel.name
    sandbox_kernel.restart()
    cell = sandbox_kernel.run("'x' in globals()")
    assert (cell.value, cell.notes, sandbox_kernel.name) == ("False", (), name)


def test_another_thread_interrupts_it(sandbox_kernel: SandboxKernel) -> None:
    ended: list[Cell] = []
    running = threading.Thread(target=lambda: ended.append(sandbox_kernel.run(FOREVER, timeout=SOON, check=False)))
    running.start()
    while running.is_alive():
        try:
            sandbox_kernel.interrupt()
        except NotOurs:  # it has not begun yet
            continue
        break
    running.join()
    assert ended[0].error
    assert ended[0].error.ename == "KeyboardInterrupt"


def test_a_client_of_its_own_can_join(sandbox_kernel: SandboxKernel) -> None:
    sandbox_kernel.run("x = 41")
    client = BlockingKernelClient(connection_file=str(sandbox_kernel.connection_file))
    client.load_connection_file()
    client.start_channels(hb=False)
    try:
        client.wait_for_ready(timeout=SOON)
        client.execute_interactive("x += 1", timeout=SOON)
    finally:
        client.stop_channels()
    assert sandbox_kernel.run("x").value == "42"


def test_it_is_used_while_a_loop_of_the_tests_own_runs(sandbox_kernel: SandboxKernel) -> None:
    async def main() -> str | None:
        return sandbox_kernel.run("import asyncio; await asyncio.sleep(0, 'awaited')").value

    assert asyncio.run(main()) == "'awaited'"


def test_it_is_sealed(sandbox_kernel: SandboxKernel) -> None:
    error = sandbox_kernel.run("import socket; socket.create_connection(('192.0.2.1', 80), 2)", check=False).error
    assert error
    assert error.ename == "OSError"
