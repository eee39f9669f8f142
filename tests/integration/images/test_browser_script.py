"""`.ci/browser.sh` decides what to do about a browser, with commands that stand in for the real ones."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.browser import CHROMIUMS

Stubs = Callable[[str, str], Path]
Run = Callable[[], str]

SCRIPT = Path(__file__).parents[3] / ".ci" / "browser.sh"


@pytest.fixture
def run(stubs: Stubs, tmp_path: Path) -> Run:
    """Run the script as root of a Debian without a browser, unless the stubs say otherwise; return what it said."""
    (tmp_path / "os-release").write_text("ID=debian\n")
    stubs("id", "echo 0")
    apt = (
        f'echo "$*" >>{tmp_path}/asked; case "$*" in *chromium*) mv {tmp_path}/stubs/later {tmp_path}/stubs/new ;; esac'
    )
    stubs("apt-get", apt)
    stubs("later", "echo Chromium 156")

    def run() -> str:
        names = {"BROWSER_NAMES": "old new", "BROWSER_OS_RELEASE": str(tmp_path / "os-release")}
        done = subprocess.run(
            ["sh", str(SCRIPT)], env=os.environ | names, capture_output=True, text=True, timeout=30, check=True
        )
        return done.stderr

    return run


def asked(tmp_path: Path) -> list[str]:
    file = tmp_path / "asked"
    return file.read_text().splitlines() if file.exists() else []


def test_a_browser_that_is_there_is_used_as_it_is(run: Run, stubs: Stubs, tmp_path: Path) -> None:
    there = stubs("new", "echo Chromium 99")
    assert run() == f"browser: using Chromium 99 ({there})\n"
    assert asked(tmp_path) == []


def test_where_none_runs_the_distributions_own_is_installed(run: Run, stubs: Stubs, tmp_path: Path) -> None:
    stubs("old", "echo 'this needs a snap' >&2; exit 1")
    told = run()
    assert "installing the distribution's own" in told
    assert told.endswith(f"browser: using Chromium 156 ({tmp_path}/stubs/new)\n")
    update, install = asked(tmp_path)
    assert update.endswith("update")
    assert install.endswith("install --no-install-recommends chromium")


def test_nothing_is_installed_for_others_than_root_or_on_other_systems(run: Run, stubs: Stubs, tmp_path: Path) -> None:
    stubs("id", "echo 1000")
    assert "sudo apt install chromium" in run()
    (tmp_path / "os-release").write_text("ID=fedora\n")
    told = run()
    assert "neither Debian nor Ubuntu" in told
    assert "the tests that open JupyterLab will fail" in told
    assert asked(tmp_path) == []


@pytest.mark.parametrize(("apt", "why"), [("exit 1", "that failed"), ("exit 0", "as on Ubuntu, where it is a snap")])
def test_what_could_not_be_installed_is_told(run: Run, stubs: Stubs, apt: str, why: str) -> None:
    stubs("apt-get", apt)
    told = run()
    assert why in told
    assert "the tests that open JupyterLab will fail" in told


def test_the_script_and_the_tests_look_for_the_same_browsers() -> None:
    assert f"BROWSER_NAMES:-{' '.join(CHROMIUMS)}}}" in SCRIPT.read_text()
