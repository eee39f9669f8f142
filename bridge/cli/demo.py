"""`kernel-bridge demo`: the main job, end to end, with a real MCP client, real kernels and nothing rehearsed.

The one rule: what it shows is read back from the other side, never assumed; a step that fails ends it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import click
import mcp.types as T  # noqa: N812 - the SDK's own examples name it so
from mcp import Client, StdioServerParameters

from bridge.cli import say
from bridge.cli.interruption import complete
from bridge.connection import runtime_directory
from bridge.errors import BridgeError, EngineUnavailable, KernelNotResponding
from bridge.launchers.docker import DockerLauncher

PLOT = """
from IPython.display import SVG, display
import math
points = " ".join(f"{20 + 4*x},{100 - 80*math.sin(x/8):.1f}" for x in range(111))
display(SVG(f'<svg xmlns="http://www.w3.org/2000/svg" width="480" height="200">'
            f'<rect width="480" height="200" fill="white"/>'
            f'<path d="M20,10 V190 M10,100 H470" stroke="#888"/>'
            f'<polyline points="{points}" fill="none" stroke="#0b6" stroke-width="3"/></svg>'))
"""
# A host kernel that has just been started imports IPython first.
KERNEL_START = 30.0


@click.command()
@click.option("--no-sandbox", is_flag=True, help="Only the host kernel: nothing is isolated.")
def demo(*, no_sandbox: bool) -> None:
    """Show the whole of it on this machine: agent, sandbox, second client, host kernel.

    Example: kernel-bridge demo
    """
    try:
        complete(partial(_demo, sandboxed=not no_sandbox))
    except BaseExceptionGroup as failures:  # the client's own tasks wrap whatever ends them
        first: BaseException = failures
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _demo(*, sandboxed: bool) -> None:
    if sandboxed:
        try:
            await DockerLauncher().sandboxes()
        except EngineUnavailable as error:
            say(f"No container engine ({error})\nSo only a host kernel is shown: NOTHING IS ISOLATED in it.")
            sandboxed = False
    # what it shows is not among what this user's bridges keep, for `export` and for its completion
    with tempfile.TemporaryDirectory(prefix="kernel-bridge-demo-") as state:
        environment = {**_environment(), "XDG_STATE_HOME": state}
        server = StdioServerParameters(command=sys.executable, args=["-m", "bridge", "serve"], env=environment)
        async with Client(server) as agent:
            info = agent.server_info
            say(f"An MCP client is connected to {info.name if info else 'the server'} over stdio.")
            if sandboxed:
                await _show_sandbox(agent)
            await _show_host_kernel(agent)
    say("Done. Now let your own agent in:  kernel-bridge client add claude")


async def _show_sandbox(agent: Client) -> None:
    say("\n1. A sandbox: an IPython kernel in a sealed container.")
    name = f"demo-{os.getpid()}"
    print(await _call(agent, "start_sandbox", name=name))
    try:
        await _agent_runs(agent, "import sys, os; x = 42; print('python', sys.version.split()[0], 'uid', os.getuid())")
        await _agent_runs(agent, "open('/proc/net/dev').read().count(':'), 'network device (loopback)'")
        await _agent_plots(agent)
        await _other_client_changes_x(agent, runtime_directory() / f"kernel-bridge-{name}.json")
    finally:
        with anyio.CancelScope(shield=True):
            say(await _call(agent, "stop_sandbox", kernel=name))


async def _show_host_kernel(agent: Client) -> None:
    say("\n2. A kernel that already runs on this machine, as in your notebook or IDE.")
    async with _host_kernel() as file:
        print(await _call(agent, "connect_to_kernel", connection_file=str(file)))
        await _agent_runs(agent, "x = 42")
        await _other_client_changes_x(agent, file)
        say(await _call(agent, "disconnect_kernel"))
        await _elsewhere(file, "print('   the kernel is still alive, x =', x)")


async def _agent_runs(agent: Client, code: str) -> None:
    say(f"   agent>  {code}")
    text = await _call(agent, "execute_code", code=code)
    if text != "[no output]":
        print(f"           {text}")


async def _agent_plots(agent: Client) -> None:
    say("   agent>  display(SVG(...))")
    result = await agent.call_tool("execute_code", {"code": PLOT})
    images = [each for each in result.content if isinstance(each, T.ImageContent)]
    if not images:
        raise BridgeError(f"The plot did not arrive as an image: {_text(result)}")
    handle, path = tempfile.mkstemp(prefix="kernel-bridge-demo-", suffix=".png")
    with os.fdopen(handle, "wb") as file:
        file.write(base64.b64decode(images[0].data))
    print(f"           a plot arrived as {images[0].mime_type}: {path}")


async def _other_client_changes_x(agent: Client, file: Path) -> None:
    say(f"   you>    x += 1        (another Jupyter client on {file.name})")
    await _elsewhere(file, "x += 1")
    await _agent_runs(agent, "print('the agent reads x =', x)")


async def _elsewhere(file: Path, code: str) -> None:
    """Run code through Jupyter's own client, which knows nothing of us but the connection file."""
    command = [sys.executable, "-W", "ignore", "-m", "jupyter_client.runapp", "--existing", str(file)]
    other = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
    )
    _, errors = await other.communicate(code.encode())
    if other.returncode:
        raise BridgeError(f"The other Jupyter client failed: {errors.decode(errors='replace')[-500:]}")


