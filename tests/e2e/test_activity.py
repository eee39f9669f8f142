"""The agent learns what the user runs elsewhere in their kernel, by asking and by being told, in both protocol eras."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp.client.subscriptions import ResourceUpdated
from mcp.types import ResourceLink, ResourceUpdatedNotification

from tests.e2e.test_host_kernel import connected, elsewhere

# legacy clients subscribe by requests that the modern era has no more
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")]

SOON = 30.0
# More than the pause between two notices of one kernel.
QUIET = 2.0
URI = "kernel-bridge://kernels/kernel-test/activity"
IMAGE = """
import os
from IPython.display import display
from PIL import Image
Image.frombytes('RGB', (900, 900), os.urandom(900 * 900 * 3))
"""


class Heard:
    """What the server told without being asked, of either era."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self._news = anyio.Event()

    async def __call__(self, message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            self.hear(str(message.params.uri))

    def hear(self, uri: str) -> None:
        self.uris.append(uri)
        self._news.set()
        self._news = anyio.Event()

    async def next(self) -> None:
        """Wait for the next one."""
        with anyio.fail_after(SOON):
            await self._news.wait()

    async def nothing(self) -> None:
        """Wait for one that must not come."""
        with anyio.move_on_after(QUIET):
            await self._news.wait()
            raise AssertionError(f"heard {self.uris[-1]}")


@asynccontextmanager
async def subscribed(agent: Any, heard: Heard) -> AsyncIterator[None]:
    """Subscribe as the era has it: a stream of its own, or two requests."""
    if agent.client.protocol_version < "2026":
        await agent.client.subscribe_resource(URI)
        yield
        await agent.client.unsubscribe_resource(URI)
        return

    async def listen(subscription: Any) -> None:
        async for event in subscription:
            assert isinstance(event, ResourceUpdated)
            heard.hear(event.uri)

    async with agent.client.listen(resource_subscriptions=[URI]) as subscription, anyio.create_task_group() as group:
        group.start_soon(listen, subscription)
        yield
        group.cancel_scope.cancel()


async def activity(agent: Any, enough: Callable[[Any], bool], **arguments: Any) -> Any:
    """Ask until what is on its way has come."""
    with anyio.fail_after(SOON):
        while True:
            told = (await agent.client.call_tool("get_activity", arguments)).structured_content
            if enough(told):
                return told


async def run_elsewhere(kernel: Any, code: str) -> None:
    await anyio.to_thread.run_sync(elsewhere, kernel.file, code)


async def read_activity(agent: Any) -> Any:
    [content] = (await agent.client.read_resource(URI)).contents
    assert content.mime_type == "application/json"
    return json.loads(content.text)


async def test_what_the_user_ran_elsewhere_is_told_with_its_names(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        first = await activity(agent, lambda told: told["names"] is None)
        await agent.run("mine = 1")
        await run_elsewhere(host_kernel, "theirs = 2\nprint('hello')")
        told = await activity(agent, lambda told: bool(told["cells"]), since=first["cursor"])
    [cell] = told["cells"]
    assert (cell["code"], cell["outcome"], cell["output"]) == ("theirs = 2\nprint('hello')", "ok", "hello")
    assert cell["client"].startswith("jupyter_client")
    assert told["names"] == {"bound": ["mine", "theirs"], "rebound": [], "deleted": []}
    assert told["running"] == []


async def test_a_wrong_time_is_refused_in_a_sentence(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        assert "'yesterday' is not a time" in await agent.refused("get_activity", since="yesterday")


async def test_a_subscriber_is_told_of_cells_of_others_and_of_no_others(connect: Any, host_kernel: Any) -> None:
    heard = Heard()
    async with connect(hears=heard) as agent:
        await connected(agent, host_kernel)
        assert [str(each.uri) for each in (await agent.client.list_resources()).resources] == [URI]
        async with subscribed(agent, heard):
            await agent.run("mine = 1")
            await heard.nothing()
            async with anyio.create_task_group() as group:
                group.start_soon(run_elsewhere, host_kernel, "import time; time.sleep(2)")
                await heard.next()
                assert [each["code"] for each in (await read_activity(agent))["running"]] == [
                    "import time; time.sleep(2)"
                ]
                await heard.next()
                [cell] = (await read_activity(agent))["cells"]
                assert (cell["code"], cell["outcome"]) == ("import time; time.sleep(2)", "ok")
            assert set(heard.uris) == {URI}
            await heard.nothing()
        count = len(heard.uris)
        await run_elsewhere(host_kernel, "after = 3")
        await activity(agent, lambda told: len(told["cells"]) == 2)
        await heard.nothing()
        assert len(heard.uris) == count


async def test_a_flood_of_cells_is_told_at_a_bounded_rate(connect: Any, host_kernel: Any) -> None:
    heard = Heard()
    flood = (
        "from jupyter_client import BlockingKernelClient as Client\n"
        f"client = Client(connection_file={str(host_kernel.file)!r}); client.load_connection_file()\n"
        "client.start_channels(hb=False); client.wait_for_ready(timeout=20)\n"
        "for n in range(100): client.execute('pass', reply=True, timeout=20)\n"
    )
    async with connect(hears=heard) as agent:
        await connected(agent, host_kernel)
        async with subscribed(agent, heard):
            begun = anyio.current_time()
            await anyio.run_process([sys.executable, "-c", flood])
            await activity(agent, lambda told: len(told["cells"]) + told["left_out"] == 100)
            seconds = anyio.current_time() - begun
            await heard.next() if not heard.uris else None
            assert 1 <= len(heard.uris) <= seconds + 2


async def test_an_image_that_does_not_fit_can_be_read_in_full(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        result = await agent.client.call_tool("execute_code", {"code": IMAGE, "timeout": SOON})
        [link] = [each for each in result.content if isinstance(each, ResourceLink)]
        [content] = (await agent.client.read_resource(str(link.uri))).contents
    assert content.mime_type == "image/png"
    image = base64.b64decode(content.blob)
    assert image.startswith(b"\x89PNG")
    assert len(image) > 2_000_000
    assert "900x900 pixels, 2431777 bytes: scaled to " in agent.text(result)


async def test_a_plot_of_the_users_can_be_read_by_the_address_that_their_cell_names(
    connect: Any, host_kernel: Any
) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        # `jupyter run` waits for the code to end, so all of its output was published by then
        await run_elsewhere(
            host_kernel, "from IPython.display import display\n" + IMAGE.replace("Image.f", "display(Image.f") + ")"
        )
        told = await activity(agent, lambda told: bool(told["cells"]))
        output = told["cells"][0]["output"]
        assert output.startswith("[image/png (")
        uri = output.partition(": ")[2].rstrip("]")
        [content] = (await agent.client.read_resource(uri)).contents
        assert content.mime_type == "image/png"
        assert base64.b64decode(content.blob).startswith(b"\x89PNG")
        with pytest.raises(Exception, match="No cell 999"):
            await agent.client.read_resource("kernel-bridge://kernels/kernel-test/cells/999/outputs/0")
        with pytest.raises(Exception, match="Nothing is kept at place 999"):
            await agent.client.read_resource(uri.rpartition("/")[0] + "/999")
        with pytest.raises(Exception, match="Execution 7 is not kept"):
            await agent.client.read_resource("kernel-bridge://kernels/kernel-test/executions/7/outputs/0")
