"""Connection files: what is accepted, what is refused in which words, and what never leaks."""

from __future__ import annotations

import json
import os
import resource
import stat
from pathlib import Path
from typing import Any

import pytest

from bridge.connection import ConnectionInfo, load, runtime_directories, save
from bridge.errors import BadConnectionFile

GOOD: dict[str, Any] = {
    "shell_port": 5001,
    "iopub_port": 5002,
    "stdin_port": 5003,
    "control_port": 5004,
    "hb_port": 5005,
    "ip": "127.0.0.1",
    "key": "s3cret-key",
    "transport": "tcp",
    "signature_scheme": "hmac-sha256",
    "kernel_name": "python3",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kernel-1.json"
    path.write_text(json.dumps(GOOD))
    return path


def test_a_complete_file_is_read(file: Path) -> None:
    info = load(file)
    assert (info.shell_port, info.key, info.url(info.hb_port)) == (5001, "s3cret-key", "tcp://127.0.0.1:5005")


def test_the_key_is_not_in_the_repr(file: Path) -> None:
    assert "s3cret" not in repr(load(file))


def test_what_is_written_is_read_back_equal_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    info = ConnectionInfo("ipc", "/run/k", 1, 2, 3, 4, 5, "abc", jupyter_session="/home/a/b.ipynb")
    path = tmp_path / "new" / "kernel-bridge-a.json"
    save(info, path)
    assert load(path) == info
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_written_file_always_has_a_kernel_name(tmp_path: Path) -> None:
    save(ConnectionInfo("tcp", "127.0.0.1", 1, 2, 3, 4, 5, "abc"), tmp_path / "k.json")
    assert json.loads((tmp_path / "k.json").read_text())["kernel_name"]


def test_a_failed_write_leaves_the_old_file_and_no_draft(file: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))  # as on a disk that has room for ten bytes
    try:
        with pytest.raises(OSError, match="File too large"):
            save(ConnectionInfo("tcp", "127.0.0.1", 1, 2, 3, 4, 5, "new"), file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load(file).key == "s3cret-key"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("field", ["shell_port", "iopub_port", "stdin_port", "control_port", "hb_port", "key"])
def test_a_missing_field_is_named(file: Path, field: str) -> None:
    file.write_text(json.dumps({name: value for name, value in GOOD.items() if name != field}))
    with pytest.raises(BadConnectionFile, match=f"lacks {field}"):
        load(file)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"shell_port": 0}, "`shell_port` is not a port"),
        ({"shell_port": True}, "`shell_port` is not a port"),
        ({"hb_port": "5005"}, "`hb_port` is not a port"),
        ({"hb_port": 70000}, "`hb_port` is not a port"),
        ({"key": ""}, "anybody could send"),
        ({"key": 5}, "`key`"),
        ({"transport": "udp"}, "`transport`"),
        ({"ip": ""}, "`ip`"),
        ({"ip": "/tmp/\0"}, "`ip`"),
        ({"signature_scheme": "none"}, "`signature_scheme`"),
        ({"curve_publickey": "x"}, "not supported yet"),
    ],
)
def test_a_wrong_field_is_named_in_one_sentence(file: Path, change: dict[str, Any], sentence: str) -> None:
    file.write_text(json.dumps(GOOD | change))
    with pytest.raises(BadConnectionFile, match=sentence) as caught:
        load(file)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        (json.dumps(GOOD)[:60], "cut short"),
        ("[1]", "not a connection file"),
        ("\xff\xfe", "cut short"),
    ],
)
def test_a_file_that_is_no_connection_file_is_told_so(file: Path, text: str, sentence: str) -> None:
    file.write_text(text)
    with pytest.raises(BadConnectionFile, match=sentence):
        load(file)


def test_bytes_that_are_no_text_are_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadConnectionFile, match="not text"):
        load(file)


def test_a_huge_file_is_not_read(file: Path) -> None:
    file.write_text(" " * 100_000)
    with pytest.raises(BadConnectionFile, match="too many"):
        load(file)


def test_a_directory_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadConnectionFile, match="is a directory"):
        load(tmp_path)


def test_a_missing_file_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadConnectionFile, match="no connection file"):
        load(tmp_path / "gone.json")


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(BadConnectionFile, match="not a regular file"):
        load(tmp_path / "pipe.json")


def test_another_users_file_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # whoever runs the tests: the file is somebody else's than the process's user
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    with pytest.raises(BadConnectionFile, match="belongs to"):
        load(file)


@pytest.mark.parametrize(
    ("ip", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("x", False),
    ],
)
def test_loopback_is_recognised(ip: str, *, loopback: bool) -> None:
    assert ConnectionInfo("tcp", ip, 1, 2, 3, 4, 5, "k").is_loopback() is loopback


def test_an_ipv6_address_is_bracketed_in_the_endpoint() -> None:
    assert ConnectionInfo("tcp", "::1", 1, 2, 3, 4, 5, "k").url(1) == "tcp://[::1]:1"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_RUNTIME_DIR": "/run/mine"}, ["/data/runtime", "/run/mine/jupyter/runtime"]),
        # a client's bare environment
        ({}, ["/data/runtime", f"/run/user/{os.getuid()}/jupyter/runtime"]),
        ({"XDG_RUNTIME_DIR": "/run/mine", "JUPYTER_RUNTIME_DIR": "/named"}, ["/named"]),
    ],
)
def test_kernels_are_looked_for_where_jupyter_and_where_vs_code_write_their_files(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: list[str]
) -> None:
    for name in ("JUPYTER_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"JUPYTER_DATA_DIR": "/data"} | environment).items():
        monkeypatch.setenv(name, value)
    assert [str(each) for each in runtime_directories()] == expected
