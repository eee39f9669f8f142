"""A home directory of the test's own, and no settings of the machine's user."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.policy import places

NOBODY = Path("/users/nobody")


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in list(os.environ):
        if variable.startswith(("XDG_", "KERNEL_BRIDGE_", "DOCKER_", "JUPYTER_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(NOBODY))
    monkeypatch.setattr(places, "_account_home", lambda: NOBODY)
    before = os.umask(0o022)  # policy files that others may write are refused
    yield
    os.umask(before)


@pytest.fixture
def home(no_settings_of_the_user: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = (tmp_path / "home").resolve()
    (home / "projects").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    return home
