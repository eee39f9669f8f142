"""The policy from the shell: what is in force, what it would allow, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    file = tmp_path / "policy.yaml"
    file.write_text(
        f"version: 1\nsandbox:\n  mounts: [{{source: '{project}', mode: rw}}]\n  environment: [TZ]\n"
        "  limits: {memory: 1GiB, home: 128MiB, tmp: 64MiB, shm: 64MiB}\n"
    )
    file.chmod(0o600)
    return file


def test_what_is_shown_can_be_used_as_a_policy(command: Any, policy: Path, tmp_path: Path) -> None:
    shown = command("policy", "show", "--policy", str(policy))
    assert str(policy) in shown.stderr
    again = tmp_path / "again.yaml"
    again.write_text(shown.stdout)
    again.chmod(0o600)
    assert command("policy", "check", str(again)).returncode == 0
    assert command("policy", "show", "--policy", str(again)).stdout == shown.stdout


def test_without_a_file_the_built_in_policy_is_shown(command: Any) -> None:
    shown = command("policy", "show")
    assert "the built-in policy" in shown.stderr
    assert "network: isolated" in shown.stdout


def test_an_explanation_names_each_value_and_whose_word_it_is(command: Any, policy: Path, tmp_path: Path) -> None:
    arguments = ["--workspace", str(tmp_path / "project"), "--rw", "--memory", "256MiB", "--env", "TZ=UTC"]
    told = json.loads(command("policy", "explain", str(policy), *arguments, "--json").stdout)
    settings = {each["setting"]: each for each in told["settings"]}
    assert settings["memory"]["value"] == "256MiB"
    assert "the most is 1GiB" in settings["memory"]["why"]
    assert "shrunk" in settings["home"]["why"]
    assert settings["workspace"]["value"].endswith("project rw")
    assert settings["environment"]["value"] == "TZ"
    assert settings["network"]["why"] == "the policy's"
    assert "memory       256MiB" in command("policy", "explain", str(policy), *arguments).stdout


def test_what_would_be_refused_is_told_with_every_reason(command: Any, policy: Path) -> None:
    done = command("policy", "explain", str(policy), "--memory", "2GiB", "--image", "other:1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "memory" in done.stderr
    assert "image" in done.stderr
