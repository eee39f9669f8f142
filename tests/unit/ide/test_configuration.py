"""What a kernelspec may say of a sandbox, and what is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.errors import UsageError
from bridge.ide.configuration import FIELDS, refuse_unknown, requested, working_directory
from bridge.policy import SandboxRequest

HERE = Path("/home/someone/notebooks")


def test_each_field_becomes_the_requests_own() -> None:
    config = {
        "image": "kernel-bridge/scipy:3.13",
        "network": "none",
        "workspace": "/data",
        "workspace_mode": "rw",
        "memory": "1GiB",
        "cpus": 1.5,
        "environment": ["A"],
    }
    assert set(config) == set(FIELDS)
    assert requested("mine", config, HERE, {"A": "b", "C": "d"}) == SandboxRequest(
        name="mine",
        image="kernel-bridge/scipy:3.13",
        network="none",
        workspace=Path("/data"),
        workspace_mode="rw",
        memory=1 << 30,
        cpus=1.5,
        environment={"A": "b"},
    )


def test_what_is_missing_or_null_is_the_policys_to_say() -> None:
    assert requested("", {}, HERE, {}) == requested("", dict.fromkeys(FIELDS), HERE, {}) == SandboxRequest(name="")


@pytest.mark.parametrize(
    ("workspace", "path"), [(".", HERE), ("data", HERE / "data"), ("/data", Path("/data")), ("~", Path.home())]
)
def test_a_relative_workspace_is_relative_to_where_the_kernel_is_started(workspace: str, path: Path) -> None:
    assert requested("", {"workspace": workspace}, HERE, {}).workspace == path


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"imagge": "x"}, "'imagge', which is not known there; known are image, network"),
        ({"image": 3}, "'image' is not text"),
        ({"workspace": ["/data"]}, "'workspace' is not text"),
        ({"workspace": "~nobody-of-that-name/x"}, "there is no such user"),
        ({"memory": "a lot"}, "'a lot' is not a size"),
        ({"memory": True}, "'memory' is not a size"),
        ({"environment": {"A": "b"}}, "'environment' is not a list of names"),
        ({"environment": [1]}, "'environment' is not a list of names"),
        ({"environment": ["B", "A"]}, "names A, B for the sandbox, and there is no such variable"),
    ],
)
def test_what_is_not_understood_is_refused_by_its_name(config: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        requested("", config, HERE, {})


def test_every_unknown_name_is_told_at_once() -> None:
    with pytest.raises(UsageError, match="'a', 'b', which is not known there; known are c"):
        refuse_unknown(["b", "c", "a"], ["c"], "config")


def test_a_kernel_works_where_it_was_started_if_its_workspace_holds_that(tmp_path: Path) -> None:
    inner = tmp_path / "project" / "notebooks"
    inner.mkdir(parents=True)
    project = SandboxRequest(name="", workspace=tmp_path / "project")
    assert working_directory(project, inner) == inner
    assert working_directory(project, tmp_path / "project") == tmp_path / "project"
    assert working_directory(project, tmp_path) is None
    assert working_directory(SandboxRequest(name=""), inner) is None
