"""Sandboxes as the rest of the bridge knows them: `bridge.launchers.Launcher`, done with the Docker Engine.

The one rule: a sandbox is what the engine's labels say it is. Nothing about it is kept in this process, so any bridge
of the same owner finds, restarts and ends it, also after the one that started it is gone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from bridge.connection import ConnectionInfo, load, save
from bridge.errors import AmbiguousKernel, BadConnectionFile, LaunchError, NoSuchKernel
from bridge.launchers import End, EngineFacts, Leftovers, LogLine, Sandbox, Source, State
from bridge.launchers.docker import (
    capabilities,
    checking,
    composed,
    connections,
    endings,
    host,
    image,
    lasting,
    owner,
    removal,
    starting,
    verification,
)
from bridge.launchers.docker.border import Conflict, Missing, Refused
from bridge.launchers.docker.document import PRIVATE, READ, egress_argument, gateway_document, reachable
from bridge.launchers.docker.engine import Engine, together
from bridge.launchers.docker.inventory import Container, Inventory, clock, look
from bridge.policy import SandboxSpec

_KEY = re.compile(r"[0-9a-f]{64}")


class DockerLauncher:
    """Making one costs nothing: the engine is looked for, and docker imported, with the first request.

    `host` is an address as in DOCKER_HOST; without it the environment, the docker CLI's context and the well-known
    sockets are asked. Close it when it is not needed any more; a closed one may be used again.
    """

    def __init__(self, host_address: str | None = None, *, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._engine = Engine(partial(host.find, host_address, self._environ))

    def close(self) -> None:
        """Close the connections to the engine; sandboxes go on."""
        self._engine.close()

    @property
    def owner(self) -> str:
        """Whose sandboxes these are: the value of the owner label."""
        return owner.current_owner(self._environ)

    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Start a sandbox and write its connection file; see `Launcher.start`.

        Raises `ImageNotFound`, `NameTaken`, `PolicyRefused` (max_running), `PolicyNotEnforceable`, `EngineUnavailable`
        or another `LaunchError`.
        """
        started = await starting.start(self._engine, self.owner, spec, self._environ)
        return Sandbox(
            name=spec.name,
            state="running",
            image=spec.image,
            network=spec.network,
            connection_file=started.connection_file,
            started_at=started.started_at,
            workspace=str(spec.workspace.path) if spec.workspace else None,
            image_id=started.image_id,
            container=started.container,
            reaches=reachable(egress_argument(spec)),
            lasts=lasting.told(lasting.limits(spec)),
            lifetime=lasting.by_age(lasting.limits(spec), started.started_at),
        )

    async def stop(self, name: str, *, only: str | None = None) -> bool:
        """End the sandbox and remove all that belongs to it; False where there is none of that name.

        With `only`, its container's id, another that has the name by now is left alone.
        """
        everything = await self._look(volumes=True)
        there = everything.of(owner.checked_name(name))
        if only:
            kernel = next((each for each in there.kernels() if each.id == only), None)
            if kernel is None:
                return False
            there = there.of_start(kernel.start)
        elif not there.kernels() and (kernel := self._find(name, everything)):
            raise composed.not_ours(name, kernel.connection_file, "down")
        await removal.remove(self._engine, there)
        return bool(there.containers or there.volumes or there.networks)

    async def sandboxes(self) -> list[Sandbox]:
        """Return every sandbox of this owner by name, also those that have ended and were not swept yet."""
        there = await self._look()
        kernels = [each for each in there.all_kernels() if each.cut_short or _is_sandbox(each)]
        found = await together(*(partial(self._describe, each, there) for each in kernels))
        return sorted((each for each in found if each is not None), key=lambda each: str(each.name))

    async def sweep(self, *, leftovers: bool = True) -> list[Sandbox]:
        """Remove what has ended, and with `leftovers` what was left behind by starts and bridges that were killed.

        Returns the sandboxes that had ended, each with how; running ones are never touched.
        """
        ended = [each for each in await self.sandboxes() if each.state == "ended" and not each.composed]
        there = await self._look(volumes=True)
        for kernel in there.kernels():
            if (kernel.ended or kernel.cut_short) and not kernel.under_way:
                await removal.remove(self._engine, there.of_start(kernel.start))
        if leftovers:
            await removal.sweep_leftovers(self._engine, self.owner, await self._look(volumes=True))
        return ended

    async def revive(self, name: str) -> None:
        """Bring back a lost gateway of a running kernel on exactly the ports it had; one that runs is left alone.

        Where the connection file is lost too, the engine chooses ports and the file is written anew.
        """
        there = await self._look()
        kernel = self._running(name, there)
        if kernel.is_composed:
            raise composed.not_ours(name, kernel.connection_file, "up")
        old = there.gateway(kernel)
        if old and old.state == "running":
            return
        info = await self._engine.info()
        if old and old.state == "created" and old.is_young(clock(info)):
            return  # another bridge is just starting it
        written = _written(kernel)
        asked_ports = connections.ports(written) if written and not kernel.socket_directory else None
        inspected = await self._engine.container(kernel.id)
        uid, _, gid = inspected["Config"]["User"].partition(":")
        able = capabilities.read(info)
        asked = gateway_document(
            image_id=inspected["Image"],
            image_environment=image.names(await self._engine.image(inspected["Image"])),
            uid=int(uid),
            gid=int(gid),
            volume=f"{owner.stem(name, self.owner)}.{kernel.start}",
            volume_shift=able.shift or (0, 0),
            labels={key: value for key, value in kernel.labels.items() if key in owner.ALL and key != owner.ROLE},
            ports=asked_ports,
            directory=kernel.socket_directory,
        )
        if old:
            await self._engine.remove(old.id)
        try:
            gateway = await self._engine.create(asked, f"{owner.stem(name, self.owner)}.gateway")
        except Conflict:
            return  # another bridge is just doing the same
        try:
            directories = starting.outside(kernel.socket_directory)
            made, inside = await starting.run_and_look(self._engine, gateway, directories)
            found = verification.gateway_problems(asked, made, inside, directories)
            gone = "That gateway was removed again; the kernel still runs and its variables are there."
            verification.refuse(f"the gateway of sandbox {name}", found, gone)
        except BaseException as error:
            await removal.drop(self._engine, gateway)
            if isinstance(error, Refused) and asked_ports:
                raise LaunchError(
                    f"The gateway of sandbox {name} could not come back on its ports {asked_ports} ({error.detail}). "
                    "The kernel still runs and its variables are there. Free the ports and try again."
                ) from error
            raise
        if written is None:
            await self.restore_connection_file(name)

    async def restore_connection_file(self, name: str) -> None:
        """Write a running sandbox's connection file again: the ports from the engine, a lost key from the supervisor.

        Only the key is taken from inside, and only if it is one: everything else there could have been changed.
        """
        there = await self._look()
        kernel = self._running(name, there)
        if kernel.is_composed:
            raise composed.not_ours(name, kernel.connection_file, "up")
        written = _written(kernel)
        key = written.key if written else await self._key_inside(name, kernel)
        if kernel.socket_directory:
            info = connections.over_sockets(key, kernel.socket_directory, kernel.start)
        else:
            gateway = there.gateway(kernel)
            if gateway is None:
                raise LaunchError(f"The gateway of sandbox {name} is lost too; bring it back first.")
            ports = verification.published_ports(await self._engine.container(gateway.id))
            info = connections.over_ports(key, ports, kernel.start)
        if not await removal.is_free(kernel.connection_file, there):
            raise LaunchError(
                f"{kernel.connection_file} is of another kernel, and something listens where it leads, as if that ran "
                f"in another engine of yours. So that of sandbox {name} of this engine cannot be written again; its "
                "kernel still runs and its variables are there. End the other one, or, if there is none, remove the "
                "file; then try again."
            )
        try:
            save(info, kernel.connection_file)
        except OSError as error:
            raise LaunchError(
                f"The connection file {kernel.connection_file} cannot be written again: {error.strerror}."
            ) from None

    async def _key_inside(self, name: str, kernel: Container) -> str:
        # what code inside put there may have no end: no link is followed, no writer waited for, and no more is read
        inside = await self._engine.execute(
            kernel.id,
            [READ, f"if={PRIVATE}/connection.json", "iflag=nofollow,nonblock", "bs=4096", "count=1", "status=none"],
        )
        try:
            key = str(json.loads(inside)["key"])
        except (ValueError, KeyError, TypeError, RecursionError):
            key = ""
        if not _KEY.fullmatch(key):
            raise LaunchError(
                f"The key of sandbox {name} could not be read back, so its connection file cannot be written again. "
                f"The kernel still runs, but nothing new can connect to it. Stop it (kernel-bridge stop {name}) and "
                "start it again."
            )
        return key

    async def restart_kernel(self, name: str) -> None:
        """End the kernel process; the supervisor starts another on the same ports with the same key."""
        await self._signal(name, "SIGHUP")

    async def interrupt_kernel(self, name: str) -> None:
        """Send the kernel's process group the interrupt signal, past its message channels."""
        await self._signal(name, "SIGINT")

    async def last_ending(self, name: str, since: datetime | None = None) -> str | None:
        """How the kernel process ended last, in one sentence; None where none has ended (after `since`)."""
        kernel = self._find(name, await self._look())
        if kernel is None:
            raise _none(name)
        # all of it: the engine counts a tail before it leaves out what the kernel wrote
        lines = await self._engine.logs(kernel.id, stdout=True, since=since)
        return endings.last_kernel_ending(lines, since)

    async def check(self) -> EngineFacts:
        """Ask the engine what it is and what it can do; raises `EngineUnavailable`."""
        return await checking.facts(self._engine, self._engine.endpoint())

    async def check_image(self, reference: str) -> str:
        """Return the id of the image that would be started; raises `ImageNotFound` or another `LaunchError`."""
        return (await checking.startable(self._engine, reference)).id

    async def check_leftovers(self) -> Leftovers:
        """Look what the next sweep would remove."""
        ended = tuple(each.name for each in await self.sandboxes() if each.state == "ended" and not each.composed)
        return checking.leftovers(ended, await self._look(volumes=True), self._environ)

    async def images(self) -> list[image.Built]:
        """Return the images in the engine that sandboxes can be started from, each tag by itself."""
        return image.built(await self._engine.images(image.LABEL))

    async def until_ended(self, name: str) -> None:
        """Return when the sandbox has ended: then its log does."""
        kernel = self._find(name, await self._look())
        if kernel is not None:
            await self._engine.follow(kernel.id, stdout=True, after="", show=lambda *_: None)

    async def log(self, name: str) -> list[LogLine]:
        """Return what a sandbox wrote so far, also one that has ended, in the order of time."""
        sources = self._sources(name, await self._look())
        streams = await together(
            *(partial(self._engine.timed_logs, each.id, stdout=stdout) for _, each, stdout in sources)
        )
        lines = [
            LogLine(time, source, text)
            for (source, _, _), stream in zip(sources, streams, strict=True)
            for time, text in stream
        ]
        return sorted(lines, key=lambda line: line.time)

    async def follow_log(self, name: str, show: Callable[[LogLine], None]) -> None:
        """Show what a sandbox wrote so far and what it goes on to write, until it ends; `show` may be in any thread."""
        lines = await self.log(name)
        for line in lines:
            show(line)
        after = lines[-1].time if lines else ""

        async def follow(source: Source, container: Container, stdout: bool) -> None:  # noqa: FBT001 - of a tuple
            await self._engine.follow(
                container.id, stdout=stdout, after=after, show=lambda time, text: show(LogLine(time, source, text))
            )

        await together(*(partial(follow, *each) for each in self._sources(name, await self._look())))

    def _sources(self, name: str, there: Inventory) -> list[tuple[Source, Container, bool]]:
        """Return who writes what: the kernel's container holds the supervisor's lines (stdout) and the kernel's own."""
        kernel = self._find(name, there)
        if kernel is None:
            raise _none(name)
        gateway = there.gateway(kernel)
        sources: list[tuple[Source, Container, bool]] = [("supervisor", kernel, True), ("kernel", kernel, False)]
        return [*sources, ("gateway", gateway, True)] if gateway else sources

    async def _signal(self, name: str, signal: str) -> None:
        kernel = self._running(name, await self._look())
        try:
            await self._engine.kill(kernel.id, signal)
        except (Missing, Conflict):
            raise _none(name) from None

    async def _look(self, *, volumes: bool = False) -> Inventory:
        return await look(self._engine, self.owner, volumes=volumes)

    def _find(self, name: str, there: Inventory) -> Container | None:
        owner.checked_name(name)  # also where there is no sandbox to compare it with
        found = [each for each in there.all_kernels() if each.name == name and not each.under_way]
        if len(found) > 1:
            files = ", ".join(str(each.connection_file) for each in found)
            raise AmbiguousKernel(
                f"Several sandboxes are called {name} ({files}), so nothing was done. Give a docker compose project's "
                "kernel another name (KERNEL_NAME in its .env), or stop one of them."
            )
        return found[0] if found else None

    def _running(self, name: str, there: Inventory) -> Container:
        kernel = self._find(name, there)
        if kernel is not None and kernel.state == "paused":
            raise LaunchError(
                f"Sandbox {name} is paused, so nothing can be done in it. Wake it: docker unpause {kernel.id[:12]}"
            )
        if kernel is None or kernel.state != "running":
            raise _none(name)
        return kernel

    async def _describe(self, kernel: Container, there: Inventory) -> Sandbox | None:
        try:
            inspected = await self._engine.container(kernel.id)
        except Missing:  # removed since the listing
            return None
        state = inspected.get("State") or {}
        ended = kernel.cut_short or state.get("Status") in ("exited", "dead")
        started_at = str(state.get("StartedAt", ""))
        how = "its start was cut short" if kernel.cut_short else endings.container_ending(inspected)
        labels = kernel.labels
        limits = lasting.read(labels.get(owner.ENDS, ""))
        over = endings.over(inspected) if ended else None
        return Sandbox(
            name=kernel.name,
            state="ended" if ended else _state(kernel, there, inspected),
            image=labels.get(owner.IMAGE, ""),
            network=labels.get(owner.NETWORK, ""),
            connection_file=kernel.connection_file,
            started_at=started_at,
            workspace=labels.get(owner.WORKSPACE) or None,
            reaches=reachable(labels.get(owner.EGRESS, "")),
            moved=not ended and _has_moved(kernel, there),
            composed=kernel.is_composed,
            image_id=inspected.get("Image"),
            container=kernel.id,
            ending=(over[1] if over else how) if ended else None,
            lasts=lasting.told(limits),
            lifetime=None if ended else lasting.by_age(limits, started_at),
            unused=None if ended else await self._unused(kernel, limits, started_at),
            over=over[0] if over else None,
        )

    async def _unused(self, kernel: Container, limits: lasting.Limits, started_at: str) -> End | None:
        """Return when it ends as unused; the supervisor's lines are only read where it may have said so."""
        since = lasting.asked_since(limits, started_at, datetime.now(UTC))
        if since is None:
            return None
        try:
            lines = await self._engine.logs(kernel.id, stdout=True, since=since)
        except Missing:
            return None
        return lasting.by_word(limits, endings.last_word_on_its_end(lines))


