"""What is kept of cells beyond the memory: read on, read in pages, bounded by the policy, with the real kernel."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import NoSuchKernel
from bridge.journal import Cell
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.outputs import DisplayData, ExecuteResult, Result, Stream
from bridge.policy import parse
from tests.integration.test_session import connect, until

pytestmark = pytest.mark.anyio

SOON = 30.0


def make(calls: str = "") -> Kernels:
    text = f"version: 1\ncalls: {{max_output: 4KiB, {calls}}}"
    return Kernels(parse(text, origin="test"), DockerLauncher, username="agent")


@pytest.fixture
async def kernels(host_kernel: Any) -> AsyncIterator[Kernels]:
    made = make()
    await made.connect(str(host_kernel.file))
    yield made
    await made.close()


async def run(kernels: Kernels, code: str, timeout: float = SOON) -> Result:
    result = (await kernels.execute(code, timeout=timeout)).result
    assert result is not None
    return result


async def read(kernels: Kernels, number: int, **arguments: Any) -> Result:
    result = (await kernels.read(number, **arguments)).result
    assert result is not None
    return result


def text(result: Result) -> str:
    return "".join(each.text for each in result.outputs if isinstance(each, Stream))


async def test_all_of_a_long_output_is_read_in_pages_that_fit_one_result(kernels: Kernels) -> None:
    number = (await run(kernels, "for n in range(3000): print(n)")).execution
    pages = [await read(kernels, number, cursor=0)]
    while pages[-1].remaining:
        pages.append(await read(kernels, number, cursor=pages[-1].cursor))
    assert len(pages) > 3
    assert all(len(text(page)) <= 4096 for page in pages)
    assert "".join(map(text, pages)) == "".join(f"{n}\n" for n in range(3000))


async def test_a_time_out_tells_where_reading_on_begins_and_nothing_is_read_twice(kernels: Kernels) -> None:
    begun = await run(kernels, "import time\nprint('a', flush=True); time.sleep(1); print('b')", timeout=0.5)
    assert (begun.status, text(begun)) == ("running", "a\n")
    ended = await read(kernels, begun.execution, cursor=begun.cursor, wait=SOON)
    assert (ended.status, text(ended), ended.remaining) == ("ok", "b\n", 0)
    assert text(await read(kernels, begun.execution)) == "a\nb\n"


async def test_executions_of_long_ago_are_read_with_how_they_ended(kernels: Kernels) -> None:
    await run(kernels, "print('first'); 1/0")
    for number in range(20):
        await run(kernels, str(number))
    first = await read(kernels, 1)
    assert (first.status, text(first), first.execution_count) == ("error", "first\n", 1)
    assert len(first.outputs) == 2
    (value,) = (await read(kernels, 11)).outputs
    assert isinstance(value, ExecuteResult)
    assert value.data["text/plain"] == "9"
    with pytest.raises(NoSuchKernel, match=r"Execution 99 is not kept for this kernel; kept are 1 to 21\."):
        await kernels.read(99)


async def test_numbers_are_read_across_a_lost_connection(kernels: Kernels, host_kernel: Any) -> None:
    await run(kernels, "print('before')")
    (connected,) = kernels._connected.values()
    connected.session._disconnected()
    assert await connected.session.until_lost(SOON)
    assert (await run(kernels, "print('after')")).execution == 2
    assert text(await read(kernels, 1, cursor=0)) == "before\n"


async def test_a_display_of_an_earlier_cell_is_shown_as_it_is_now(kernels: Kernels) -> None:
    await run(kernels, "from IPython.display import display\nh = display('old', display_id=True)")
    await run(kernels, "h.update('new')")
    (shown,) = (await read(kernels, 1, cursor=0)).outputs
    assert isinstance(shown, DisplayData)
    assert shown.data["text/plain"] == "'new'"


async def test_what_others_run_is_kept_with_who_ran_it_and_how_it_ended(kernels: Kernels, host_kernel: Any) -> None:
    person = await connect(host_kernel.info, "alice")
    await person.execute("print('hello')", timeout=SOON)
    await person.execute("1/0", timeout=SOON)
    await run(kernels, "print('mine')")

    def seen() -> list[Cell]:
        return [each for each in kernels.journal.cells("number IS NULL") if each.code]

    cells = seen()
    assert [(each.code, each.username, each.status, each.count) for each in cells] == [
        ("print('hello')", "alice", "ok", 1),
        ("1/0", "alice", "error", 2),
    ]
    assert all(each.ended and each.client == person._channels.session for each in cells)
    page = kernels.journal.page(cells[0].id, 0, text=1000, size=1000)
    assert page is not None
    assert page.outputs == (Stream("stdout", "hello\n"),)
    await person.close()


async def test_the_policy_bounds_what_lies_on_disk(host_kernel: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    kernels = make("kept_output: 1MiB")
    await kernels.connect(str(host_kernel.file))
    for _ in range(4):
        await run(kernels, "print(('x' * 99 + '\\n') * 8000)")
    assert sum(file.stat().st_size for file in (tmp_path / "state").rglob("*") if file.is_file()) < 8 << 20
    with pytest.raises(NoSuchKernel, match="is not kept"):
        await kernels.read(1, cursor=0)
    assert len(text(await read(kernels, 4, cursor=0))) > 1000
    await kernels.close()


async def test_with_null_in_the_policy_nothing_lies_on_disk(host_kernel: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    kernels = make("kept_output: null")
    await kernels.connect(str(host_kernel.file))
    await run(kernels, "for n in range(3000): print(n)")
    assert text(await read(kernels, 1, cursor=0)).startswith("0\n1\n")
    assert not (tmp_path / "state").exists()
    await kernels.close()


async def test_nothing_that_is_kept_holds_the_key(kernels: Kernels, host_kernel: Any) -> None:
    await run(kernels, "print('x')")
    (file,) = kernels.journal._file.database().execute("PRAGMA database_list").fetchall()
    content = b"".join(each.read_bytes() for each in Path(file[2]).parent.iterdir())
    assert re.search(rb"print\('x'\)", content)
    assert host_kernel.info.key.encode() not in content


async def test_what_was_printed_is_on_disk_soon_also_where_the_cell_is_silent_then(kernels: Kernels) -> None:
    begun = await run(
        kernels, "import time\nfor n in range(3): print(n, flush=True); time.sleep(0.1)\ntime.sleep(3)", 0.1
    )
    database = kernels.journal._file.database()

    def on_disk() -> bytes:
        return b"".join(body for (body,) in database.execute("SELECT body FROM outputs ORDER BY place"))

    await until(lambda: on_disk() == b"0\n1\n2\n")
    assert (await read(kernels, begun.execution)).status == "running"


async def test_what_a_thread_prints_after_the_end_of_its_cell_is_kept_and_told(kernels: Kernels) -> None:
    code = (
        "import threading, time\n"
        "def late(): time.sleep(0.5); print('late', flush=True)\n"
        "threading.Thread(target=late).start(); print('now')"
    )
    ended = await run(kernels, code)
    assert (ended.status, text(ended)) == ("ok", "now\n")
    async with asyncio.timeout(SOON):
        while not (notes := (await read(kernels, ended.execution)).notes):
            await asyncio.sleep(0.01)
    assert "get_execution(execution=1, cursor=0) has it" in notes[0]
    assert text(await read(kernels, ended.execution, cursor=0)) == "now\nlate\n"


async def test_a_disk_that_takes_no_more_is_told_with_every_result_and_with_the_activity(
    kernels: Kernels, host_kernel: Any
) -> None:
    await run(kernels, "print('kept')")
    # the database's own bound stands for the disk's: SQLite fails with the same error
    kernels.journal._file.database().execute("PRAGMA max_page_count = 1")
    full = await run(kernels, "for n in range(20_000): print(n)")
    assert full.cursor is None
    assert "could be kept to be read later: database or disk is full" in full.notes[0]
    shown = await read(kernels, full.execution, cursor=0)
    assert (text(shown)[:4], shown.notes) == ("0\n1\n", full.notes)
    assert "database or disk is full" in (await kernels.activity(look=False)).notes[-1]


@pytest.mark.parametrize("code", ["int?", "%pinfo int", "print('before')\n%pinfo int"])
async def test_the_help_that_a_person_would_see_beside_the_cell_is_output_and_kept(kernels: Kernels, code: str) -> None:
    result = await run(kernels, code)
    shown = result.outputs[-1]
    assert isinstance(shown, DisplayData)
    assert "Convert a number or string to an integer" in shown.data["text/plain"]
    assert text(result) == ("before\n" if "print" in code else "")
    pages = [await read(kernels, result.execution, cursor=0)]
    while pages[-1].remaining:
        pages.append(await read(kernels, result.execution, cursor=pages[-1].cursor))
    kept = [each for page in pages for each in page.outputs if isinstance(each, DisplayData)]
    assert "".join(each.data["text/plain"] for each in kept) == shown.data["text/plain"]
