"""Which policy is in force: the first that someone named, never wider than the system's, never skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import PolicyError
from bridge.policy import BUILT_IN, find
from bridge.policy.loading import load
from tests.unit.policy.conftest import NOBODY

POLICY = """\
version: 1
sandbox:
  images: [{{repository: kernel-bridge/python, tags: ["*"]}}]
  default_image: kernel-bridge/python:3.13
  max_running: {}
"""


@pytest.fixture
def system(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "policy.yaml"


def write(path: Path, max_running: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(POLICY.format(max_running))
    return path


def test_each_place_comes_before_the_next(home: Path, system: Path, tmp_path: Path) -> None:
    write(system, 5)
    user = write(home / ".config/kernel-bridge/policy.yaml", 4)
    variable = write(tmp_path / "variable.yaml", 3)
    explicit = write(tmp_path / "explicit.yaml", 2)
    environ = {"HOME": str(home), "KERNEL_BRIDGE_POLICY": str(variable)}
    assert find(explicit, environ, system=system).sandbox.max_running == 2
    assert find(None, environ, system=system).sandbox.max_running == 3
    assert find(None, {"HOME": str(home)}, system=system).sandbox.max_running == 4
    user.unlink()
    assert find(None, {"HOME": str(home)}, system=system).sandbox.max_running == 5
    system.unlink()
    assert find(None, {"HOME": str(home)}, system=system).origin == BUILT_IN


def test_the_configuration_directory_follows_xdg(home: Path, system: Path, tmp_path: Path) -> None:
    write(tmp_path / "settings/kernel-bridge/policy.yaml", 3)
    assert (
        find(
            None, {"HOME": str(home), "XDG_CONFIG_HOME": str(tmp_path / "settings")}, system=system
        ).sandbox.max_running
        == 3
    )
    assert find(None, {"HOME": str(home), "XDG_CONFIG_HOME": "settings"}, system=system).origin == BUILT_IN


def test_a_tilde_in_the_variable_is_the_home_directory(home: Path, system: Path) -> None:
    write(home / "mine.yaml", 3)
    assert find(None, {"HOME": str(home), "KERNEL_BRIDGE_POLICY": "~/mine.yaml"}, system=system).origin == str(
        home / "mine.yaml"
    )


def test_a_named_file_that_is_not_there_is_an_error_and_not_skipped(home: Path, system: Path) -> None:
    write(home / ".config/kernel-bridge/policy.yaml", 4)
    with pytest.raises(PolicyError, match=r"gone\.yaml cannot be read"):
        find(home / "gone.yaml", {"HOME": str(home)}, system=system)
    with pytest.raises(PolicyError, match=r"gone\.yaml cannot be read"):
        find(None, {"HOME": str(home), "KERNEL_BRIDGE_POLICY": str(home / "gone.yaml")}, system=system)
    with pytest.raises(PolicyError, match="KERNEL_BRIDGE_POLICY is set but empty"):
        find(None, {"HOME": str(home), "KERNEL_BRIDGE_POLICY": ""}, system=system)


def test_a_found_file_that_is_not_valid_is_an_error_and_not_skipped(home: Path, system: Path) -> None:
    user = write(home / ".config/kernel-bridge/policy.yaml", 4)
    user.write_text("version: 2\n")
    with pytest.raises(PolicyError, match="line 1: version"):
        find(None, {"HOME": str(home)}, system=system)
    user.unlink()
    user.symlink_to("nowhere.yaml")
    with pytest.raises(PolicyError, match="cannot be read"):
        find(None, {"HOME": str(home)}, system=system)


def test_a_wrong_system_policy_is_an_error_for_everyone(home: Path, system: Path) -> None:
    explicit = write(home / "mine.yaml", 1)
    write(system, 5).write_text("version: 2\n")
    for file in (explicit, None):
        with pytest.raises(PolicyError, match="line 1: version"):
            find(file, {"HOME": str(home)}, system=system)


@pytest.mark.parametrize("place", ["explicit", "variable", "user"])
def test_no_policy_of_a_user_is_wider_than_the_systems(home: Path, system: Path, place: str) -> None:
    write(system, 5)
    file = write(home / ".config/kernel-bridge/policy.yaml" if place == "user" else home / "mine.yaml", 6)
    environ = {"HOME": str(home)} | ({"KERNEL_BRIDGE_POLICY": str(file)} if place == "variable" else {})
    with pytest.raises(PolicyError) as caught:
        find(file if place == "explicit" else None, environ, system=system)
    assert str(caught.value) == (
        f"policy {file} allows more than this machine's policy {system}, which it can only narrow:\n"
        "  sandbox.max_running: 6 is more than the system's 5; write at most that (line 5; the system's: line 5)"
    )


def test_the_systems_own_policy_may_be_named(home: Path, system: Path) -> None:
    write(system, 5)
    assert find(system, {"HOME": str(home)}, system=system).sandbox.max_running == 5


def test_a_systems_audit_holds_whatever_the_users_policy_says(home: Path, system: Path) -> None:
    write(system, 4).write_text(f"{POLICY.format(4)}audit: {{file: ~/state/audit.jsonl, code: text, keep: 7}}\n")
    user = write(home / ".config/kernel-bridge/policy.yaml", 3)
    for mine in ("", "audit: {code: none, keep: 1}\n", f"audit: {{file: {NOBODY}/state/audit.jsonl, code: none}}\n"):
        user.write_text(POLICY.format(3) + mine)
        found = find(None, {"HOME": str(home)}, system=system)
        assert found.sandbox.max_running == 3
        assert found.audit.model_dump() == {
            "file": NOBODY / "state/audit.jsonl", "code": "text", "max_size": 64 * 2**20, "keep": 7,
        }  # fmt: skip
        assert found.line("audit.file") == "built in", "its line is in another file"
    user.write_text(POLICY.format(3) + "audit: {file: ~/elsewhere.jsonl}\n")
    with pytest.raises(PolicyError, match=r"audit\.file: .*elsewhere\.jsonl is not the system's .*leave audit out"):
        find(None, {"HOME": str(home)}, system=system)


def test_a_systems_audit_is_in_the_accounts_home_wherever_home_points_and_a_users_own_follows_it(
    home: Path, system: Path
) -> None:
    written = write(system, 4)
    written.write_text(f"{POLICY.format(4)}audit: {{file: ~/state/audit.jsonl}}\n")
    for named in (None, system):
        assert find(named, {"HOME": str(home)}, system=system).audit.file == NOBODY / "state/audit.jsonl"
    assert load(written).audit.file == home / "state/audit.jsonl"


def test_a_user_may_have_an_audit_where_the_system_has_none(home: Path, system: Path) -> None:
    write(system, 4)
    write(home / ".config/kernel-bridge/policy.yaml", 3).write_text(POLICY.format(3) + "audit: {file: /var/a.jsonl}\n")
    assert find(None, {"HOME": str(home)}, system=system).audit.file == Path("/var/a.jsonl")
