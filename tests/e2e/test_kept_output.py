"""Output of any size through a real client: head and tail, then all of it in pages; and what it costs the server."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.faults.deaths import peak_memory

pytestmark = pytest.mark.anyio

MB = 1_000_000
# 200 MB in two thousand messages, each a thousand lines
FLOOD = """
import hashlib, sys
total = hashlib.sha256()
for number in range(2000):
    text = "".join(f"{number:08d} {line:08d} {'x' * 81}\\n" for line in range(1000))
    total.update(text.encode())
    sys.stdout.write(text)
    sys.stdout.flush()
"""


async def test_two_hundred_megabytes_cost_little_memory_and_nothing_of_them_is_lost(
    connect: Any, host_kernel: Any, tmp_path: Path
) -> None:
    async with connect(XDG_STATE_HOME=str(tmp_path)) as agent:
        await agent.call("connect_to_kernel", connection_file=str(host_kernel.file))
        shown = await agent.run(FLOOD, timeout=300)
        assert peak_memory() < 200 * MB  # what waits to be read is 64 MiB at most; with all of it there it were 275
        assert shown.startswith("00000000 00000000 x")
        assert "00001999 00000999 x" in shown
        assert "get_execution(execution=1, cursor=0) reads all of it, page by page." in shown
        (cursor,) = re.findall(
            r"cursor=(\d+)\) reads on", await agent.call("get_execution", execution=1, cursor=20_000)
        )
        page = await agent.call("get_execution", execution=1, cursor=int(cursor))
        assert re.match(r"\d{8} \d{8} x{81}\n", page)
        assert re.search(r"More output is kept, \d{8,9} bytes", page)
        (file,) = tmp_path.rglob("cells.sqlite")
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as kept:
            digest, size = hashlib.sha256(), 0
            for (body,) in kept.execute("SELECT body FROM outputs WHERE cell = 1 ORDER BY place"):
                digest.update(body)
                size += len(body)
        assert size == 200 * MB
        assert digest.hexdigest() in await agent.run("print(total.hexdigest())")


async def test_what_does_not_fit_one_result_is_counted_and_read_in_pages(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await agent.call("connect_to_kernel", connection_file=str(host_kernel.file))
        shown = await agent.run("for n in range(50_000): print(n)")
        left = re.findall(r"… (\d+) bytes, (\d+) lines left out …", shown)
        assert left, shown[:200]
        told = shown.replace(f"… {left[0][0]} bytes, {left[0][1]} lines left out …\n", "").partition("get_execution")[0]
        assert len(told) + int(left[0][0]) in range(288_890 - 200, 288_890 + 200)
        first = await agent.call("get_execution", execution=1, cursor=0)
        assert first.startswith("0\n1\n2\n")
        cursor = int(re.findall(r"get_execution\(execution=1, cursor=(\d+)\) reads on\.", first)[0])
        last = first.splitlines()[-2]
        second = await agent.call("get_execution", execution=1, cursor=cursor)
        assert second.splitlines()[0] == str(int(last) + 1)
