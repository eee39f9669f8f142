"""JupyterLab for real: a person in a browser and an agent in one kernel, by the kernelspec of `ide install`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from tests.e2e.browser import Lab, jupyterlab, opened
from tests.jupyter import JupyterServer

pytestmark = pytest.mark.anyio

PICTURE = Path(__file__).parents[2] / ".github" / "jupyterlab.png"


# What the agent makes of the person's numbers.
CHART = """
from IPython.display import SVG
bars = "".join(
    f'<rect x="{70 * n + 12}" y="{150 - 10 * mm:.0f}" width="46" height="{10 * mm:.0f}" rx="3" fill="#1976d2"/>'
    f'<text x="{70 * n + 35}" y="{142 - 10 * mm:.0f}">{mm}</text><text x="{70 * n + 35}" y="168">{day}</text>'
    for n, (day, mm) in enumerate(rain.items())
)
style = 'font-family="sans-serif" font-size="13" text-anchor="middle"'
chart = SVG(f'<svg xmlns="http://www.w3.org/2000/svg" width="500" height="175" {style}>{bars}</svg>')
wettest = max(rain, key=rain.get)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """Start JupyterLab, with Jupyter's directories of this module alone."""
    world = tmp_path_factory.mktemp("jupyterlab")
    with pytest.MonkeyPatch.context() as patch:
        for variable, name in (("JUPYTER_RUNTIME_DIR", "runtime"), ("JUPYTER_DATA_DIR", "data")):
            patch.setenv(variable, str(world / name))
            (world / name).mkdir(mode=0o700)
        with jupyterlab(world / "lab") as started:
            yield started


@pytest.fixture
async def lab(command: Any, server: JupyterServer, tmp_path: Path) -> AsyncIterator[Lab]:
    """Open JupyterLab with a notebook, whose kernel the person has picked: a shared sandbox."""
    for arguments in (("up", "analysis"), ("ide", "install", "analysis")):
        done = await asyncio.to_thread(command, *arguments)
        assert done.returncode == 0, done.stderr
    try:
        async with opened(server, tmp_path / "last.png") as page:
            await page.new_notebook("Shared: analysis")
            yield page
    finally:
        await asyncio.to_thread(command, "stop", "analysis")


modern = pytest.mark.parametrize("connect", ["auto"], indirect=True)


@modern
async def test_the_person_and_the_agent_see_each_others_variables(connect: Any, lab: Lab) -> None:
    await lab.rename("rain.ipynb")
    output = await lab.run(
        "# millimetres, from my gauge\n"
        "rain = {'Mon': 3.2, 'Tue': 0.4, 'Wed': 7.9, 'Thu': 12.6, 'Fri': 5.1, 'Sat': 0.0, 'Sun': 1.8}\n"
        "print(f'{sum(rain.values()):.1f} mm this week')"
    )
    await expect(output).to_have_text("31.0 mm this week\n")
    async with connect() as agent:
        assert "sandbox kernel analysis " in await agent.call("connect_to_kernel", connection_file="rain.ipynb")
        assert await agent.run("rain['Thu']") == "12.6"
        await agent.run(CHART)
    output = await lab.run("# the agent drew this, in the same kernel\nprint('wettest:', wettest)\nchart")
    await expect(output).to_contain_text("wettest: Thu")
    await expect(output.get_by_role("img")).to_have_js_property("naturalWidth", 500)
    if os.environ.get("WRITE_GOLDEN"):
        await lab.picture(PICTURE)


@modern
async def test_the_stop_button_stops_the_persons_cell_which_the_agent_waits_for(connect: Any, lab: Lab) -> None:
    async with connect() as agent:
        await agent.call("connect_to_kernel", connection_file="analysis")
        output = await lab.run("import time\nprint('begun')\ntime.sleep(600)")
        await expect(output).to_contain_text("begun")
        await lab.until("Shared: analysis | Busy")
        assert "Nothing was executed" in await agent.refused("execute_code", code="x = 1", timeout=1)
        await lab.press("Interrupt the kernel")
        await expect(output).to_contain_text("KeyboardInterrupt")
        await lab.until("Shared: analysis | Idle")
        assert await agent.run("'x' in globals()") == "False"


async def test_the_restart_button_and_shutting_down_leave_the_shared_kernel_and_its_variables(
    command: Any, lab: Lab
) -> None:
    await expect(await lab.run("x = 41\nprint('set')")).to_have_text("set\n")
    await lab.press("Restart the kernel")
    await lab.answer("Restart")
    await lab.until("Shared: analysis | Idle")
    output = await lab.run("print(x)")
    await expect(output).to_contain_text("a restart from here left it as it is, with all its variables")
    await expect(output).to_contain_text("kernel-bridge restart analysis")
    await expect(output).to_contain_text("41")
    await lab.menu("Kernel", "Shut Down Kernel")
    await lab.until("No Kernel")
    done = await asyncio.to_thread(command, "run", "analysis", "-c", "print(x)")
    assert done.stdout == "41\n", done.stderr


async def test_a_real_restart_is_seen_in_jupyterlab_and_its_next_cell_says_that_the_variables_are_lost(
    command: Any, lab: Lab
) -> None:
    output = await lab.run("import time\nx = 41\nprint('begun')\ntime.sleep(600)")
    await expect(output).to_contain_text("begun")
    assert (await asyncio.to_thread(command, "restart", "analysis")).returncode == 0
    await expect(output).to_contain_text("KernelRestarted")
    # JupyterLab's own words for it
    assert "It will restart automatically" in await lab.answer("Ok")
    output = await lab.run("print('x' in globals())")
    await expect(output).to_contain_text("variables are lost")
    await expect(output).to_contain_text("False")


async def test_a_kernel_that_ends_under_jupyterlab_is_told_there_as_any_kernels_end_is(command: Any, lab: Lab) -> None:
    output = await lab.run("import time\nprint('begun')\ntime.sleep(600)")
    await expect(output).to_contain_text("begun")
    assert (await asyncio.to_thread(command, "stop", "analysis")).returncode == 0
    await expect(output).to_contain_text("Sandbox analysis was stopped; all its variables are lost.")
    await lab.told("appears to have died")
    await lab.until("Shared: analysis | Disconnected")
