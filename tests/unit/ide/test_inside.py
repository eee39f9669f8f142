"""Code that an IDE's side runs in a kernel, run here in a namespace of a user's who has taken every name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.authors import OURS
from bridge.ide import inside


class Shell:
    """As much of an IPython shell as is asked for: its events, and whose cell runs."""

    def __init__(self) -> None:
        self.callbacks: dict[str, list[Callable[..., None]]] = {"pre_run_cell": []}
        self.events = self
        self.session = ""

    def register(self, event: str, function: Callable[..., None]) -> None:
        self.callbacks[event].append(function)

    def unregister(self, event: str, function: Callable[..., None]) -> None:
        self.callbacks[event].remove(function)

    def get_parent(self) -> dict[str, Any]:
        return {"header": {"session": self.session}}

    def run_cell(self, session: str) -> None:
        self.session = session
        for each in list(self.callbacks["pre_run_cell"]):
            each(None)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    shell = Shell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shell


def run(code: str) -> dict[str, Any]:
    """Run it where the builtins' names are the user's own."""
    names: dict[str, Any] = {"exec": None, "print": None, "__import__": None}
    eval(compile(code, "<cell>", "eval"), names)  # noqa: S307 - our own code
    del names["__builtins__"]
    return names


def test_a_text_is_told_once_and_not_in_an_agents_cell(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    code = inside.tell_once('it\'s "so"\n- and on')
    assert set(run(code)) == set(run(code)) == {"exec", "print", "__import__"}
    shell.run_cell(f"{OURS}1234")
    assert capsys.readouterr() == ("", "")
    shell.run_cell("a-person")
    shell.run_cell("a-person")
    assert capsys.readouterr() == ("", 'it\'s "so"\n- and on\n')
    assert shell.callbacks == {"pre_run_cell": []}


def test_the_working_directory_is_changed_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / 'it\'s a "place" {}'
    place.mkdir()
    run(inside.change_directory(place))
    assert Path.cwd() == place


def test_it_is_run_without_a_trace() -> None:
    asked = inside.request("1")
    assert asked["silent"] is True
    assert asked["store_history"] is asked["allow_stdin"] is asked["stop_on_error"] is False
