"""The supervisor's rules alone, without a process."""

from __future__ import annotations

import json
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


def test_an_engine_that_shows_no_counters_is_not_an_error(supervisor: Any, tmp_path: Path) -> None:
    assert supervisor.oom_kills(tmp_path) == 0
    assert supervisor.memory_limit(tmp_path) is None


def test_the_kernels_environment_holds_nothing_that_was_not_chosen(supervisor: Any) -> None:
    own = {"HOME": "/h", "TZ": "UTC", "OMP_NUM_THREADS": "2", "LD_PRELOAD": "/evil.so", "PATH": "/odd"}
    assert supervisor.kernel_environment(own, {"GIVEN": "1"}) == {
        "HOME": "/h",
        "USER": "kernel",
        "LOGNAME": "kernel",
        "LANG": "C.UTF-8",
        "PATH": "/opt/kernel/bin:/h/.local/bin:/usr/local/bin:/usr/bin:/bin",
        "TZ": "UTC",
        "OMP_NUM_THREADS": "2",
        "GIVEN": "1",
    }


def test_a_place_is_emptied_of_whatever_lies_there_but_what_is_kept(supervisor: Any, tmp_path: Path) -> None:
    place, precious = tmp_path / "place", tmp_path / "precious"
    (place / "deep" / "deeper").mkdir(parents=True)
    precious.mkdir()
    (precious / "file").touch()
    for name in ("life", "other"):
        (place / name).touch()
    (place / "link").symlink_to(precious)
    (place / "dangling").symlink_to("nowhere")
    (place / "deep" / "deeper").chmod(0)
    place.chmod(0o500)
    supervisor.empty(place, keep=place / "life")
    assert [each.name for each in place.iterdir()] == ["life"]
    assert (precious / "file").exists()
    assert place.stat().st_mode & 0o777 == 0o700
