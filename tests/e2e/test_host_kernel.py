"""An agent on a kernel that was already running, over stdio, as its user would see it."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

pytestmark = pytest.mark.anyio

SOON = 30.0
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


def elsewhere(file: Path, code: str) -> str:
    """Run code through Jupyter's own client."""
    command = [sys.executable, "-m", "jupyter_client.runapp", "--existing", str(file)]
    done = subprocess.run(command, input=code, capture_output=True, text=True, timeout=SOON, check=True)
    return done.stdout


async def connected(agent: Any, kernel: Any) -> None:
    """Connect; the kernel was started a moment ago and may not listen yet."""
    async with asyncio.timeout(SOON):
        while True:
            result = await agent.client.call_tool("connect_to_kernel", {"connection_file": str(kernel.file)})
            if not result.is_error:
                return


async def test_the_walk_through_of_the_predecessor_with_its_tool_names(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        await agent.run("x = 42")
        assert elsewhere(host_kernel.file, "print(x)") == "42\n"
        assert await agent.run("import time; time.sleep(5); print('done')") == "done"
        status = await agent.client.call_tool("kernel_status", {})
        assert status.structured_content["result"][0]["state"] == "idle"
        assert "lives on" in await agent.call("disconnect_kernel")
    assert elsewhere(host_kernel.file, "print(x)") == "42\n"
    assert host_kernel.process.poll() is None


async def test_the_agent_is_warned_that_a_host_kernel_is_not_isolated(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        told = await agent.call("connect_to_kernel", connection_file=str(host_kernel.file))
    assert "not isolated" in told
    assert "Already connected" in told


async def test_a_traceback_is_clean_and_an_error(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        text = await agent.refused("execute_code", code="print('before')\n1/0")
    assert text.startswith("before")
    assert "ZeroDivisionError" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("kind", ["png", "jpeg", "svg"])
async def test_a_plot_arrives_as_an_image(connect: Any, host_kernel: Any, kind: str) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        await agent.run(f"%matplotlib inline\n%config InlineBackend.figure_formats = ['{kind}']", timeout=SOON)
        code = "import matplotlib.pyplot as plt; plt.plot([1, 3, 2]); plt.show()"
        result = await agent.client.call_tool("execute_code", {"code": code})
    [image] = agent.images(result)
    # a model cannot see SVG, so it comes as PNG
    assert image.mime_type == ("image/jpeg" if kind == "jpeg" else "image/png")
    assert base64.b64decode(image.data).startswith(JPEG if kind == "jpeg" else PNG)


async def test_a_time_out_returns_the_output_so_far_and_the_rest_can_be_read(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        text = await agent.run("import time; print('a', flush=True); time.sleep(2); print('b')", timeout=1)
        assert text.startswith("a")
        assert "execution 1" in text
        assert (await agent.call("get_execution", execution=1, wait=20)).split() == ["a", "b"]


async def test_a_cancelled_call_interrupts_the_cell_and_the_server_goes_on(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        async with anyio.create_task_group() as call:
            call.start_soon(agent.run, "import time; time.sleep(60)")
            with anyio.fail_after(SOON):
                while (await agent.client.call_tool("kernel_status", {})).structured_content["result"][0][
                    "state"
                ] != "busy":
                    await anyio.sleep(0.01)
            call.cancel_scope.cancel()
        before = time.monotonic()
        assert await agent.run("6 * 7") == "42"
        assert time.monotonic() - before < 20


async def test_an_interrupt_ends_the_agents_own_cell(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        await agent.run("import time; time.sleep(60)", timeout=0.5)
        assert "KeyboardInterrupt" in await agent.refused("interrupt_kernel")
        assert "nothing to interrupt" in await agent.refused("interrupt_kernel")


async def test_a_killed_kernel_is_one_sentence_within_two_seconds_and_the_server_serves_on(
    connect: Any, host_kernel: Any
) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        await agent.run("import time; time.sleep(60)", timeout=0.5)
        host_kernel.kill()
        before = time.monotonic()
        assert "has ended" in await agent.refused("get_execution", execution=1, wait=20)
        assert time.monotonic() - before < 2
        assert "Nothing was executed" in await agent.refused("execute_code", code="1")
        assert "No kernel is connected" in await agent.refused("execute_code", code="1")


async def test_what_goes_wrong_before_any_kernel_is_told_in_words(connect: Any, runtime: Path) -> None:
    (runtime / "half.json").write_text('{"shell_port": 1, "io')
    (runtime / "kernel-dir.json").mkdir()
    async with connect() as agent:
        assert "ipython kernel" in await agent.refused("connect_to_kernel")
        assert "cut short" in await agent.refused("connect_to_kernel", connection_file=str(runtime / "half.json"))
        assert "is a directory" in await agent.refused(
            "connect_to_kernel", connection_file=str(runtime / "kernel-dir.json")
        )
        assert "no connection file" in await agent.refused(
            "connect_to_kernel", connection_file=str(runtime / "none.json")
        )
        assert "attach.directories" in await agent.refused("connect_to_kernel", connection_file="/etc/passwd")


async def test_the_variables_can_be_looked_at_while_the_persons_cell_runs(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        await agent.run("prices = [1.5, 2.5]; title = 'draft'")
        await agent.run("import time; time.sleep(60)", timeout=0.5)
        told = (await agent.client.call_tool("list_variables", {})).structured_content
        rows = {each["name"]: each for each in told["variables"]}
        assert (rows["prices"]["type"], rows["prices"]["length"], rows["prices"]["value"]) == ("list", 2, "1.5, 2.5")
        assert rows["title"]["value"] == "'draft'"
        assert "KeyboardInterrupt" in await agent.refused("interrupt_kernel")
        assert "is not connected" in await agent.refused("list_variables", kernel="other")


async def test_an_object_and_the_last_error_are_looked_at_while_the_persons_cell_runs(
    connect: Any, host_kernel: Any
) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        await agent.run(
            "calls = []\nclass Odd:\n    def __repr__(self): calls.append(1)\nodd = Odd()\n"
            "def half(n):\n    kept = odd\n    return n / 0"
        )
        assert "ZeroDivisionError" in await agent.refused("execute_code", code="half(3)")
        await agent.run("import time; time.sleep(60)", timeout=0.5)

        seen = (await agent.client.call_tool("inspect_object", {"name": "half"})).structured_content
        assert seen["signature"] == "(n)"
        assert seen["source"].startswith("def half(n):\n    kept = odd")
        raised = (await agent.client.call_tool("inspect_error", {})).structured_content
        assert (raised["type"], raised["message"], raised["cell"]) == ("ZeroDivisionError", "division by zero", 2)
        assert "return n / 0" in raised["frames"][raised["frame"]]["source"]
        values = {each["name"]: each for each in raised["variables"]}
        assert values["n"]["value"] == "3"
        assert values["kept"]["type"] == "__main__.Odd"
        outer = (await agent.client.call_tool("inspect_error", {"frame": 0})).structured_content
        assert [each["name"] for each in outer["variables"]] == ["half"]
        assert "Near it: half" in await agent.refused("inspect_object", name="halve")
        assert "is not a name" in await agent.refused("inspect_object", name="half(3)")
        assert "There is no frame 9" in await agent.refused("inspect_error", frame=9)
        calls = (await agent.client.call_tool("inspect_object", {"name": "calls"})).structured_content
        assert calls["members"] == []
        assert "KeyboardInterrupt" in await agent.refused("interrupt_kernel")


async def test_while_a_cell_runs_its_newest_line_is_told(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        told: list[str] = []

        async def tell(_: float, __: float | None, line: str | None) -> None:
            told.append(line or "")

        code = "import time\nfor n in range(30): print('step', n, flush=True); time.sleep(0.1)"
        await agent.client.call_tool("execute_code", {"code": code}, progress_callback=tell)
        assert told
        assert all(line.startswith("step") for line in told)
        assert len(told) <= 4


async def test_while_get_execution_waits_the_newest_line_is_told_too(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        told: list[str] = []

        async def tell(_: float, __: float | None, line: str | None) -> None:
            told.append(line or "")

        code = "import time\nfor n in range(30): print('step', n, flush=True); time.sleep(0.1)"
        await agent.run(code, timeout=0.2)
        waiting = {"execution": 1, "wait": SOON}
        result = await agent.client.call_tool("get_execution", waiting, progress_callback=tell)
        assert "step 29" in agent.text(result)
        assert told
        assert all(line.startswith("step") for line in told)


async def test_while_send_input_waits_a_silent_cell_has_a_heartbeat(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        told: list[str] = []

        async def tell(_: float, __: float | None, line: str | None) -> None:
            told.append(line or "")

        assert "Waiting for input" in await agent.run("import time\ninput(); time.sleep(6)")
        answer = {"text": "x", "timeout": SOON}
        await agent.client.call_tool("send_input", answer, progress_callback=tell)
        assert told
        assert all(line.startswith("running for") for line in told)


async def test_odd_text_harms_neither_the_call_nor_the_server(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        assert "red" in await agent.run(r"print('\x00', '\x1b[31mred\x1b[0m', '\u202e')")
        assert await agent.run("print('x' * 10_000_000)") != ""
        assert await agent.run("1 + 1") == "2"


def test_a_bad_policy_ends_the_server_with_the_usage_exit_code(tmp_path: Path) -> None:
    bad = tmp_path / "policy.yaml"
    bad.write_text("version: 1\nsandbox: {privileged: true}\n")
    bad.chmod(0o600)
    command = [sys.executable, "-m", "bridge", "serve", "--policy", str(bad)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "privileged" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("number", [15, 2, 1])
def test_a_signal_ends_the_server_at_once_and_leaves_the_kernel(host_kernel: Any, number: int) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "bridge", "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
    )
    assert server.stdin
    assert server.stdout
    server.stdin.write(
        b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},'
        b'"clientInfo":{"name":"test","version":"1"}}}\n'
    )
    server.stdin.flush()
    assert b'"serverInfo"' in server.stdout.readline()
    server.send_signal(number)
    assert server.wait(5) == 128 + number
    server.stdin.close()
    server.stdout.close()
    assert host_kernel.process.poll() is None
