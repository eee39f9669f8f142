"""Whose a sandbox is, and which names there are."""

from __future__ import annotations

import pytest

from bridge.errors import UsageError
from bridge.launchers.docker import owner


def test_an_owner_is_a_user_on_a_machine_and_shows_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_machine_id", lambda: "0123456789abcdef0123456789abcdef")
    mine = owner.current_owner({}, uid=1000)
    assert mine == owner.current_owner({}, uid=1000)
    assert len(mine) == 32
    assert int(mine, 16)
    assert "0123456789abcdef" not in mine
    assert mine != owner.current_owner({}, uid=1001)
    monkeypatch.setattr(owner, "_machine_id", lambda: "another")
    assert mine != owner.current_owner({}, uid=1000)


def test_jobs_that_share_a_user_are_kept_apart_by_the_environment() -> None:
    owners = {owner.current_owner({"KERNEL_BRIDGE_OWNER": job}, uid=0) for job in ("", "job-1", "job-2")}
    assert len(owners) == 3
    assert owner.current_owner({}, uid=0) in owners


def test_a_machine_without_an_id_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_MACHINE_IDS", ())
    assert owner.current_owner({}, uid=1000) == owner.current_owner({}, uid=1000)


def test_the_containers_name_holds_the_sandboxes_name_and_a_part_of_the_owner() -> None:
    assert owner.stem("lab-2", "0123456789abcdef") == "kernel-bridge.lab-2.01234567"


@pytest.mark.parametrize(
    "name",
    ["", "-a", "A", "a" * 33, "a/b", "../volumes/x", "a\n", "a.b", "a b", "ä", "a?force=1", "a%2fb", "\0"],
)
def test_nothing_that_could_be_read_as_more_than_a_name_becomes_part_of_a_request(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a sandbox's name"):
        owner.stem(name, "0" * 32)
