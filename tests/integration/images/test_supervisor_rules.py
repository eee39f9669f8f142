"""The supervisor's rules alone, without a process."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CONNECTION = {
    "transport": "ipc", "ip": "/run/kernel-bridge/k", "shell_port": 1, "iopub_port": 2, "stdin_port": 3,
    "control_port": 4, "hb_port": 5, "key": "k", "signature_scheme": "hmac-sha256", "kernel_name": "n",
}  # fmt: skip


def orders(connection: Any = CONNECTION, environment: Any = None) -> bytes:
    return json.dumps({"connection": connection, "environment": environment or {}}).encode()


def test_a_good_line_is_taken_as_it_is(supervisor: Any) -> None:
    read = supervisor.read_orders(orders(environment={"TZ": "Europe/Berlin"}))
    assert read.connection == CONNECTION
    assert read.environment == {"TZ": "Europe/Berlin"}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        orders({}),
        orders({**CONNECTION, "transport": "pgm"}),
        orders({**CONNECTION, "key": ""}),
        orders({**CONNECTION, "shell_port": True}),
        orders({**CONNECTION, "hb_port": 70_000}),
        orders({**CONNECTION, "hb_port": "5"}),
        orders()[:-1] + b', "proxy": 1}',
        orders()[:-1] + b', "certificates": null}',
        orders()[:-1] + b', "idle_timeout": 0}',
        orders()[:-1] + b', "max_lifetime": "1h"}',
        orders()[:-1] + b', "max_lifetime": Infinity}',
        orders(environment=["x"]),
        orders(environment={"A=B": "x"}),
        orders(environment={"": "x"}),
        orders(environment={"A": "x\0y"}),
        orders(environment={"A": 1}),
    ],
)
def test_every_other_line_is_refused_in_one_way(supervisor: Any, line: bytes) -> None:
    with pytest.raises(supervisor.BadOrdersError):
        supervisor.read_orders(line)


@pytest.mark.parametrize(
    ("status", "oom_kills", "told", "said"),
    [
        (0, 0, ("exit", 0), "status 0"),
        (3 << 8, 0, ("exit", 3), "status 3"),
        (137 << 8, 1, ("exit", 137), "status 137"),  # a cell may exit with the number that shells use for SIGKILL
        (9, 0, ("signal", 9), "SIGKILL"),
        (9, 2, ("oom", 9), "512 MiB"),
        (11, 2, ("signal", 11), "SIGSEGV"),  # only a worker process ran out of memory
        (11 | 128, 0, ("signal", 11), "SIGSEGV"),  # with a core dump
        (40, 0, ("signal", 40), "signal 40"),
    ],
)
def test_an_ending_is_told_by_its_cause(
    supervisor: Any, status: int, oom_kills: int, told: tuple[str, int], said: str
) -> None:
    ending = supervisor.ending_of(status, oom_kills=oom_kills, limit=512 << 20)
    assert (ending.cause, ending.code) == told
    assert said in ending.text


@pytest.mark.parametrize("status", [1 << 8, 6], ids=["exit", "abort"])
def test_a_kernel_that_could_start_no_more_threads_is_told_with_their_limit(supervisor: Any, status: int) -> None:
    ending = supervisor.ending_of(status, oom_kills=0, limit=None, refused=1, most=32)
    assert ending.text.endswith(", and the container had no room for more processes and threads (pids: 32)")
    assert "pids" not in supervisor.ending_of(status, oom_kills=0, limit=None, refused=0, most=32).text
    later = supervisor.STARTING_SECONDS + 1
    assert "pids" not in supervisor.ending_of(status, oom_kills=0, limit=None, refused=1, most=32, lived=later).text


def test_memory_that_ran_out_without_a_limit_of_the_container_is_told_without_one(supervisor: Any) -> None:
    assert "MiB" not in supervisor.ending_of(9, oom_kills=1, limit=None).text


def test_five_starts_in_a_minute_are_let_through_and_the_next_ones_wait_ten_seconds(supervisor: Any) -> None:
    assert supervisor.start_delay([], 100.0) == 0
    assert supervisor.start_delay([96.0, 97.0, 98.0, 99.0], 100.0) == 0
    assert supervisor.start_delay([95.0, 96.0, 97.0, 98.0, 99.0], 100.0) == 9
    assert supervisor.start_delay([95.0, 96.0, 97.0, 98.0, 99.0], 109.0) == 0
    assert supervisor.start_delay([10.0, 96.0, 97.0, 98.0, 99.0], 100.0) == 0


@pytest.mark.parametrize(
    ("file", "text"),
    [("memory.events", "low 0\noom 3\noom_kill 2\n"), ("memory/memory.oom_control", "under_oom 0\noom_kill 2\n")],
    ids=["cgroup v2", "cgroup v1"],
)
def test_the_count_of_processes_killed_for_memory_is_read(
    supervisor: Any, tmp_path: Path, file: str, text: str
) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / file).write_text(text)
    assert supervisor.oom_kills(tmp_path) == 2


@pytest.mark.parametrize(
    ("file", "text", "limit"),
    [
        ("memory.max", "157286400\n", 157_286_400),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", "157286400\n", 157_286_400),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),
    ],
)
def test_the_memory_limit_is_read(supervisor: Any, tmp_path: Path, file: str, text: str, limit: int | None) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / file).write_text(text)
    assert supervisor.memory_limit(tmp_path) == limit


@pytest.mark.parametrize("place", ["", "pids"], ids=["cgroup v2", "cgroup v1"])
def test_the_count_of_refused_processes_and_their_limit_are_read(supervisor: Any, tmp_path: Path, place: str) -> None:
    (tmp_path / "pids").mkdir()
    (tmp_path / place / "pids.events").write_text("max 3\n")
    (tmp_path / place / "pids.max").write_text("32\n")
    assert (supervisor.refused_starts(tmp_path), supervisor.pids_limit(tmp_path)) == (3, 32)
    (tmp_path / place / "pids.max").write_text("max\n")
    assert supervisor.pids_limit(tmp_path) is None


def test_an_engine_that_shows_no_counters_is_not_an_error(supervisor: Any, tmp_path: Path) -> None:
    assert supervisor.oom_kills(tmp_path) == 0
    assert supervisor.memory_limit(tmp_path) is None
    assert (supervisor.refused_starts(tmp_path), supervisor.pids_limit(tmp_path)) == (0, None)


def test_the_kernels_environment_holds_nothing_that_was_not_chosen(supervisor: Any) -> None:
    own = {"HOME": "/h", "TZ": "UTC", "OMP_NUM_THREADS": "2", "LD_PRELOAD": "/evil.so", "PATH": "/odd"}
    given = supervisor.read_orders(orders(environment={"GIVEN": "1"}))
    assert supervisor.kernel_environment(own, given) == {
        "HOME": "/h",
        "USER": "kernel",
        "LOGNAME": "kernel",
        "LANG": "C.UTF-8",
        "PATH": "/opt/kernel/bin:/h/.local/bin:/usr/local/bin:/usr/bin:/bin",
        "TZ": "UTC",
        "OMP_NUM_THREADS": "2",
        "GIVEN": "1",
    }


def test_a_proxy_and_certificates_are_told_to_programs_only_where_they_are(supervisor: Any) -> None:
    line = json.loads(orders(environment={"PIP_CERT": "/mine.pem"})) | {"proxy": True, "certificates": "PEM"}
    there = supervisor.kernel_environment({}, supervisor.read_orders(json.dumps(line).encode()))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        assert there[name] == "http://127.0.0.1:3128"
    assert there["NO_PROXY"] == there["no_proxy"] == "localhost,127.0.0.1,::1"
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"):
        assert there[name] == "/run/kernel/certificates.pem"
    assert there["PIP_CERT"] == "/mine.pem", "what was asked for by name stays"
    without = supervisor.kernel_environment({}, supervisor.read_orders(orders()))
    assert not {name for name in without if "PROXY" in name.upper() or "CERT" in name or "BUNDLE" in name}


def test_a_place_is_emptied_of_whatever_lies_there(supervisor: Any, tmp_path: Path) -> None:
    place, precious = tmp_path / "place", tmp_path / "precious"
    (place / "deep" / "deeper").mkdir(parents=True)
    precious.mkdir()
    (precious / "file").touch()
    (place / "file").touch()
    (place / "link").symlink_to(precious)
    (place / "dangling").symlink_to("nowhere")
    (place / "deep" / "deeper").chmod(0)
    place.chmod(0o500)
    supervisor.empty(place)
    assert not list(place.iterdir())
    assert (precious / "file").exists()
    assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("levels", "name"), [(40, "x" * 255), (3000, "y")], ids=["a path too long", "too deep"])
def test_a_place_is_emptied_of_what_is_deeper_than_a_path_or_a_recursion_may_be(
    supervisor: Any, tmp_path: Path, levels: int, name: str
) -> None:
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(os.open("file", os.O_CREAT, dir_fd=below))
        os.close(at)
        at = below
    os.close(at)
    supervisor.empty(tmp_path)
    assert not list(tmp_path.iterdir())


def ended(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except BlockingIOError:
        return False


def connected(life: Path) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(0)
    end.connect(str(life))
    return end


@pytest.fixture
def life(supervisor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """One that takes the tests' own process for somebody outside; who that is, is tried in a container."""
    monkeypatch.setattr(supervisor, "LIFE", tmp_path / "life")
    monkeypatch.setattr(supervisor, "is_outside", lambda _: True)
    life = supervisor.Life()
    yield life
    life.close()


