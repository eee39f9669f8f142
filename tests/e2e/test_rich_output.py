"""What a person would see in a notebook, as the agent gets it: real cells in a real kernel."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge import pictures

pytestmark = pytest.mark.anyio

SOON = 30.0


@pytest.fixture
async def agent(connect: Any, host_kernel: Any) -> AsyncIterator[Any]:
    """An agent that is connected to a kernel of its own."""
    async with connect() as agent:
        async with asyncio.timeout(SOON):
            while (
                await agent.client.call_tool("connect_to_kernel", {"connection_file": str(host_kernel.file)})
            ).is_error:
                pass
        await agent.run("import sys; from IPython.display import *", timeout=SOON)
        yield agent


async def test_what_was_drawn_over_or_cleared_is_gone(agent: Any) -> None:
    bar = "for n in range(50): print(f'{n:3} of 49', end='\\r', flush=True)\nprint()"
    assert (await agent.run(bar)).strip() == "49 of 49"
    assert await agent.run("for c in '|/-': print(c, end='\\b', flush=True)\nprint('ok')") == "ok"
    for wait in (True, False):
        assert await agent.run(f"for n in range(9): clear_output(wait={wait}); print('frame', n)") == "frame 8"
    colours = "print('\\x1b[1;31mred\\x1b[0m \\x1b]8;;https://example.org\\x1b\\\\link\\x1b]8;;\\x1b\\\\')"
    assert await agent.run(colours) == "red link"


async def test_a_display_shows_its_last_state_and_an_earlier_cells_display_is_told_of(agent: Any) -> None:
    assert (
        await agent.run("h = display('first', display_id=True)\nfor n in range(9): h.update(f'state {n}')")
        == "'state 8'"
    )
    told = await agent.run("for n in range(9): h.update(f'later {n}')\nprint('printed')")
    assert told == "printed\n[what an earlier cell displayed was changed, it shows now:]\n'later 8'"


async def test_a_wide_data_frame_has_one_row_a_line(agent: Any) -> None:
    await agent.run("import pandas as pd", timeout=SOON)
    code = "pd.DataFrame([[n / 7 for n in range(15)]] * 2, columns=[f'column_{n}' for n in range(15)])"
    header, _, *rows = (await agent.run(code)).split("\n")
    assert header == f"|  | {' | '.join(f'column_{n}' for n in range(15))} |"
    assert [row[:7] for row in rows] == ["| 0 | 0", "| 1 | 0"]
    levels = (
        "pd.DataFrame([[n / 7 for n in range(12)]] * 2, index=pd.MultiIndex.from_tuples([('p', 1), ('p', 2)]),\n"
        "  columns=pd.MultiIndex.from_product([['A', 'B'], [f'column_{n}' for n in range(6)]]))"
    )
    first, *_, last = (await agent.run(levels)).split("\n")
    assert first == "|  |  |" + " A |" * 6 + " B |" * 6
    assert last.startswith("| p | 2 | 0.0 | 0.142857 |")
    assert await agent.run("pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})") == "   a  b\n0  1  x\n1  2  y"


async def test_an_image_that_is_too_large_comes_scaled_and_says_so(agent: Any) -> None:
    code = (
        "import io, random\nfrom PIL import Image as Picture\nfile = io.BytesIO()\n"
        "Picture.frombytes('RGB', (700, 500), random.Random(1).randbytes(1_050_000)).save(file, 'PNG')\n"
        "display(Image(file.getvalue()))"
    )
    result = await agent.client.call_tool("execute_code", {"code": code, "timeout": SOON})
    [image] = agent.images(result)
    kind, width, height = pictures.measure(base64.b64decode(image.data))
    assert kind == image.mime_type == "image/png"
    assert 200 <= width < 700
    assert agent.text(result).startswith("[image/png, 700x500 pixels, ")
    assert agent.text(result).endswith(f": scaled to {width}x{height}]")


async def test_a_chart_is_told_by_what_it_holds(agent: Any) -> None:
    code = (
        "sales = {'dtype': 'f8', 'bdata': 'AAAAAAAA8D8AAAAAAAAAQA=='}\n"
        "figure = {'data': [{'type': 'bar', 'name': 'n', 'x': ['a', 'b'], 'y': sales}],\n"
        "  'layout': {'title': {'text': 'Sales'}}}\n"
        "display({'application/vnd.plotly.v1+json': figure, 'text/html': '<div><script>…</script></div>'}, raw=True)"
    )
    told = await agent.run(code)
    assert told == '[plotly chart "Sales": drawn only in a notebook]\n- bar "n": 2 points, x a … b, y 1 … 2'


async def test_every_kind_of_error_shows_where_and_why(agent: Any) -> None:
    await agent.run("def f(x):\n    return 1 / x\n\ndef r(n):\n    return r(n + 1)")
    assert "----> 2     return 1 / x" in await agent.refused("execute_code", code="f(0)")
    chained = await agent.refused(
        "execute_code", code="try: f(0)\nexcept ZeroDivisionError as e: raise ValueError('b') from e"
    )
    assert "direct cause" in chained
    assert chained.endswith("ValueError: b")
    told = await agent.refused("execute_code", code="r(0)")
    assert "RecursionError" in told
    assert len(told) < 3000
    group = await agent.refused("execute_code", code="raise ExceptionGroup('g', [ValueError(1), TypeError(2)])")
    assert "    | TypeError: 2" in group
    assert group.count("ExceptionGroup: g (2 sub-exceptions)") == 1
    assert "--> def g(:\n          ^" in await agent.refused("execute_code", code="def g(:")
    assert "returned non-zero exit status 3" in await agent.refused("execute_code", code="%%bash\nexit 3")
    assert len(await agent.refused("execute_code", code="raise ValueError('x' * 10_000_000)")) < 20_000
    unknown = await agent.refused("execute_code", code="%no_such")
    assert unknown == "[stderr]\nUsageError: Line magic function `%no_such` not found."
    await agent.run("%xmode Plain")
    assert "--> f(0)" in await agent.refused("execute_code", code="f(0)")


async def test_text_that_no_message_should_hold_harms_nothing(agent: Any) -> None:
    assert await agent.run("print('nul', chr(0))") == "nul ␀"
    # the kernel itself cannot send half of a surrogate pair, and says so
    assert "surrogates not allowed" in await agent.refused("execute_code", code="display(HTML(chr(0xd83d)))")
    assert "surrogates not allowed" in await agent.refused("execute_code", code="raise ValueError(chr(0xd83d))")
    assert "y" * 1000 in await agent.run("print('x' * 10_000_000 + '\\r' + 'y' * 1000)")