def _is_sandbox(kernel: Container) -> bool:
    return kernel.state not in ("created", "removing") and not kernel.under_way


def _state(kernel: Container, there: Inventory, inspected: Mapping[str, Any]) -> State:
    if (inspected.get("State") or {}).get("Paused"):
        return "paused"
    gateway = there.gateway(kernel)
    return "running" if gateway and gateway.state == "running" else "unreachable"


def _there(kernel: Container) -> ConnectionInfo | None:
    try:
        return load(kernel.connection_file)
    except BadConnectionFile:
        return None


def _written(kernel: Container) -> ConnectionInfo | None:
    """Return what was written for this very sandbox: in another engine another may have its name, and so its file."""
    there = _there(kernel)
    return there if there and there.is_of(kernel.start) else None


def _has_moved(kernel: Container, there: Inventory) -> bool:
    """Tell whether its connection file does not lead to its gateway; compose's has the ports that its `.env` says."""
    gateway = there.gateway(kernel)
    if gateway is None or gateway.state != "running" or kernel.is_composed:
        return False
    found = _there(kernel)
    if found is None:
        return False
    return not found.is_of(kernel.start) or bool(gateway.ports and connections.ports(found) != gateway.ports)


def _none(name: str) -> NoSuchKernel:
    return NoSuchKernel(
        f"No sandbox of yours named {name} is running. See which there are (kernel-bridge ls), or start it "
        f"(kernel-bridge up {name})."
    )
