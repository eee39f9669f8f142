"""Whom the kernel runs as, and the directories that are made, trusted and removed on the host."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.errors import LaunchError
from bridge.launchers.docker import places, underway
from bridge.launchers.docker.places import User
from bridge.locks import is_locked
from bridge.policy import SandboxSpec, Workspace

ALICE, ROOT = User(1000, 1000), User(0, 0)


def workspace_of(path: Path, mode: str = "ro") -> Workspace:
    about = path.stat()
    assert mode in ("ro", "rw")
    return Workspace(path, "ro" if mode == "ro" else "rw", about.st_dev, about.st_ino)


@pytest.fixture
def with_workspace(spec: SandboxSpec, tmp_path: Path) -> SandboxSpec:
    return dataclasses.replace(spec, workspace=workspace_of(tmp_path))


@pytest.mark.parametrize("caller", [ALICE, ROOT])
def test_without_files_to_share_every_sandbox_has_a_uid_of_its_own(spec: SandboxSpec, caller: User) -> None:
    users = {places.choose_user(spec, caller, None, places.OWN_UIDS, ()) for _ in range(20)}
    assert len(users) > 1
    assert all(200_000 <= user.uid < 1_000_000 and user.uid == user.gid for user in users)


def test_a_uid_that_another_sandbox_has_is_not_given_again() -> None:
    chosen = places.own_user(range(20_000, 20_003), {20_000, 20_002})
    assert chosen == User(20_001, 20_001)


def test_with_a_workspace_the_kernel_runs_as_the_caller(with_workspace: SandboxSpec) -> None:
    assert places.choose_user(with_workspace, ALICE, ROOT, places.OWN_UIDS, ()) == ALICE


def test_a_root_caller_s_kernel_is_the_workspaces_owner_and_never_root(with_workspace: SandboxSpec) -> None:
    assert places.choose_user(with_workspace, ROOT, ALICE, places.OWN_UIDS, ()) == ALICE
    assert places.choose_user(with_workspace, ROOT, User(1000, 0), places.OWN_UIDS, ()).gid != 0
    own = places.choose_user(with_workspace, ROOT, ROOT, places.OWN_UIDS, ())
    assert own.uid in places.OWN_UIDS
    assert own.gid in places.OWN_UIDS


def test_with_network_none_the_kernel_must_reach_the_callers_directory(spec: SandboxSpec) -> None:
    spec = dataclasses.replace(spec, network="none")
    assert places.choose_user(spec, ALICE, None, places.OWN_UIDS, ()) == ALICE
    assert places.choose_user(spec, ROOT, None, places.OWN_UIDS, ()).uid in places.OWN_UIDS


def test_the_time_zone_is_the_hosts_by_its_name(tmp_path: Path) -> None:
    link = tmp_path / "localtime"
    link.symlink_to("/usr/share/zoneinfo/Europe/Paris")
    assert places.timezone({}, link) == "Europe/Paris"
    assert places.timezone({"TZ": "Asia/Tokyo"}, link) == "Asia/Tokyo"
    assert places.timezone({"TZ": ":/etc/shadow"}, link) == "UTC"
    assert places.timezone({}, tmp_path / "missing") == "UTC"


@pytest.fixture
def held() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as held:
        yield held


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("run")
    directory.chmod(0o700)
    return {"XDG_RUNTIME_DIR": str(directory)}


def test_sockets_lie_in_a_short_private_directory_of_the_kernels_uid(
    runtime: dict[str, str], held: contextlib.ExitStack
) -> None:
    made = places.make_socket_directory(User(os.geteuid(), os.getegid()), held, runtime)
    assert made.parent == Path(runtime["XDG_RUNTIME_DIR"]) / "kernel-bridge"
    assert len(made.name) == 8
    for each in (made, made.parent):
        assert each.stat().st_mode & 0o777 == 0o700
        assert each.stat().st_uid == os.geteuid()
    places.remove_socket_directory(made)
    assert not made.exists()


def test_without_a_runtime_directory_of_ones_own_it_is_tmp_and_the_users_number(runtime: dict[str, str]) -> None:
    fallback = Path(f"/tmp/kernel-bridge-{os.geteuid()}")
    assert places.socket_parent({}) == fallback
    Path(runtime["XDG_RUNTIME_DIR"]).chmod(0o755)
    assert places.socket_parent(runtime) == fallback


def test_a_parent_that_somebody_else_put_there_is_not_used(runtime: dict[str, str], held: contextlib.ExitStack) -> None:
    parent = Path(runtime["XDG_RUNTIME_DIR"]) / "kernel-bridge"
    target = parent.with_name("elsewhere")
    target.mkdir(mode=0o700)
    parent.symlink_to(target)
    with pytest.raises(LaunchError, match="belongs to this user alone"):
        places.make_socket_directory(ALICE, held, runtime)
    parent.unlink()
    parent.mkdir(mode=0o755)
    with pytest.raises(LaunchError, match="belongs to this user alone"):
        places.make_socket_directory(ALICE, held, runtime)
    assert list(target.iterdir()) == list(parent.iterdir()) == []


def test_a_path_that_is_too_long_for_a_socket_is_refused_before_anything_is_made(
    tmp_path: Path, held: contextlib.ExitStack
) -> None:
    directory = tmp_path / ("d" * 90)
    directory.mkdir(mode=0o700)
    with pytest.raises(LaunchError, match="too long"):
        places.make_socket_directory(ALICE, held, {"XDG_RUNTIME_DIR": str(directory)})
    assert not list(directory.iterdir())


def test_only_a_directory_that_is_certainly_ours_is_ever_removed(
    runtime: dict[str, str], tmp_path: Path, held: contextlib.ExitStack
) -> None:
    ours = places.make_socket_directory(User(os.geteuid(), os.getegid()), held, runtime)
    precious = [tmp_path / "0a1b2c3d", ours.parent / "photographs", ours.parent.parent / "0a1b2c3d"]
    for each in precious:
        each.mkdir()
        places.remove_socket_directory(each)
    places.remove_socket_directory(ours.parent)
    assert all(each.exists() for each in precious)
    assert ours.exists()


def test_a_link_in_a_socket_directory_is_not_followed_when_it_is_removed(
    runtime: dict[str, str], tmp_path: Path, held: contextlib.ExitStack
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("here")
    made = places.make_socket_directory(User(os.geteuid(), os.getegid()), held, runtime)
    (made / "k-1").symlink_to(tmp_path)
    places.remove_socket_directory(made)
    assert not made.exists()
    assert precious.read_text() == "here"


def test_directories_are_stale_when_their_start_is_over_and_they_are_unclaimed_and_nobody_listens(
    runtime: dict[str, str], held: contextlib.ExitStack
) -> None:
    me = User(os.geteuid(), os.getegid())
    starting = places.make_socket_directory(me, held, runtime)
    with contextlib.ExitStack() as over:
        claimed, alive, dead, empty = (places.make_socket_directory(me, over, runtime) for _ in range(4))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(alive / "k-5"))
        listener.listen()
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(dead / "k-5"))
        assert set(places.stale_socket_directories({claimed}, runtime)) == {dead, empty}
    os.utime(starting, (1, 1))
    assert starting not in places.stale_socket_directories((), runtime)


def test_a_draft_that_nobody_makes_any_more_is_stale_and_is_removed(
    runtime: dict[str, str], held: contextlib.ExitStack
) -> None:
    parent = places.make_socket_directory(User(os.geteuid(), os.getegid()), held, runtime).parent
    made, left, other = (parent / each for each in ("0a1b2c3d.part", "1a1b2c3d.part", "photographs.part"))
    for each in (made, left, other):
        each.mkdir(mode=0o700)
    lock = underway.hold(made)
    assert lock is not None
    held.callback(os.close, lock)
    assert places.stale_socket_directories((), runtime) == [left]
    for each in (left, other):
        places.remove_socket_directory(each)
    assert not left.exists()
    assert other.exists()


@pytest.mark.parametrize("moment", ["looked at", "removed"])
def test_one_whose_draft_is_swept_before_it_is_locked_makes_another(
    moment: str, runtime: dict[str, str], held: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, drafts = underway.hold, list[Path]()

    def late(draft: Path) -> int | None:
        drafts.append(draft)
        if len(drafts) > 1:
            return hold(draft)
        if moment == "removed":
            places.remove_socket_directory(draft)
            return hold(draft)
        handle = os.open(draft, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)  # as who looks whether it is locked
            return hold(draft)
        finally:
            os.close(handle)

    monkeypatch.setattr(underway, "hold", late)
    made = places.make_socket_directory(User(os.geteuid(), os.getegid()), held, runtime)
    assert [each.stem for each in drafts[1:]] == [made.name]
    assert is_locked(made)
    assert places.stale_socket_directories((), runtime) == [each for each in drafts[:1] if each.exists()]


def test_where_there_are_no_locks_a_directory_is_stale_only_once_it_is_old(
    runtime: dict[str, str], held: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    made = places.make_socket_directory(User(os.geteuid(), os.getegid()), held, runtime)
    assert places.stale_socket_directories((), runtime) == []
    old = time.time() - underway.YOUNG - 1
    os.utime(made, (old, old))
    assert places.stale_socket_directories((), runtime) == [made]
