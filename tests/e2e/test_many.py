"""Two agents, an IDE and a console at one kernel at the same time; and several kernels behind one server."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient

pytestmark = pytest.mark.anyio

# Far more than it takes on a busy machine: only a hang fails it.
SOON = 120.0
CLIENTS = ("first", "second", "ide", "console")
ROUNDS = 13
BEGIN = "import time\nfrom IPython.display import display\ndone = []"

Expected = tuple[str, ...]


def cell(client: str, number: int) -> tuple[str, Expected, bool]:
    """Code, the pieces that it must put out in this order and nothing else, and whether it raises."""
    tag = f"{client}-{number:02d}"
    kinds: list[tuple[str, Expected, bool]] = [
        (f"for i in range(20): print('{tag}', i, flush=True)", tuple(f"{tag} {i}" for i in range(20)), False),
        (f"display('{tag} a'); display('{tag} b'); '{tag} c'", (f"'{tag} a'", f"'{tag} b'", f"'{tag} c'"), False),
        (f"print('{tag}', flush=True); raise ValueError('{tag}')", (tag,), True),
        (f"quiet = '{tag}'", (), False),
        (f"print('{tag} a', flush=True); time.sleep(0.05); print('{tag} b')", (f"{tag} a", f"{tag} b"), False),
    ]
    code, expected, fails = kinds[(number + CLIENTS.index(client)) % len(kinds)]
    return f"done.append('{tag}')\n{code}", expected, fails


async def connected(agent: Any, kernel: Any) -> None:
    """Connect; the kernel was started a moment ago and may not listen yet."""
    async with asyncio.timeout(SOON):
        while True:
            result = await agent.client.call_tool("connect_to_kernel", {"connection_file": str(kernel.file)})
            if not result.is_error:
                return


async def agents_cells(agent: Any, name: str) -> None:
    for number in range(ROUNDS):
        code, expected, fails = cell(name, number)
        text = await (agent.refused("execute_code", code=code) if fails else agent.run(code))
        lines = text.splitlines()
        if fails:
            assert lines[0] == expected[0]
            assert lines[-1] == f"ValueError: {expected[0]}"
        else:
            assert lines == list(expected or ["[no output]"])
        assert not any(f"{other}-" in text for other in CLIENTS if other != name), text


class Person:
    """A client of Jupyter's own, which hears of everything and sorts it by its parent."""

    def __init__(self, file: Path) -> None:
        self.client = AsyncKernelClient(connection_file=str(file))
        self.heard: defaultdict[str, str] = defaultdict(str)

    @classmethod
    @asynccontextmanager
    async def at(cls, file: Path) -> AsyncIterator[Person]:
        person = cls(file)
        try:
            person.client.load_connection_file()
            person.client.start_channels(hb=False)
            await person.client.wait_for_ready(timeout=SOON)
            yield person
        finally:
            person.client.stop_channels()
            person.client.context.destroy(linger=0)

    async def outcomes(self, count: int) -> dict[str, str]:
        """Return the status of as many cells, once their replies have come."""
        replies = [await self.client.get_shell_msg(timeout=SOON) for _ in range(count)]
        return {each["parent_header"]["msg_id"]: each["content"]["status"] for each in replies}

    async def hear_until_idle(self, wanted: str) -> None:
        while True:
            message = await self.client.get_iopub_msg(timeout=SOON)
            parent, content = message["parent_header"].get("msg_id", ""), message["content"]
            if message["msg_type"] == "stream":
                self.heard[parent] += content["text"]  # a line may come in two messages
            elif message["msg_type"] in ("display_data", "execute_result"):
                self.heard[parent] += content["data"]["text/plain"] + "\n"
            elif parent == wanted and content.get("execution_state") == "idle":
                return


async def ides_cells(file: Path) -> int:
    """Run cells in groups, as "run all" sends them; a failing one takes the rest of its group with it: how many."""
    aborted = 0
    async with Person.at(file) as ide:
        for start in range(0, ROUNDS, 4):
            group = [cell("ide", number) for number in range(start, min(ROUNDS, start + 4))]
            ids = [ide.client.execute(code, stop_on_error=True) for code, _, _ in group]
            statuses = await ide.outcomes(len(ids))
            await ide.hear_until_idle(ids[-1])
            failed = False
            for msg_id, (_, expected, fails) in zip(ids, group, strict=True):
                assert statuses[msg_id] == ("aborted" if failed else "error" if fails else "ok")
                assert ide.heard[msg_id].splitlines() == ([] if failed else list(expected))
                aborted += failed
                failed = failed or fails
    return aborted