def test_the_socket_that_tells_of_the_supervisors_end_is_made_anew_and_who_was_connected_stays_so(
    life: Any, supervisor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "HELD", 2)
    life.listen()
    with contextlib.ExitStack() as ends:
        first = ends.enter_context(connected(tmp_path / "life"))
        connected(tmp_path / "life").close()  # somebody who is gone by then
        for _ in range(2):
            supervisor.empty(tmp_path)  # as before each start; what lay there may have been anything
            life.listen()
        second = ends.enter_context(connected(tmp_path / "life"))
        life.listen()
        assert not ended(first)
        assert not ended(second)
        more = [ends.enter_context(connected(tmp_path / "life")) for _ in range(3)]
        life.listen()
        assert [ended(each) for each in (first, second, *more)] == [False, False, True, True, True]
        life.close()
        assert ended(first)
        assert ended(second)


def test_a_sign_of_life_that_could_not_be_made_once_is_made_the_next_time(life: Any, tmp_path: Path) -> None:
    life.listen()
    with connected(tmp_path / "life") as end:
        (tmp_path / "life").unlink()
        (tmp_path / "life").mkdir()
        for _ in range(2):
            with pytest.raises(OSError, match="life"):
                life.listen()
        (tmp_path / "life").rmdir()
        life.listen()
        connected(tmp_path / "life").close()
        assert not ended(end)


