"""The token is made once, and a file that others could have read or written is refused in a sentence that helps."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from bridge.errors import UsageError
from bridge.http.token import default_file, refuse_mounted, token
from bridge.policy import parse


def test_it_is_made_once_private_and_long_and_used_again(tmp_path: Path) -> None:
    file = tmp_path / "new" / "token"
    made = token(file)
    assert token(file) == made == file.read_text().strip()
    assert len(made) >= 43
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [each.name for each in file.parent.iterdir()] == ["token"]
    assert token(tmp_path / "another") != made


def test_servers_that_start_at_once_all_use_one(tmp_path: Path) -> None:
    found: list[str] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait(10)
        found.append(token(tmp_path / "token"))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(10)
    assert len(found) == 8
    assert set(found) == {(tmp_path / "token").read_text().strip()}


def test_by_itself_it_is_in_the_state_directory() -> None:
    assert default_file({"XDG_STATE_HOME": "/s"}) == Path("/s/kernel-bridge/http-token")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o666])
def test_one_that_others_could_have_read_or_written_is_refused_with_what_to_type(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "token"
    made = token(file)
    file.chmod(mode)
    with pytest.raises(UsageError, match=r"can be read by others.*Remove it.*chmod 600") as caught:
        token(file)
    assert made not in str(caught.value)
    file.chmod(0o600)
    assert token(file) == made


def test_one_that_belongs_to_someone_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    made = token(file)
    os.chown(file, 12345, 12345)
    with pytest.raises(UsageError, match="belongs to uid 12345") as caught:
        token(file)
    assert made not in str(caught.value)


def test_a_link_is_judged_by_what_it_leads_to(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("token")
    with pytest.raises(UsageError, match="cannot be used: No such file"):
        token(link)
    made = token(tmp_path / "token")
    assert token(link) == made
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(UsageError, match="can be read by others"):
        token(link)


@pytest.mark.parametrize("content", [b"", b"short\n", b"x" * 5000, b"a" * 40 + b"\n" + b"b" * 40, b"\xff" * 40])
def test_what_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(UsageError, match="holds no token"):
        token(file)


def test_a_pipe_or_a_directory_in_its_place_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UsageError, match="is not a file"):
        token(tmp_path / "pipe")
    with pytest.raises(UsageError, match=r"is not a file|cannot be used"):
        token(tmp_path)


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be used.*--token-file"):
        token(tmp_path / "file" / "token")


def test_one_that_code_in_a_sandbox_could_read_is_refused(tmp_path: Path) -> None:
    project = tmp_path.resolve() / "project"
    (project / "keys").mkdir(parents=True)
    (tmp_path / "link").symlink_to(project / "keys")
    policy = parse(f"version: 1\nsandbox:\n  mounts: [{{source: {project}}}]\n", origin="a test")
    for file in (project / "token", project / "keys" / "token", tmp_path / "link" / "token"):
        with pytest.raises(
            UsageError, match=rf"{file} lies in {project}.*sandbox\.mounts, line 3.*Nothing was started"
        ):
            refuse_mounted(file, policy)
    refuse_mounted(tmp_path / "token", policy)
