"""JupyterLab in the system's own Chromium, without a window: what a person sees of it and clicks.

The one rule: only what a person can do is done here, and only what a person can see is read.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from playwright.async_api import Locator, Page, async_playwright, expect

from tests.jupyter import JupyterServer, jupyter_server

# `.ci/browser.sh` makes sure of one of them.
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# JupyterLab on a busy machine.
SOON = 60.0


def chromium() -> str:
    """Return the browser's path."""
    found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    assert found, f"no Chromium is on PATH (looked for {', '.join(CHROMIUMS)}); .ci/browser.sh says how to get one"
    return found


class Lab:
    """JupyterLab with one notebook."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._cells = page.locator(".jp-Notebook .jp-CodeCell")
        self._dialog = page.locator(".jp-Dialog")

    async def menu(self, *labels: str) -> None:
        """Choose from the menus."""
        for label in labels:
            text = re.compile(f"^{re.escape(label)}$")
            await self.page.locator(".lm-MenuBar-itemLabel, .lm-Menu-itemLabel", has_text=text).last.click()

    async def new_notebook(self, kernel: str) -> None:
        """Make a notebook by the menu and pick its kernel, by what the picker shows."""
        await self.menu("File", "New", "Notebook")
        await self._dialog.locator("select").select_option(label=kernel)
        await self.answer("Select")
        await self.until(f"{kernel} | Idle")

    async def rename(self, name: str) -> None:
        """Give the notebook another name by the menu."""
        await self.menu("File", "Rename Notebook…")
        await self._dialog.locator("input").fill(name)
        await self.answer("Rename")
        await expect(self.page.locator(".jp-mod-current .lm-TabBar-tabLabel", has_text=name)).to_be_visible()

    async def run(self, code: str) -> Locator:
        """Type a cell at the notebook's end, press Shift-Enter and return where its output appears."""
        number = await self._cells.count() - 1
        await self._cells.nth(number).locator(".cm-content").click()
        # as from the clipboard: what is typed would be completed with brackets and indentation
        await self.page.keyboard.insert_text(code)
        await self.page.keyboard.press("Shift+Enter")
        await expect(self._cells).to_have_count(number + 2)
        return self._cells.nth(number).locator(".jp-OutputArea")

    async def press(self, button: str) -> None:
        """Press a button of the notebook's toolbar, by the words that appear over it."""
        await self.page.locator(f".jp-NotebookPanel-toolbar [title={button!r}]").click()

    async def answer(self, button: str) -> str:
        """Press a button of the open dialog and return what the dialog said."""
        said = await self._dialog.locator(".jp-Dialog-content").inner_text()
        await self._dialog.locator(".jp-Dialog-footerButtons").get_by_text(button, exact=True).click()
        await expect(self._dialog).to_have_count(0)
        return said

    async def told(self, text: str) -> None:
        """Wait for a dialog with this text, and leave it open."""
        await expect(self._dialog.filter(has_text=text)).to_be_visible()

    async def until(self, state: str) -> None:
        """Wait until the status bar shows the kernel in a state: `NAME | Idle`, `NAME | Busy`, …"""
        await expect(self.page.locator("#jp-main-statusbar")).to_contain_text(state)

    async def picture(self, file: Path) -> None:
        """Save the notebook and write what is to be seen, as the README shows it."""
        file.parent.mkdir(exist_ok=True)
        await self.page.keyboard.press("Control+s")
        await expect(self.page.locator(".jp-mod-dirty")).to_have_count(0)
        await self.page.set_viewport_size({"width": 1280, "height": 580})
        await self.page.screenshot(path=file)


@contextmanager
def jupyterlab(directory: Path) -> Iterator[JupyterServer]:
    """Start JupyterLab."""
    settings = directory / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false"}')  # else it asks first
    with jupyter_server(directory, program="jupyterlab") as server:
        yield server


@asynccontextmanager
async def opened(server: JupyterServer, picture: Path) -> AsyncIterator[Lab]:
    """Open the page as a person does with the address that the server prints, with none of the tabs of before.

    What it showed last stays as the picture.
    """
    expect.set_options(timeout=SOON * 1000)
    async with async_playwright() as playwright:
        # as root Chromium runs only without its own sandbox; it opens nothing but the test's server
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=chromium(), args=arguments)
        page = await browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(SOON * 1000)
        try:
            await page.goto(f"http://127.0.0.1:{server.port}/lab?token={server.token}&reset")
            await page.locator(".jp-Launcher").wait_for()
            yield Lab(page)
        finally:
            await page.screenshot(path=picture)
            await browser.close()
