"""A real MCP client on a real server process, in both protocol eras; and the command line as a person uses it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.session import ElicitationFnT, MessageHandlerFnT
from mcp.types import CallToolResult, ImageContent, TextContent

from tests.composed import ROOT

PASSED_ON = (
    *("JUPYTER_RUNTIME_DIR", "KERNEL_BRIDGE_OWNER", "XDG_CONFIG_HOME", "XDG_STATE_HOME"),
    *("XDG_RUNTIME_DIR", "DOCKER_HOST", "KERNEL_BRIDGE_POLICY", "PYTHONPATH"),
)


class Agent:
    """An MCP client, and what a test wants from it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, **arguments: Any) -> str:
        """Call a tool that must succeed and return its text."""
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, self.text(result)
        return self.text(result)

    async def refused(self, tool: str, **arguments: Any) -> str:
        """Call a tool that must fail and return why."""
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, self.text(result)
        return self.text(result)

    async def run(self, code: str, **arguments: Any) -> str:
        return await self.call("execute_code", code=code, **arguments)

    @staticmethod
    def text(result: CallToolResult) -> str:
        return "\n".join(each.text for each in result.content if isinstance(each, TextContent))

    @staticmethod
    def images(result: CallToolResult) -> list[ImageContent]:
        return [each for each in result.content if isinstance(each, ImageContent)]


Command = Callable[..., subprocess.CompletedProcess[str]]
# A command on a busy machine; none of them waits that long by itself.
SOON = 60.0


@pytest.fixture(scope="session")
def command() -> Command:
    """Run a command line as a person or a script would."""

    def run(*arguments: str, timeout: float = SOON, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bridge", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=os.environ | environment,
        )

    return run


@pytest.fixture
def image_tag() -> Iterator[None]:
    """Hold the image's tag: a compose project starts anew where another test has it built meanwhile, which gives it to
    an image with another name of a project in it.
    """
    (ROOT / ".cache").mkdir(exist_ok=True)
    with (ROOT / ".cache" / "image.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def shell_sandbox(command: Command, runtime: Path) -> Iterator[str]:
    """Start a sandbox from the shell; it is stopped however the test ends."""
    started = command("up", "shell")
    assert started.returncode == 0, started.stderr
    assert started.stdout == f"{runtime}/kernel-bridge-shell.json\n"
    yield "shell"
    command("stop", "shell")


Connect = Callable[..., AbstractAsyncContextManager[Agent]]


@pytest.fixture(params=["auto", "legacy"], ids=["modern", "legacy"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Start a server process with a policy and connect a client to it.

    `user` answers what is asked of the client's; `hears` takes what the server tells unasked.
    """

    @asynccontextmanager
    async def connected(
        policy: Path | None = None,
        *,
        program: Sequence[str] = ("-m", "bridge", "serve"),
        user: ElicitationFnT | None = None,
        hears: MessageHandlerFnT | None = None,
        **environment: str,
    ) -> AsyncIterator[Agent]:
        arguments = [*program, *(["--policy", str(policy)] if policy else [])]
        env = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | environment
        server = StdioServerParameters(command=sys.executable, args=arguments, env=env)
        async with Client(server, mode=request.param, elicitation_callback=user, message_handler=hears) as client:
            # an era that quietly became the other one would leave half of these tests without a subject
            assert (client.protocol_version >= "2026") is (request.param == "auto")
            yield Agent(client)

    return connected


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start servers over HTTP, as `tests/e2e/serving.py` does; they end with the test."""
    from tests.e2e import serving  # noqa: PLC0415 - it needs what stands above

    started: list[serving.Served] = []

    def start(*arguments: str, **options: Any) -> serving.Served:
        started.append(serving.start(options.pop("token_file", tmp_path / "token"), *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.stop()