async def consoles_cells(file: Path) -> None:
    """Run one cell at a time, some of them silent, with the questions that a console asks between them."""
    async with Person.at(file) as console:
        for number in range(ROUNDS):
            code, expected, fails = cell("console", number)
            silent = number % 3 == 2
            outcome = "aborted"
            while outcome == "aborted":  # by a failing cell of the IDE: the person types it again
                msg_id = console.client.execute(code, silent=silent, stop_on_error=False)
                outcome = (await console.outcomes(1))[msg_id]
            assert outcome == ("error" if fails else "ok")
            await console.hear_until_idle(msg_id)
            # a silent cell shows no value
            shown = [each for each in expected if not (silent and each.endswith(" c'"))]
            assert console.heard[msg_id].splitlines() == shown
            await console.client.complete("tim", 3, reply=True, timeout=SOON)


async def test_fifty_cells_of_two_agents_an_ide_and_a_console_each_get_their_own_outputs_in_order(
    connect: Any, host_kernel: Any
) -> None:
    async with asyncio.timeout(SOON), connect() as first, connect() as second:
        await connected(first, host_kernel)
        await connected(second, host_kernel)
        await first.run(BEGIN)
        async with asyncio.TaskGroup() as group:
            group.create_task(agents_cells(first, "first"))
            group.create_task(agents_cells(second, "second"))
            aborted = group.create_task(ides_cells(host_kernel.file))
            group.create_task(consoles_cells(host_kernel.file))
        ran = json.loads(await first.run("import json; print(json.dumps(done))"))
    # they did get into each other's way
    assert sum(left[:3] != right[:3] for left, right in itertools.pairwise(ran)) > 2 * len(CLIENTS)
    assert aborted.result()
    assert len(ran) == ROUNDS * len(CLIENTS) - aborted.result()
    for client in CLIENTS:
        own = [each for each in ran if each.startswith(client)]
        assert own == sorted(set(own))


RENDEZVOUS = """
import time
from pathlib import Path
here, ended = Path({folder!r}), time.monotonic() + 60
print({name!r}, "begins", flush=True)
(here / {name!r}).touch()
while not (here / "go").exists() and time.monotonic() < ended:
    time.sleep(0.01)
print({name!r}, "ends")
"""


async def test_cells_in_three_kernels_of_one_server_run_at_the_same_time_and_one_that_dies_takes_no_other_with_it(
    connect: Any, start_host_kernel: Callable[..., Any], tmp_path: Path
) -> None:
    names = ["kernel-a", "kernel-b", "kernel-c"]
    kernels = {name: start_host_kernel(name) for name in names}
    async with asyncio.timeout(SOON), connect() as agent:
        for kernel in kernels.values():
            await connected(agent, kernel)

        async def until_all_run(folder: Path) -> dict[str, asyncio.Task[Any]]:
            """Begin a cell in each; each waits until all three have begun and the test says go."""
            folder.mkdir()
            calls = {
                name: asyncio.create_task(
                    agent.client.call_tool(
                        "execute_code", {"code": RENDEZVOUS.format(folder=str(folder), name=name), "kernel": name}
                    )
                )
                for name in names
            }
            while len(list(folder.iterdir())) < len(names):
                await asyncio.sleep(0.01)
            return calls

        calls = await until_all_run(tmp_path / "first")
        (tmp_path / "first" / "go").touch()
        for name, call in calls.items():
            assert agent.text(await call) == f"{name} begins\n{name} ends"

        calls = await until_all_run(tmp_path / "second")
        kernels["kernel-b"].kill()
        lost = await calls.pop("kernel-b")
        assert lost.is_error
        assert agent.text(lost).startswith("kernel-b begins\n")
        assert "Lost" in agent.text(lost)
        assert not any(call.done() for call in calls.values())
        (tmp_path / "second" / "go").touch()
        for name, call in calls.items():
            assert agent.text(await call) == f"{name} begins\n{name} ends"
        assert await agent.run("6 * 7", kernel="kernel-a") == "42"