def test_what_a_gateway_says_last_holds_until_it_says_something_else_or_is_gone(life: Any, tmp_path: Path) -> None:
    life.listen()
    assert life.read() == (False, False)
    with connected(tmp_path / "life") as end:
        assert life.read() == (False, False), "a gateway alone is nobody"
        for said, read in ((b"01", (True, False)), (b"2", (True, True)), (b"", (True, True)), (b"0", (False, False))):
            end.sendall(said)
            assert life.read() == read
        end.sendall(b"120")
        assert life.read() == (False, True), "somebody was there in between"
        end.sendall(b"2")
        life.listen()  # the kernel was restarted
        assert life.read() == (True, True)
        with connected(tmp_path / "life") as other:
            other.sendall(b"0")
            assert life.read() == (True, True)
    assert life.read() == (False, False)


def test_who_connects_from_inside_is_turned_away(supervisor: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(supervisor, "LIFE", tmp_path / "life")
    life = supervisor.Life()
    life.listen()
    with connected(tmp_path / "life") as end:
        end.sendall(b"2")
        assert life.read() == (False, False)
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    life.close()


@pytest.fixture
def cells(supervisor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(supervisor, "CELLS", tmp_path / "cells")
    return supervisor.Cells()


def test_processes_that_end_without_end_keep_it_from_nothing_else(
    supervisor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = supervisor.Orders({}, {})
    watched = supervisor.Supervisor(orders, supervisor.Life())
    ended = itertools.count(1000)
    monkeypatch.setattr(supervisor.os, "waitpid", lambda *_: (next(ended), 0))
    assert watched._collect() == (None, True)
    assert next(ended) < 2000
    assert watched._has_more
    monkeypatch.setattr(supervisor.os, "waitpid", lambda *_: (0, 0))
    assert watched._collect() == (None, True)
    assert not watched._has_more


@pytest.fixture
def clocks(supervisor: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The clocks that a supervisor has, each to be moved by itself."""
    time = {"wall": 1e9, "awake": 1000.0, "age": 1000.0}
    monkeypatch.setattr(supervisor.time, "time", lambda: time["wall"])
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: time["awake"])
    monkeypatch.setattr(
        supervisor.time,
        "clock_gettime",
        lambda which: time["age" if which == supervisor.time.CLOCK_BOOTTIME else "awake"],
    )
    return time


def test_slept_time_is_part_of_its_lifetime_and_not_of_the_time_that_it_was_unused(
    supervisor: Any, ends: Any, clocks: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(supervisor, "say", lambda event, **fields: said.append({"event": event, **fields}))
    monkeypatch.setattr(supervisor.Supervisor, "_end_strays", lambda _: None)
    hour = 3600.0
    limits = supervisor.ends.Limits(idle_timeout=2 * hour, max_lifetime=8 * hour)
    watched = supervisor.Supervisor(supervisor.Orders({}, {}, limits=limits), supervisor.Life())
    clocks["age"] += 7 * hour
    watched._look()
    assert said == []
    clocks["age"] += hour
    watched._look()
    assert [(each["event"], each["limit"], each["seconds"]) for each in said] == [("ending", "max_lifetime", 60)]
    clocks["age"] += 60
    with pytest.raises(SystemExit) as ended:
        watched._look()
    assert ended.value.code == ends.STATUSES["max_lifetime"]


def test_a_clock_that_was_set_neither_ends_nor_keeps_one(
    supervisor: Any, clocks: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(supervisor, "say", lambda event, **_: said.append(event))
    limits = supervisor.ends.Limits(idle_timeout=7200.0, max_lifetime=7200.0)
    watched = supervisor.Supervisor(supervisor.Orders({}, {}, limits=limits), supervisor.Life())
    for jump in (-1e6, 2e6):
        clocks["wall"] += jump
        watched._look()
    assert said == []
    clocks["age"] += 6600.0
    watched._look()
    assert said == ["ending"]


def test_what_a_kernel_says_of_its_cells_is_read(cells: Any, supervisor: Any, ends: Any, tmp_path: Path) -> None:
    place = tmp_path / "cells"

    def says(*told: int) -> None:
        with place.open("r+b") as file:
            file.write(supervisor.CELLS_FORM.pack(*told))

    assert cells.read(running=False) == ends.Seen(), "before there is one"
    cells.renew()
    assert cells.read(running=True) == ends.Seen()
    says(1, 0, 1)
    assert cells.read(running=True) == ends.Seen(used=True)
    assert cells.read(running=True) == ends.Seen(used=True), "it still runs"
    assert cells.read(running=False) == ends.Seen(), "a kernel that is gone runs nothing"
    says(0, 1, 4)
    assert cells.read(running=True) == ends.Seen(used=True, person=True), "some ran in between"
    assert cells.read(running=True) == ends.Seen(person=True)
    says(1, 1, 5)
    supervisor.empty(tmp_path)
    cells.renew()
    assert cells.read(running=True) == ends.Seen(used=True, person=True), "of the last kernel"
    assert cells.read(running=True) == ends.Seen()


@pytest.mark.parametrize("change", ["removed", "link", "fifo", "short", "garbage"])
def test_nothing_that_code_makes_of_that_file_is_in_the_way(
    cells: Any, supervisor: Any, ends: Any, tmp_path: Path, change: str
) -> None:
    place = tmp_path / "cells"
    cells.renew()
    if change == "short":
        place.write_bytes(b"\xff")
    elif change == "garbage":
        place.write_bytes(b"\xff" * 100_000)
    else:
        place.unlink()
    if change == "link":
        place.symlink_to("/dev/zero")
    elif change == "fifo":
        os.mkfifo(place)
    garbage = change == "garbage"
    assert cells.read(running=True) == ends.Seen(used=garbage, person=garbage)
    supervisor.empty(tmp_path)
    cells.renew()
    assert place.read_bytes() == bytes(6)


@pytest.mark.parametrize("there", ["file", "link", "dangling link"])
def test_the_key_is_written_into_a_file_that_was_not_there_and_never_through_a_link(
    supervisor: Any, tmp_path: Path, there: str
) -> None:
    place, other = tmp_path / "connection.json", tmp_path / "other"
    if there == "link":
        other.write_text("before")
    place.write_text("before") if there == "file" else place.symlink_to(other)
    with pytest.raises(FileExistsError):
        supervisor.write_anew(place, "the key")
    assert other.exists() is (there == "link")
    assert not other.exists() or other.read_text() == "before"


def test_the_file_with_the_key_is_for_its_owner_alone_whatever_the_umask(supervisor: Any, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        supervisor.write_anew(tmp_path / "connection.json", "the key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "connection.json").stat().st_mode) == 0o600
    assert (tmp_path / "connection.json").read_text() == "the key"


@pytest.mark.parametrize(
    ("code", "sender", "outside"),
    [
        (0, 0, True),  # kill, from a process that nobody in here can see
        (0, 7, False),
        (-1, 0, False),  # rt_sigqueueinfo, whose caller writes the sender himself
        (-6, 0, False),  # tgkill
        (128, 0, False),  # the operating system
    ],
)
def test_a_signal_from_outside_is_told_by_its_code_and_its_sender_together(
    *, supervisor: Any, code: int, sender: int, outside: bool
) -> None:
    told = signal.struct_siginfo((signal.SIGTERM, code, 0, sender, 0, 0, 0))
    assert supervisor.from_outside(told) is outside
