"""A start for which something is missing or full: the image, a port, the disk on this side."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from bridge.connection import load, save
from bridge.errors import ImageNotFound, LaunchError
from bridge.launchers.docker import DockerLauncher
from tests.faults.engines import AtRequest, Looker
from tests.launchers.conftest import Client, make_spec


@contextlib.contextmanager
def small_disk(at: Path, size: str) -> Iterator[Callable[[], None]]:
    """Have a tmpfs of some bytes at a directory; what is given fills it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", at], check=True)

    def fill() -> None:
        with (at / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(4096)):
                pass

    try:
        yield fill
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


def test_a_full_runtime_directory_fails_a_start_with_what_to_do_and_leaves_nothing(
    looker: Looker, runtime: Path
) -> None:
    async def start() -> None:
        launcher = DockerLauncher()
        with pytest.raises(LaunchError, match=r"kernel-bridge-lab\.json could not be written \(No space left.*removed"):
            await launcher.start(make_spec("lab"))
        assert looker.left() == ["filler"]
        (runtime / "filler").unlink()
        await launcher.start(make_spec("lab"))
        await launcher.stop("lab")
        launcher.close()

    with small_disk(runtime, "16k") as fill:
        fill()
        anyio.run(start)
        assert looker.left() == []


def test_a_runtime_directory_without_room_for_one_more_file_fails_a_start_before_anything_is_made(
    looker: Looker, runtime: Path, at_request: AtRequest
) -> None:
    async def start() -> None:
        launcher = DockerLauncher()
        at_request.set(launcher, 1, lambda: asked.append(True))
        with pytest.raises(
            LaunchError, match=r"could not be written \(No space left on device\), so nothing was started"
        ):
            await launcher.start(make_spec("lab"))
        launcher.close()

    asked: list[bool] = []
    with small_disk(runtime, "16k,nr_inodes=1"):
        anyio.run(start)
    assert not asked


def test_a_start_whose_lock_cannot_be_taken_away_fails_and_is_no_sandbox_that_the_next_listing_removes(
    looker: Looker, runtime: Path, at_request: AtRequest
) -> None:
    def pin() -> None:
        """Have the lock's file be a mount point, which no one can remove."""
        (mark,) = runtime.glob(".*.starting")
        subprocess.run(["mount", "--bind", mark, mark], check=True)
        pinned.append(mark)

    async def start() -> None:
        launcher = DockerLauncher()
        at_request.set(launcher, 99, pin)
        await launcher.start(make_spec("lab"))
        last = at_request.asked
        await launcher.stop("lab")
        at_request.set(launcher, last, pin)
        with pytest.raises(LaunchError, match=r"could not be written \(Device or resource busy\), so the sandbox was"):
            await launcher.start(make_spec("lab"))
        assert await launcher.sandboxes() == []
        assert looker.left() == [each.name for each in pinned]
        launcher.close()

    async def sweep() -> None:
        launcher = DockerLauncher()
        await launcher.sweep()
        launcher.close()

    pinned: list[Path] = []
    try:
        anyio.run(start)
    finally:
        for each in pinned:
            subprocess.run(["umount", each], check=True)
    anyio.run(sweep)
    assert looker.left() == []


def test_a_connection_file_that_cannot_be_written_anew_stays_whole_and_the_sandbox_as_it_is(
    looker: Looker, runtime: Path
) -> None:
    async def rewrite(fill: Callable[[], None]) -> None:
        launcher = DockerLauncher()
        sandbox = await launcher.start(make_spec("lab"))
        before = sandbox.connection_file.read_bytes()
        fill()
        looker.restart("gateway")
        (found,) = await launcher.sandboxes()
        assert found.moved
        with pytest.raises(LaunchError, match=r"cannot be written again: No space left on device"):
            await launcher.restore_connection_file("lab")
        assert sandbox.connection_file.read_bytes() == before
        (runtime / "filler").unlink()
        await launcher.restore_connection_file("lab")
        (found,) = await launcher.sandboxes()
        assert not found.moved
        assert load(sandbox.connection_file).key in before.decode()
        client = Client(sandbox.connection_file)
        await client.ready()
        client.close()
        await launcher.stop("lab")
        launcher.close()

    with small_disk(runtime, "16k") as fill:
        anyio.run(rewrite, fill)
        assert looker.left() == []


def test_an_image_that_is_missing_says_what_to_type_and_one_that_goes_within_a_start_leaves_nothing(
    looker: Looker, at_request: AtRequest
) -> None:
    repository = "kernel-bridge/fault-going"
    policy = {"images": [{"repository": repository, "tags": ["*"]}], "default_image": f"{repository}:1"}

    async def start(number: int) -> None:
        launcher = DockerLauncher()
        at_request.set(launcher, number, remove)
        with pytest.raises(LaunchError) as failed:
            await launcher.start(make_spec("lab", policy=policy))
        assert isinstance(failed.value, ImageNotFound) or "No such image" in str(failed.value), failed.value
        launcher.close()
        assert looker.left() == []

    def remove() -> None:
        with looker.client() as engine:
            engine.images.remove(f"{repository}:1", force=True)

    with looker.client() as engine:
        container = engine.containers.create("kernel-bridge/python:3.13")
        try:
            container.commit(repository, "1")  # an image of its own, not one more name of ours
        finally:
            container.remove()
    anyio.run(start, 4)  # after the look at it, before the claim
    anyio.run(start, 99)  # from the beginning


def test_a_file_that_was_left_behind_keeps_no_name_where_another_program_has_one_of_its_ports(
    looker: Looker, runtime: Path
) -> None:
    async def start() -> None:
        launcher = DockerLauncher()
        sandbox = await launcher.start(make_spec("lab"))
        left = load(sandbox.connection_file)
        with looker.client() as engine:
            for role in ("gateway", "kernel"):  # the gateway ends with its kernel
                looker.end(role)
            engine.containers.prune(filters={"label": f"io.kernel-bridge.owner={looker.whose}"})
        with socket.create_server(("127.0.0.1", left.hb_port)):
            await launcher.start(make_spec("lab"))
            assert load(sandbox.connection_file).start != left.start
            await launcher.stop("lab")
            save(left, sandbox.connection_file)
            await launcher.sweep()
            assert looker.left() == []
        launcher.close()

    anyio.run(start)


def test_a_port_that_somebody_took_keeps_a_lost_gateway_away_until_it_is_free_and_the_kernel_lives(
    looker: Looker,
) -> None:
    async def revive() -> None:
        launcher = DockerLauncher()
        sandbox = await launcher.start(make_spec("lab"))
        looker.end("gateway")
        with socket.create_server(("127.0.0.1", load(sandbox.connection_file).iopub_port)):
            with pytest.raises(
                LaunchError, match=r"could not come back on its ports .*The kernel still runs.*Free the"
            ):
                await launcher.revive("lab")
            (found,) = await launcher.sandboxes()
            assert found.state == "unreachable"
        await asyncio.gather(launcher.revive("lab"), launcher.revive("lab"))
        client = Client(sandbox.connection_file)
        await client.ready()
        client.close()
        await launcher.stop("lab")
        launcher.close()

    anyio.run(revive)
    assert looker.left() == []
