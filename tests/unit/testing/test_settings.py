"""From pytest's configuration and markers to what a sandbox is started with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bridge.errors import UsageError
from bridge.kernels.lifecycle import START_TIMEOUT
from bridge.policy import SandboxRequest
from bridge.testing.plugin import SETTINGS
from bridge.testing.settings import _PARSERS, Settings, read

ROOT = Path("/project")


def configured(**settings: str) -> pytest.Config:
    """A configuration as pytest has it after it has read a project's file; what is not set is empty there."""
    written = {f"sandbox_kernel_{name}": value for name, value in settings.items()}
    return cast("pytest.Config", SimpleNamespace(rootpath=ROOT, getini=lambda name: written.get(name, "")))


def mark(*args: Any, **kwargs: Any) -> pytest.Mark:
    return cast("pytest.Mark", SimpleNamespace(args=args, kwargs=kwargs))


def test_without_a_word_all_is_the_policys() -> None:
    assert read(configured()) == Settings(SandboxRequest(""), None, None, START_TIMEOUT)


def test_each_setting_has_its_place_and_paths_begin_at_the_root() -> None:
    assert read(
        configured(
            image="kernel-bridge/scipy:3.13",
            policy="ci/policy.yaml",
            workspace=".",
            workspace_mode="rw",
            network="none",
            memory="1GiB",
            cpus="0.5",
            engine="unix:///run/docker.sock",
            start_timeout="2m",
        )
    ) == Settings(
        SandboxRequest(
            "",
            image="kernel-bridge/scipy:3.13",
            network="none",
            workspace=ROOT,
            workspace_mode="rw",
            memory=1 << 30,
            cpus=0.5,
        ),
        ROOT / "ci/policy.yaml",
        "unix:///run/docker.sock",
        120.0,
    )


def test_paths_elsewhere_and_at_home_are_meant_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    settings = read(configured(policy="~/policy.yaml", workspace="/srv/data"))
    assert settings.policy == Path("/home/me/policy.yaml")
    assert settings.request.workspace == Path("/srv/data")


def test_the_closest_marker_comes_first_and_leaves_the_rest() -> None:
    marks = [mark(memory="64MiB", start_timeout=5), mark(memory="128MiB", cpus=1)]
    settings = read(configured(image="a", memory="1GiB"), marks)
    assert settings == Settings(SandboxRequest("", image="a", memory=64 << 20, cpus=1.0), None, None, 5.0)


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("image", 3, "3 is no text; write one"),
        ("policy", 3, "3 is no path; write one"),
        ("workspace", "", "'' is no path; write one"),
        ("workspace_mode", "w", "'w' is none; write ro or rw"),
        ("network", "host", "'host' is none; write isolated or none or open"),
        ("memory", "512", "'512' is not a size; write a whole number with B, KiB, MiB, GiB or TiB, like 512MiB"),
        ("memory", 512, "512 is no text; write one"),
        ("cpus", "many", "'many' is no number above 0; write one, like 2 or 0.5"),
        ("cpus", True, "True is no number above 0; write one, like 2 or 0.5"),
        ("cpus", "inf", "'inf' is no number above 0; write one, like 2 or 0.5"),
        ("engine", None, "None is no text; write one"),
        ("start_timeout", "60", "'60' is not a duration; write a whole number with s, m, h or d (seconds to days)"),
        ("start_timeout", "0s", "'0s' is no time to start in; write more"),
        ("start_timeout", -1, "-1 is no number above 0; write one, like 2 or 0.5"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_the_settings_name(name: str, wrong: object, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        read(configured(), [mark(**{name: wrong})])
    assert str(refused.value).startswith(f"@pytest.mark.sandbox_kernel({name}=...): {said}")
    assert str(refused.value).endswith(". Nothing was started.")
    if isinstance(wrong, str) and wrong:
        with pytest.raises(UsageError) as refused:
            read(configured(**{name: wrong}))
        assert str(refused.value).startswith(f"sandbox_kernel_{name}: {said}")


def test_a_marker_without_such_a_setting_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"\(img=\.\.\.\): there is no such setting; there are image, policy, "):
        read(configured(), [mark(img="a")])


def test_a_marker_with_a_value_and_no_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\('a'\): write NAME=VALUE\. Nothing was started"):
        read(configured(), [mark("a")])


def test_every_setting_is_read() -> None:
    assert set(SETTINGS) == set(_PARSERS)