@contextlib.asynccontextmanager
async def _host_kernel() -> AsyncIterator[Path]:
    file = runtime_directory() / f"kernel-demo-{os.getpid()}.json"
    kernel = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "ipykernel_launcher", "-f", str(file)],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await _elsewhere_ready(file, kernel)
        yield file
    finally:
        if kernel.returncode is None:
            kernel.terminate()
        await kernel.wait()
        file.unlink(missing_ok=True)


async def _elsewhere_ready(file: Path, kernel: asyncio.subprocess.Process) -> None:
    from bridge.channels import open_channels  # noqa: PLC0415 - only what is asked for pays for it
    from bridge.connection import load  # noqa: PLC0415 - only what is asked for pays for it
    from bridge.errors import BadConnectionFile  # noqa: PLC0415 - only what is asked for pays for it

    with anyio.move_on_after(KERNEL_START):
        while True:
            try:
                channels = await open_channels(load(file), username="demo", timeout=KERNEL_START, starting=True)
                await channels.close()
            except BadConnectionFile:
                if kernel.returncode is not None and kernel.stderr:
                    said = (await kernel.stderr.read()).decode(errors="replace").strip().splitlines()
                    raise KernelNotResponding(
                        f"The host kernel ended as soon as it was started: {said[-1] if said else 'it said nothing'}"
                    ) from None
                # the kernel writes its file itself, some tenths of a second after it was started
                await anyio.sleep(0.05)
            else:
                return
    raise KernelNotResponding(f"The host kernel did not start within {KERNEL_START:g} s.")


async def _call(agent: Client, tool: str, **arguments: str) -> str:
    result = await agent.call_tool(tool, arguments)
    if result.is_error:
        raise BridgeError(_text(result))
    return _text(result)


def _text(result: T.CallToolResult) -> str:
    return "\n".join(each.text for each in result.content if isinstance(each, T.TextContent))


def _environment() -> dict[str, str]:
    """Return what the server needs to find the engine and the files: MCP clients start servers almost bare."""
    names = ("DOCKER_HOST", "KERNEL_BRIDGE_DOCKER_HOST", "KERNEL_BRIDGE_OWNER", "KERNEL_BRIDGE_POLICY", "DOCKER_CONFIG")
    wanted = [*names, "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"]
    wanted += ["JUPYTER_RUNTIME_DIR", "DOCKER_CONTEXT"]
    return {name: os.environ[name] for name in wanted if name in os.environ}
