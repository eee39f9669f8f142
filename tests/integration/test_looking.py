"""Looking into a real kernel's variables: what is told, and that nothing of it can be noticed inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bridge.errors import KernelBusy, KernelError
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.looking import Column, Variable
from bridge.policy import built_in

pytestmark = pytest.mark.anyio

SOON = 30.0


@pytest.fixture
async def kernels(host_kernel: Any) -> AsyncIterator[Kernels]:
    found = Kernels(built_in(), DockerLauncher, username="agent")
    async with asyncio.timeout(SOON):
        while True:
            try:
                await found.connect(str(host_kernel.file))
            except KernelError:  # it still imports IPython
                await asyncio.sleep(0.05)
            else:
                break
    yield found
    await found.close()


async def table(kernels: Kernels, code: str) -> dict[str, Variable]:
    result = (await kernels.execute(code, timeout=SOON)).result
    assert result
    assert result.status == "ok", result
    return {each.name: each for each in (await kernels.variables(limit=1000)).variables}


async def test_pythons_own_types_are_told_with_value_and_length(kernels: Kernels) -> None:
    seen = await table(
        kernels,
        "a = 42; b = 'text' * 100; c = [1, 'two', object()]; d = {'k': 1}; e = None; f = 10 ** 5000; g = (1.5,); "
        "h = b'x'; _private = 1; import math\ndef function(): pass",
    )
    assert (seen["a"].type, seen["a"].value) == ("int", "42")
    assert seen["b"].length == 400
    assert seen["b"].value
    assert seen["b"].value.endswith("...")
    assert (seen["c"].length, seen["c"].value) == (3, "1, 'two', object")
    assert seen["d"].value == "'k': 1"
    assert seen["e"].value == "None"
    assert seen["f"].value == "an integer of 16610 bits"
    assert seen["g"].bytes
    assert seen["math"].type == "module"
    assert seen["function"].type == "function"
    assert set(seen) == {*"abcdefgh", "math", "function"}


async def test_arrays_are_told_with_shape_and_dtype(kernels: Kernels) -> None:
    seen = await table(kernels, "import numpy as np; m = np.zeros((3, 4), 'float32'); s = np.float64(1.5)")
    assert (seen["m"].shape, seen["m"].dtype, seen["m"].bytes) == ((3, 4), "float32", 48)
    assert seen["s"].value == "1.5"


async def test_a_data_frame_is_told_with_its_columns(kernels: Kernels) -> None:
    seen = await table(
        kernels,
        "import pandas as pd; df = pd.DataFrame({'n': [1, 2], 's': ['a', 'b']}); col = df['n']\n"
        "class Mine(pd.DataFrame): pass\nmine = Mine()",
    )
    assert seen["df"].shape == (2, 2)
    assert seen["df"].columns
    assert seen["df"].columns[0] == Column("'n'", "int64")
    assert (seen["col"].shape, seen["col"].dtype) == ((2,), "int64")
    assert (seen["mine"].type, seen["mine"].shape) == ("__main__.Mine", None)


HOSTILE = """
calls = []
def note(what):
    calls.append(what)
    raise RuntimeError(what)
class Meta(type):
    __name__ = property(lambda s: note('meta name'))
    __module__ = property(lambda s: note('meta module'))
    def __getattribute__(cls, name): note('meta ' + name)
class Hostile(metaclass=Meta):
    __slots__ = ()
    def __repr__(self): note('repr')
    def __len__(self): note('len')
    def __hash__(self): return 1
    def __eq__(self, other): note('eq')
    def __sizeof__(self): note('sizeof')
    def __getattribute__(self, name): note('attribute ' + name)
    def __iter__(self): note('iter')
class Text(str):
    def __repr__(self): note('text repr')
    def __len__(self): note('text len')
h = Hostile(); t = Text('x'); inside = [h, t]; keyed = {h: t}; pair = (h,)
"""


async def test_nothing_of_the_users_is_called(kernels: Kernels) -> None:
    seen = await table(kernels, HOSTILE)
    assert seen["h"].type == "__main__.Hostile"
    assert seen["inside"].value == "__main__.Hostile, __main__.Text"
    assert seen["keyed"].value == "__main__.Hostile: __main__.Text"
    assert seen["calls"].length == 0


async def test_a_look_leaves_no_trace(kernels: Kernels) -> None:
    async def told(code: str) -> str:
        result = (await kernels.execute(code, timeout=SOON)).result
        assert result
        return str(result.outputs[-1].data["text/plain"])  # type: ignore[union-attr]

    await kernels.execute("'the last value'", timeout=SOON)
    for _ in range(5):
        await kernels.variables(limit=10)
    assert await told("_") == "'the last value'"
    numbered = await told("len(In)")
    for _ in range(5):
        await kernels.variables(limit=10)
    assert int(await told("len(In)")) == int(numbered) + 1
    assert await told("sorted(name for name in globals() if not name.startswith('_'))") == (
        "['In', 'Out', 'exit', 'get_ipython', 'open', 'quit']"
    )


async def test_it_works_while_a_long_cell_runs_and_that_cell_goes_on(kernels: Kernels) -> None:
    await kernels.execute("early = 1", timeout=SOON)
    running = (await kernels.execute("import time; during = 2; time.sleep(4); late = 3", timeout=0.5)).result
    assert running
    assert running.status == "running"
    names = {each.name for each in (await kernels.variables(limit=100)).variables}
    assert {"early", "during"} <= names
    assert "late" not in names
    ended = (await kernels.read(running.execution, wait=SOON)).result
    assert ended
    assert ended.status == "ok"


async def test_where_the_kernel_has_no_subshells_a_busy_one_says_so(kernels: Kernels) -> None:
    session = next(iter(kernels._connected.values())).session
    session._channels.kernel_info = {**session._channels.kernel_info, "supported_features": []}
    assert (await kernels.variables(limit=10)).total == 0
    await kernels.execute("import time; time.sleep(60)", timeout=0.5)
    with pytest.raises(KernelBusy, match="no subshells"):
        await kernels.variables(limit=10)
    await kernels.interrupt()


async def test_ten_thousand_variables_are_paged(kernels: Kernels) -> None:
    await kernels.execute("globals().update({f'v{n:05}': n for n in range(10_000)})", timeout=SOON)
    page = await kernels.variables(limit=100, start=9_950)
    assert page.total == 10_000
    assert [each.name for each in page.variables][:1] == ["v09950"]
    assert len(page.variables) == 50


async def test_a_kernel_that_shows_text_in_its_own_way_is_told_so(kernels: Kernels) -> None:
    await kernels.execute(
        "get_ipython().display_formatter.formatters['text/plain'].for_type(str, lambda s, p, c: p.text('mine'))",
        timeout=SOON,
    )
    with pytest.raises(KernelError, match="execute_code can look instead"):
        await kernels.variables(limit=10)


async def test_a_session_that_ends_leaves_no_subshell_behind(
    kernels: Kernels, start_host_kernel: Callable[..., Any]
) -> None:
    await kernels.variables(limit=1)
    count = "import threading; print(len([t for t in threading.enumerate() if 'ubshell' in t.name]))"
    with_one = (await kernels.execute(count, timeout=SOON)).result
    path = kernels.statuses()[0].connection_file
    await kernels.disconnect()
    await kernels.connect(path)
    without = (await kernels.execute(count, timeout=SOON)).result
    assert with_one
    assert without
    assert int(str(with_one.outputs[0].text)) == int(str(without.outputs[0].text)) + 1  # type: ignore[union-attr]
