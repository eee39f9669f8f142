"""Agents that share one server over HTTP, and through it a kernel with the user: in both protocol eras."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.types import ElicitResult

from tests.e2e.serving import Mode, Served, connected
from tests.e2e.test_activity import Heard, subscribed
from tests.e2e.test_host_kernel import elsewhere

# legacy clients subscribe by requests that the modern era has no more
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")]

SOON = 60.0
KERNEL = "kernel-test"
EITHER_ERA = pytest.mark.parametrize("mode", ["auto", "legacy"], ids=["modern", "legacy"])
LONG = "import time\nprint('begun', flush=True)\ntime.sleep(60)"


async def activity(agent: Any, enough: Callable[[Any], bool], **arguments: Any) -> Any:
    """Ask until what is on its way has come."""
    async with asyncio.timeout(SOON):
        while True:
            result = await agent.client.call_tool("get_activity", {"kernel": KERNEL} | arguments)
            if not result.is_error and enough(result.structured_content):
                return result.structured_content


async def state(agent: Any) -> dict[str, Any]:
    [only] = (await agent.client.call_tool("kernel_status", {})).structured_content["result"]
    return dict(only)


async def until_busy(agent: Any) -> None:
    async with asyncio.timeout(SOON):
        while (await state(agent))["state"] != "busy":
            await asyncio.sleep(0.01)


async def until_free(agent: Any) -> None:
    async with asyncio.timeout(SOON):
        while (await state(agent))["state"] != "idle":
            await asyncio.sleep(0.01)


@EITHER_ERA
async def test_an_agent_works_as_over_stdio(serve: Callable[..., Served], host_kernel: Any, mode: Mode) -> None:
    async def user(context: Any, params: Any) -> ElicitResult:
        assert params.message == f"Code in {KERNEL} asks: Name? "
        return ElicitResult(action="accept", content={"answer": "Ada"})

    async with asyncio.timeout(SOON), serve().client(mode=mode, user=user) as agent:
        await connected(agent, host_kernel)
        assert await agent.run("x = 6; x * 7", kernel=KERNEL) == "42"
        assert await agent.run("print(input('Name? '))", kernel=KERNEL) == "Ada"
        assert "ZeroDivisionError" in await agent.refused("execute_code", code="1/0", kernel=KERNEL)
        seen = await agent.client.call_tool("list_variables", {"kernel": KERNEL})
        assert [each["name"] for each in seen.structured_content["variables"]] == ["x"]
        plot = "from PIL import Image; Image.new('RGB', (600, 600), 'red')"
        assert agent.images(await agent.client.call_tool("execute_code", {"code": plot, "kernel": KERNEL}))
        told = await agent.run("import time; print('so far', flush=True); time.sleep(2); 7", kernel=KERNEL, timeout=0.5)
        assert told.startswith("so far\n")
        assert (await agent.call("get_execution", execution=5, kernel=KERNEL, wait=30)).endswith("7")
        assert "pass `kernel` in each call" in (agent.client.instructions or "")
    assert elsewhere(host_kernel.file, "print(x)") == "6\n"


@EITHER_ERA
async def test_a_kernel_is_never_meant_without_being_named(
    serve: Callable[..., Served], host_kernel: Any, mode: Mode
) -> None:
    async with asyncio.timeout(SOON), serve().client(mode=mode) as agent:
        assert "No kernel is connected" in await agent.refused("execute_code", code="1")
        await connected(agent, host_kernel)
        calls: dict[str, dict[str, Any]] = {
            "execute_code": {"code": "1"},
            "get_execution": {"execution": 1},
            "get_activity": {},
            "list_variables": {},
            "inspect_object": {"name": "x"},
            "inspect_error": {},
            "interrupt_kernel": {},
            "restart_kernel": {},
            "send_input": {"text": "x"},
            "put_file": {"path": "x", "text": ""},
            "get_file": {"path": "x"},
            "disconnect_kernel": {},
        }
        for tool, arguments in calls.items():
            told = await agent.refused(tool, **arguments)
            assert told == f"Several clients share this server, so name the kernel as `kernel`: {KERNEL}."
        assert (await state(agent))["name"] == KERNEL


@pytest.mark.parametrize("modes", [("auto", "auto"), ("legacy", "legacy"), ("auto", "legacy")], ids="-".join)
async def test_two_agents_see_each_others_cells_and_cannot_stop_them(
    serve: Callable[..., Served], host_kernel: Any, modes: tuple[Mode, Mode]
) -> None:
    server = serve()
    async with (
        asyncio.timeout(SOON),
        server.client("claude-code", modes[0]) as claude,
        server.client("codex", modes[1]) as codex,
    ):
        await connected(claude, host_kernel)
        await connected(codex, host_kernel)
        await claude.run("mine = 'of claude'", kernel=KERNEL)
        assert await codex.run("mine", kernel=KERNEL) == "'of claude'"
        [cell] = (await activity(codex, lambda told: bool(told["cells"])))["cells"]
        assert (cell["username"], cell["client"]) == ("claude-code", "kernel-bridge")
        assert cell["code"] == "mine = 'of claude'"
        [cell] = (await activity(claude, lambda told: bool(told["cells"])))["cells"]
        assert (cell["username"], cell["code"]) == ("codex", "mine")

        running = asyncio.create_task(claude.client.call_tool("execute_code", {"code": LONG, "kernel": KERNEL}))
        await until_busy(codex)
        told = await codex.refused("interrupt_kernel", kernel=KERNEL)
        assert "of claude-code" in told
        assert "is not interrupted" in told
        told = await codex.refused("execute_code", code="1", kernel=KERNEL, timeout=0.2)
        assert "Nothing was executed" in told
        assert "of claude-code" in told
        assert not running.done()
        # nor does leaving, nor giving up while waiting for a turn
        waiting = asyncio.create_task(codex.run("2", kernel=KERNEL))
        await asyncio.sleep(0)
        waiting.cancel()
        await codex.call("disconnect_kernel", kernel=KERNEL)
        assert "connected are: none" in await codex.refused("execute_code", code="1", kernel=KERNEL)
        assert (await state(claude))["state"] == "busy"
        assert not running.done()
        assert "KeyboardInterrupt" in await claude.refused("interrupt_kernel", kernel=KERNEL)
        assert (await running).is_error
        assert await claude.run("mine", kernel=KERNEL) == "'of claude'"


async def test_two_sessions_of_one_name_are_two_agents_before_2026(
    serve: Callable[..., Served], host_kernel: Any
) -> None:
    server = serve()
    async with (
        asyncio.timeout(SOON),
        server.client("same", "legacy") as first,
        server.client("same", "legacy") as second,
    ):
        await connected(first, host_kernel)
        assert "connected are: none" in await second.refused("execute_code", code="1", kernel=KERNEL)
        await connected(second, host_kernel)
        await first.run(LONG, kernel=KERNEL, timeout=0.3)
        assert "is not interrupted" in await second.refused("interrupt_kernel", kernel=KERNEL)
        await second.call("disconnect_kernel", kernel=KERNEL)
        assert "KeyboardInterrupt" in await first.refused("interrupt_kernel", kernel=KERNEL)


async def test_since_2026_a_client_that_comes_back_finds_its_kernels_and_its_cells(
    serve: Callable[..., Served], host_kernel: Any
) -> None:
    server = serve()
    async with asyncio.timeout(SOON):
        async with server.client("agent") as agent:
            await connected(agent, host_kernel)
            await agent.run("import time; time.sleep(1); print('after')", kernel=KERNEL, timeout=0.1)
        async with server.client("agent") as agent:
            assert await agent.call("get_execution", execution=1, kernel=KERNEL, wait=30) == "after"
        async with server.client("another") as agent:
            assert "connected are: none" in await agent.refused("get_execution", execution=1, kernel=KERNEL)


async def test_many_clients_at_once_on_one_kernel_each_get_their_own_output(
    serve: Callable[..., Served], host_kernel: Any
) -> None:
    server, rounds = serve(), 5
    names = [f"agent-{number}" for number in range(8)]

    async def work(name: str, mode: Mode) -> None:
        async with server.client(name, mode) as agent:
            await connected(agent, host_kernel)
            for number in range(rounds):
                code = f"print('{name}', {number}, flush=True); done = globals().get('done', 0) + 1; '{name}'"
                assert await agent.run(code, kernel=KERNEL, timeout=SOON) == f"{name} {number}\n'{name}'"

    async with asyncio.timeout(2 * SOON):
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(names):
                group.create_task(work(name, "legacy" if number % 2 else "auto"))
        async with server.client("last") as agent:
            await connected(agent, host_kernel)
            assert await agent.run("done", kernel=KERNEL) == str(rounds * len(names))


@EITHER_ERA
async def test_a_cancelled_call_interrupts_its_cell(serve: Callable[..., Served], host_kernel: Any, mode: Mode) -> None:
    async with asyncio.timeout(SOON), serve().client(mode=mode) as agent:
        await connected(agent, host_kernel)
        async with anyio.create_task_group() as call:
            call.start_soon(lambda: agent.run(LONG, kernel=KERNEL))
            await until_busy(agent)
            call.cancel_scope.cancel()
        before = time.monotonic()
        assert await agent.run("6 * 7", kernel=KERNEL) == "42"
        assert time.monotonic() - before < 20


async def test_a_client_that_vanishes_in_a_call_interrupts_its_cell_since_2026(
    serve: Callable[..., Served], host_kernel: Any
) -> None:
    server = serve()
    async with asyncio.timeout(SOON), server.client("watcher") as watcher:
        await connected(watcher, host_kernel)
        task = asyncio.create_task(_runs_long(server, host_kernel))
        await until_busy(watcher)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until_free(watcher)


async def _runs_long(server: Served, kernel: Any) -> None:
    async with server.client("vanishing") as agent:
        await connected(agent, kernel)
        await agent.run(LONG, kernel=KERNEL)


async def test_a_session_that_ends_leaves_the_kernel_free_of_its_question(
    serve: Callable[..., Served], host_kernel: Any
) -> None:
    server = serve()
    async with asyncio.timeout(SOON), server.client("watcher") as watcher:
        await connected(watcher, host_kernel)
        async with server.client("asks", "legacy") as agent:
            await connected(agent, host_kernel)
            assert "Waiting for input" in await agent.run("input()", kernel=KERNEL)
            await until_busy(watcher)
        await until_free(watcher)


@EITHER_ERA
async def test_a_subscriber_is_told_of_the_other_agents_cells_and_not_of_its_own(
    serve: Callable[..., Served], host_kernel: Any, mode: Mode
) -> None:
    server, heard = serve(), Heard()
    async with (
        asyncio.timeout(SOON),
        server.client("listens", mode, hears=heard) as agent,
        server.client("works") as other,
    ):
        await connected(agent, host_kernel)
        await connected(other, host_kernel)
        assert len((await agent.client.list_resources()).resources) == 1
        async with subscribed(agent, heard):
            await agent.run("mine = 1", kernel=KERNEL)
            await heard.nothing()
            await other.run("theirs = 1", kernel=KERNEL)
            if not heard.uris:
                await heard.next()
        assert set(heard.uris) == {f"kernel-bridge://kernels/{KERNEL}/activity"}


@EITHER_ERA
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_it_at_once_with_open_calls_told_and_their_cells_going_on(
    serve: Callable[..., Served], host_kernel: Any, mode: Mode, number: int, tmp_path: Path
) -> None:
    server, file = serve(), tmp_path / "went on"
    code = f"import time, pathlib; print('begun', flush=True); time.sleep(3); pathlib.Path({str(file)!r}).touch()"
    with anyio.fail_after(SOON):
        async with server.client(mode=mode) as agent:
            await connected(agent, host_kernel)
            call = asyncio.create_task(agent.client.call_tool("execute_code", {"code": code, "kernel": KERNEL}))
            idle = server.open()  # a connection without a request is none to wait for
            await until_busy(agent)
            before = time.monotonic()
            exited, errors = await asyncio.to_thread(server.end, number)
            assert time.monotonic() - before < 2.5
            assert exited == 128 + number
            assert "Traceback" not in errors
            result = await call
            assert "The connection was closed from this side" in agent.text(result)
            idle.close()
        while not file.exists():  # as far as the kernel knows, nothing has happened
            await asyncio.sleep(0.05)
    assert host_kernel.process.poll() is None


async def test_a_kernel_can_be_there_without_being_asked_for(serve: Callable[..., Served], host_kernel: Any) -> None:
    server = serve("--kernel", str(host_kernel.file))
    async with asyncio.timeout(SOON):
        async with server.client("first") as agent:
            while (await agent.client.call_tool("execute_code", {"code": "x = 1", "kernel": KERNEL})).is_error:
                await asyncio.sleep(0.05)  # it was started a moment ago
        modes: tuple[Mode, Mode] = ("auto", "legacy")
        for mode in modes:
            async with server.client("second", mode) as agent:
                assert f"name the kernel as `kernel`: {KERNEL}" in await agent.refused("execute_code", code="x")
                assert await agent.run("x", kernel=KERNEL) == "1"
                await agent.call("disconnect_kernel", kernel=KERNEL)
                answer = await agent.client.call_tool("kernel_status", {})
                assert answer.structured_content == {"result": []}
                assert await agent.run("x", kernel=KERNEL) == "1"
                assert (await state(agent))["name"] == KERNEL


async def test_why_that_kernel_is_not_there_is_told_and_each_call_tries_again(
    serve: Callable[..., Served], start_host_kernel: Callable[..., Any], runtime: Path
) -> None:
    file = runtime / "kernel-test.json"
    server = serve("--kernel", str(file))
    async with asyncio.timeout(SOON), server.client() as agent:
        told = await agent.refused("execute_code", code="1", kernel=KERNEL)
        assert f"{file}, which this server is for, could not be connected to: " in told
        assert "could not be connected to" in await agent.refused("list_variables")
        assert "could not be connected to" in await agent.refused("kernel_status")
        assert (await agent.client.call_tool("list_kernels", {})).structured_content["kernels"] == []
        kernel = await asyncio.to_thread(start_host_kernel)
        while (await agent.client.call_tool("execute_code", {"code": "x = 1", "kernel": KERNEL})).is_error:
            await asyncio.sleep(0.05)
        kernel.kill()
        told = await agent.refused("execute_code", code="x", kernel=KERNEL)
        assert "Nothing was executed" in told
        await asyncio.to_thread(start_host_kernel)
        while (await agent.client.call_tool("execute_code", {"code": "2", "kernel": KERNEL})).is_error:
            await asyncio.sleep(0.05)


async def test_over_stdio_too_a_kernel_can_be_there_without_being_asked_for(connect: Any, host_kernel: Any) -> None:
    program = ("-m", "bridge", "serve", "--kernel", "kernel-test")
    async with asyncio.timeout(SOON), connect(program=program) as agent:
        while (await agent.client.call_tool("execute_code", {"code": "x = 1"})).is_error:
            await asyncio.sleep(0.05)
        assert await agent.run("x") == "1"
