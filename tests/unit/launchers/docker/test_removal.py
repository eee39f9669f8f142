"""Which connection files a start may take the place of, and which ones a sweep or a stop removes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.connection import ConnectionInfo, load, save
from bridge.launchers.docker import connections, inventory, removal

WHO = "0123456789abcdef" * 2
OURS, OTHER, GONE = "0" * 16, "1" * 16, "2" * 16

pytestmark = pytest.mark.anyio


@pytest.fixture
def ports() -> Iterator[tuple[int, ...]]:
    """Five ports on which somebody listens, as a gateway or not."""
    with contextlib.ExitStack() as listening:
        listeners = [listening.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(5)]
        yield tuple(each.getsockname()[1] for each in listeners)


def there(file: Path, start: str, ports: tuple[int, ...] = ()) -> inventory.Inventory:
    """A sandbox of this engine that claims a connection file, and the ports that it publishes."""
    labels = {"owner": WHO, "name": "lab", "start": start, "connection-file": str(file)}
    published = [{"PrivatePort": number, "PublicPort": port} for number, port in enumerate(ports)]
    return inventory.read(
        WHO,
        [
            {
                "Id": role * 10,
                "State": "running",
                "Labels": {f"io.kernel-bridge.{key}": value for key, value in {**labels, "role": role}.items()},
                "Ports": published if role == "gateway" else [],
            }
            for role in ("kernel", "gateway")
        ],
    )


def written(file: Path, ports: tuple[int, ...], start: str | None) -> ConnectionInfo:
    info = connections.over_ports("a key", ports, start)
    save(info, file)
    return info


async def test_a_file_that_does_not_say_of_which_start_it_is_is_that_of_the_sandbox_that_claims_it(
    tmp_path: Path, ports: tuple[int, ...]
) -> None:
    file = tmp_path / "kernel-bridge-lab.json"
    written(file, ports, None)
    mine = there(file, OURS, ports)
    assert await removal.is_free(file, mine)
    assert not await removal.is_free(file, there(tmp_path / "kernel-bridge-else.json", OURS))
    removal.remove_connection_file(mine.kernels()[0], mine)
    assert not file.exists()


async def test_a_file_of_another_start_is_not_that_of_the_sandbox_that_claims_it(
    tmp_path: Path, ports: tuple[int, ...]
) -> None:
    file = tmp_path / "kernel-bridge-lab.json"
    info = written(file, ports, OTHER)
    mine = there(file, OURS)
    assert not await removal.is_free(file, mine)
    removal.remove_connection_file(mine.kernels()[0], mine)
    assert load(file) == info


@pytest.mark.parametrize("closed", range(5))
async def test_where_one_of_its_ports_is_closed_a_file_leads_nowhere_whoever_has_the_others(
    closed: int, tmp_path: Path, ports: tuple[int, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        free = nobody.getsockname()[1]
    file = tmp_path / "kernel-bridge-lab.json"
    written(file, ports, GONE)
    nothing = inventory.read(WHO, [])
    assert not await removal.is_free(file, nothing)
    written(file, (*ports[:closed], free, *ports[closed + 1 :]), GONE)
    assert await removal.is_free(file, nothing)


@pytest.mark.parametrize(("start", "free"), [(GONE, True), (OTHER, False), (None, False)])
async def test_a_file_leads_nowhere_where_its_ports_are_published_for_another_start(
    start: str | None, *, free: bool, tmp_path: Path, ports: tuple[int, ...]
) -> None:
    """The engine gives the ports of a sandbox that was removed to the next one."""
    file = tmp_path / "kernel-bridge-lab.json"
    written(file, ports, start)
    other = there(tmp_path / "kernel-bridge-else.json", OTHER, ports)
    assert await removal.is_free(file, other) is free
    assert await removal.is_free(file, replace(other, containers=(), others=other.containers)) is free


async def test_a_port_whose_queue_is_full_is_somebodys(tmp_path: Path, ports: tuple[int, ...]) -> None:
    with contextlib.ExitStack() as waiting:
        listener = waiting.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):  # more than it lets wait
            one = waiting.enter_context(socket.socket())
            one.settimeout(0)
            one.connect_ex(listener.getsockname())
        file = tmp_path / "kernel-bridge-lab.json"
        written(file, (*ports[:4], listener.getsockname()[1]), GONE)
        assert not await removal.is_free(file, inventory.read(WHO, []))
