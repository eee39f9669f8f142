"""Whose a workspace is, who may use it, and that what a kernel made in it is given back."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

import pytest

from bridge.errors import LaunchError, PolicyRefused
from bridge.launchers.docker import workspaces
from bridge.launchers.docker.places import User
from bridge.policy import Workspace

CALLER = User(os.geteuid(), os.getegid())
KERNEL = User(234_567, 234_567)


def workspace_of(path: Path, mode: Literal["ro", "rw"] = "ro") -> Workspace:
    about = path.stat()
    return Workspace(path, mode, about.st_dev, about.st_ino)


def test_a_workspace_that_was_replaced_since_it_was_checked_is_refused(tmp_path: Path) -> None:
    checked = tmp_path / "project"
    checked.mkdir()
    workspace = workspace_of(checked)
    assert workspaces.owner_of(workspace).uid == os.geteuid()
    checked.rename(tmp_path / "elsewhere")
    checked.symlink_to("/etc")
    with pytest.raises(LaunchError, match="replaced"):
        workspaces.owner_of(workspace)
    checked.unlink()
    with pytest.raises(LaunchError, match="cannot be looked at"):
        workspaces.owner_of(workspace)


@pytest.mark.parametrize(
    ("mode", "user", "may"),
    [
        (0o700, User(os.geteuid(), 1), True),
        (0o750, User(54321, os.getegid()), True),
        (0o755, User(54321, 54321), True),
        (0o750, User(54321, 54321), False),
        (0o751, User(54321, 54321), False),
    ],
)
def test_a_workspace_that_the_kernel_could_not_even_list_is_told_before_anything_is_made(
    tmp_path: Path, mode: int, user: User, *, may: bool
) -> None:
    tmp_path.chmod(mode)
    if may:
        workspaces.check_access(workspace_of(tmp_path), user, CALLER)
        return
    with pytest.raises(LaunchError, match=f"closed to the uid {user.uid}.*chmod"):
        workspaces.check_access(workspace_of(tmp_path), user, CALLER)


def test_where_the_engine_maps_uids_even_the_callers_own_workspace_must_be_open_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(LaunchError, match=r"maps the uids.*chmod"):
        workspaces.check_access(workspace_of(tmp_path), None, CALLER)
    tmp_path.chmod(0o705)
    workspaces.check_access(workspace_of(tmp_path), None, CALLER)


@pytest.mark.parametrize("mode", [0o755, 0o705, 0o775])
def test_writing_is_not_promised_where_the_kernels_uid_could_not(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(LaunchError, match=r"may not be written by the uid 234567.*never root.*chown.*read-only"):
        workspaces.check_access(workspace_of(tmp_path, "rw"), KERNEL, CALLER)
    workspaces.check_access(workspace_of(tmp_path, "ro"), KERNEL, CALLER)
    workspaces.check_access(workspace_of(tmp_path, "rw"), CALLER, CALLER)
    tmp_path.chmod(mode | 0o002)
    workspaces.check_access(workspace_of(tmp_path, "rw"), KERNEL, CALLER)


def test_what_a_kernel_made_is_given_back_and_nothing_else_is_touched(tmp_path: Path) -> None:
    outside, project = tmp_path / "outside", tmp_path / "project"
    for directory in (outside, project, project / "made", project / "theirs"):
        directory.mkdir()
    for path in (outside / "file", project / "mine", project / "made" / "deep", project / "theirs" / "file"):
        path.write_text("x")
    for path in (outside / "file", project / "made", project / "made" / "deep"):
        os.chown(path, KERNEL.uid, KERNEL.gid)
    os.chown(project / "theirs" / "file", 4321, 4321)
    (project / "made" / "deep").chmod(0o6755)
    (project / "out").symlink_to(outside)
    os.chown(project / "out", KERNEL.uid, KERNEL.gid, follow_symlinks=False)
    workspaces.give_back(project, KERNEL.uid, CALLER)
    given = [project / "made", project / "made" / "deep", project / "out", project / "mine"]
    assert {each.lstat().st_uid for each in given} == {CALLER.uid}
    assert (project / "theirs" / "file").stat().st_uid == 4321
    assert (outside / "file").stat().st_uid == KERNEL.uid
    assert not (project / "made" / "deep").stat().st_mode & (stat.S_ISUID | stat.S_ISGID)


def test_the_files_of_the_workspaces_own_owner_stay_theirs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file"):
        os.chown(path, 4321, 4321)
    workspaces.give_back(tmp_path, 4321, CALLER)
    assert (tmp_path / "file").stat().st_uid == 4321
    workspaces.give_back(tmp_path / "gone", 4321, CALLER)


def test_a_workspace_in_which_the_engine_or_other_kernels_could_be_reached_is_refused(tmp_path: Path) -> None:
    project, engine, kernels = tmp_path / "project", tmp_path / "project" / "run" / "docker.sock", tmp_path / "sockets"
    keys = tmp_path / "jupyter" / "runtime"
    for directory in (project / "run", kernels / "0a1b2c3d", keys, tmp_path / "other"):
        directory.mkdir(parents=True)
    with pytest.raises(PolicyRefused, match="container engine's socket"):
        workspaces.refuse_private(workspace_of(project), engine, kernels, keys)
    with pytest.raises(PolicyRefused, match="container engine's socket"):
        workspaces.refuse_private(workspace_of(project / "run"), engine, kernels, keys)
    link = tmp_path / "link.sock"
    link.symlink_to(engine)
    with pytest.raises(PolicyRefused, match="container engine's socket"):
        workspaces.refuse_private(workspace_of(project), link, kernels, keys)
    with pytest.raises(PolicyRefused, match="sockets of other kernels"):
        workspaces.refuse_private(workspace_of(kernels / "0a1b2c3d"), engine, kernels, keys)
    with pytest.raises(PolicyRefused, match="keys of other kernels"):
        workspaces.refuse_private(workspace_of(keys.parent), engine, kernels, keys)
    workspaces.refuse_private(workspace_of(tmp_path / "other"), engine, kernels, keys)


def test_a_workspace_in_a_compose_projects_directory_of_keys_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for place in (tmp_path / "project" / ".kernel-bridge", tmp_path / "project" / ".kernel-bridge" / "beside"):
        place.mkdir(parents=True, exist_ok=True)
        with pytest.raises(PolicyRefused, match=r"\.kernel-bridge, with the keys of a docker compose kernel"):
            workspaces.refuse_private(workspace_of(place), elsewhere, elsewhere, elsewhere)
    workspaces.refuse_private(workspace_of(tmp_path / "project"), elsewhere, elsewhere, elsewhere)


def test_the_keys_of_compose_projects_in_a_workspace_are_hidden_wherever_they_are_known_to_be(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    own, deep, other = (root / name / ".kernel-bridge" for name in ("all", "all/deep/project", "other"))
    for directory in (own, deep, other):
        directory.mkdir(parents=True)
    known = [deep, deep, other, root / "all" / "gone" / ".kernel-bridge"]
    assert hidden(root / "all", known) == [own, deep]
    assert hidden(root / "all" / "deep", known) == [deep]
    assert hidden(root / "all" / "deep", []) == []
    assert hidden(other.parent, []) == [other]


def test_what_only_looks_like_a_directory_of_keys_hides_nothing_and_a_link_hides_what_it_leads_to(
    tmp_path: Path,
) -> None:
    root = tmp_path.resolve()
    for name in ("a", "b/keys", "c", "d", "outside"):
        (root / name).mkdir(parents=True)
    (root / "a" / ".kernel-bridge").touch()
    (root / "b" / ".kernel-bridge").symlink_to("keys")
    (root / "c" / ".kernel-bridge").symlink_to("../outside")
    (root / "d" / ".kernel-bridge").symlink_to(".kernel-bridge")
    assert [hidden(root / name, []) for name in "abcd"] == [[], [root / "b" / "keys"], [], []]


def hidden(workspace: Path, known: list[Path]) -> list[Path]:
    found = workspaces.to_hide(workspace_of(workspace), known)
    for each in found:
        about = Path(each.path).stat()
        assert (each.device, each.inode) == (about.st_dev, about.st_ino)
    return [Path(each.path) for each in found]
