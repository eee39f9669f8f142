"""One start: from a decided spec to two sealed, verified containers and a connection file.

The one rule: the key is handed over only after everything was verified, and whatever happens before the connection file
is there (an error, a cancellation at any await) ends with nothing left of this start.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from bridge.connection import ConnectionInfo, runtime_directory, save
from bridge.errors import LaunchError, NameTaken, PolicyRefused
from bridge.launchers.docker import (
    capabilities,
    connections,
    endings,
    image,
    owner,
    places,
    removal,
    verification,
    workspaces,
)
from bridge.launchers.docker.border import Conflict, Missing, Refused
from bridge.launchers.docker.document import OUTSIDE, Documents, Facts, documents
from bridge.launchers.docker.engine import Engine, Stdin, together
from bridge.launchers.docker.inventory import Inventory, look
from bridge.launchers.docker.verification import Directory
from bridge.policy import SandboxSpec


@dataclass(frozen=True)
class Started:
    """What came of it."""

    connection_file: Path
    started_at: str


async def start(engine: Engine, who: str, spec: SandboxSpec, environ: Mapping[str, str] = os.environ) -> Started:
    """Start one sandbox; see `Launcher.start`."""
    owner.checked_name(spec.name)
    number = secrets.token_hex(8)
    with contextlib.ExitStack() as held:
        made = _Start(engine, who, spec, number=number, environ=environ, held=held)
        try:
            return await made.run()
        except BaseException as error:
            explained = await made.explain(error)
            await removal.undo(engine, who, number, made.socket_directory)
            if explained:
                raise explained from error
            raise


class _Start:
    """The steps, in the order in which they are done."""

    def __init__(
        self,
        engine: Engine,
        who: str,
        spec: SandboxSpec,
        *,
        number: str,
        environ: Mapping[str, str],
        held: contextlib.ExitStack,
    ) -> None:
        self._engine = engine
        self._who = who
        self._spec = spec
        self._number = number
        self._environ = environ
        self._held = held
        self._kernel: str | None = None
        self.socket_directory: Path | None = None

    async def run(self) -> Started:
        facts = await self._gather()
        asked = documents(self._spec, facts)
        self._kernel = await self._claim(asked)
        (stdin, kernel, inside), (gateway, beside), _ = await together(
            partial(self._run_kernel, self._kernel), partial(self._run_gateway, asked), self._recount
        )
        self._verify(asked, kernel, inside, gateway, beside)
        key = secrets.token_hex(32)
        await self._engine.send(stdin, connections.orders(key, self._spec.environment))
        outside = self._connection(key, gateway)
        try:
            save(outside, facts.connection_file)
        except OSError as error:
            raise LaunchError(
                f"The connection file {facts.connection_file} could not be written ({error.strerror}), so the sandbox "
                "was removed again. Make it writable, with room in it, or set JUPYTER_RUNTIME_DIR to one that is."
            ) from None
        return Started(facts.connection_file, kernel["State"]["StartedAt"])

    async def _gather(self) -> Facts:
        spec = self._spec
        info, picture, there = await together(
            self._engine.info, self._inspect_image, partial(look, self._engine, self._who, volumes=False)
        )
        chosen = image.checked(spec.image, picture)
        connection_file = runtime_directory() / removal.connection_file_name(spec.name)
        self._refuse_too_many(there)
        if any(each.connection_file == connection_file and not each.ended for each in there.others):
            raise NameTaken(
                f"Another owner's sandbox {spec.name} uses {connection_file}. Nothing was started. Choose another "
                "name, or set JUPYTER_RUNTIME_DIR to a directory of your own."
            )
        able = capabilities.read(info)
        capabilities.refuse(spec, able)
        taken = {each.uid for each in (*there.containers, *there.others)}
        caller = places.User(os.geteuid(), os.getegid())
        files_owner = workspaces.owner_of(spec.workspace) if spec.workspace else None
        if able.mapped:
            user = places.own_user(places.MAPPED_UIDS, taken)
        else:
            user = places.choose_user(spec, caller, files_owner, places.OWN_UIDS, taken)
        if spec.workspace:
            sockets = places.socket_parent(self._environ)
            workspaces.refuse_private(spec.workspace, self._engine.endpoint().socket, sockets, connection_file.parent)
            workspaces.check_access(spec.workspace, None if able.mapped else user, caller)
        if spec.network == "none":
            self.socket_directory = places.make_socket_directory(user, self._environ)
        return Facts(
            owner=self._who,
            start=self._number,
            image_id=chosen.id,
            image_environment=chosen.environment,
            uid=user.uid,
            gid=user.gid,
            connection_file=connection_file,
            timezone=places.timezone(self._environ),
            engine_cpus=able.cpus,
            socket_directory=self.socket_directory,
            volume_shift=able.shift or (0, 0),
        )

    async def _inspect_image(self) -> dict[str, Any]:
        try:
            return await self._engine.image(self._spec.image)
        except Missing:
            raise image.missing(self._spec.image) from None

    def _refuse_too_many(self, there: Inventory) -> None:
        running = sorted(each.name for each in there.running() if each.start != self._number)
        if len(running) >= self._spec.max_running:
            raise PolicyRefused(
                f"Sandbox {self._spec.name} was not started: the policy allows {self._spec.max_running} to run at the "
                f"same time (max_running), and there are {len(running)} already ({', '.join(running)}). Stop one that "
                "is not needed any more (kernel-bridge stop NAME)."
            )

    async def _claim(self, asked: Documents) -> str:
        """Create the kernel's container: its name is the claim, and the engine lets only one have it."""
        for _ in range(2):
            with contextlib.suppress(Conflict):
                return await self._engine.create(asked.kernel, asked.kernel_name)
            there = (await look(self._engine, self._who)).of(self._spec.name)
            holder = there.kernel(self._spec.name)
            if holder is None or not (holder.ended or holder.abandoned):
                break
            await removal.remove(self._engine, there)
        raise NameTaken(
            f"A sandbox named {self._spec.name} is there already. Nothing was started. Connect to it, choose another "
            f"name, or end it first (kernel-bridge stop {self._spec.name})."
        )

    async def _run_kernel(self, kernel: str) -> tuple[Stdin, dict[str, Any], str]:
        # attached before it starts: the supervisor's stdin is open from its first instruction on
        stdin = await self._engine.attach(kernel)
        self._held.callback(stdin.close)
        await self._engine.start(kernel)
        command = verification.look_inside(self._workspace())
        inspected, inside = await together(
            partial(self._engine.container, kernel), partial(self._engine.execute, kernel, command)
        )
        return stdin, inspected, inside

    async def _run_gateway(self, asked: Documents) -> tuple[dict[str, Any], str]:
        try:
            gateway = await self._engine.create(asked.gateway, asked.gateway_name)
        except Conflict:
            # The name of the sandbox is ours by now: what still has the gateway's was left behind by an earlier one.
            there = (await look(self._engine, self._who)).of(self._spec.name)
            await removal.remove(self._engine, there.without(self._number))
            gateway = await self._engine.create(asked.gateway, asked.gateway_name)
        await self._engine.start(gateway)
        command = verification.look_inside(self._outside())
        inspected, inside = await together(
            partial(self._engine.container, gateway), partial(self._engine.execute, gateway, command)
        )
        return inspected, inside

    async def _recount(self) -> None:
        """Count again now that ours is there: two starts at the same time see each other here, if not before."""
        self._refuse_too_many(await look(self._engine, self._who, volumes=False))

    def _workspace(self) -> list[Directory]:
        workspace = self._spec.workspace
        return [Directory(str(workspace.path), workspace.device, workspace.inode)] if workspace else []

    def _outside(self) -> list[Directory]:
        if self.socket_directory is None:
            return []
        about = self.socket_directory.stat()
        return [Directory(OUTSIDE, about.st_dev, about.st_ino)]

    def _verify(
        self, asked: Documents, kernel: Mapping[str, Any], inside: str, gateway: Mapping[str, Any], beside: str
    ) -> None:
        problems = verification.container_problems(asked.kernel, kernel)
        problems += verification.network_problems(asked.kernel, kernel)
        problems += verification.inside_problems(asked.kernel, inside, self._workspace())
        found = verification.container_problems(asked.gateway, gateway)
        found += verification.network_problems(asked.gateway, gateway)
        found += verification.inside_problems(asked.gateway, beside, self._outside())
        problems += [f"of the gateway: {each}" for each in found]
        verification.refuse(self._spec.name, problems)

    def _connection(self, key: str, gateway: Mapping[str, Any]) -> ConnectionInfo:
        if self.socket_directory:
            return connections.over_sockets(key, self.socket_directory)
        return connections.over_ports(key, verification.published_ports(gateway))

    async def explain(self, error: BaseException) -> LaunchError | None:
        """Where the kernel's container ended meanwhile, that is the reason, and not what it made fail."""
        if self._kernel is None or not isinstance(error, LaunchError) or isinstance(error, NameTaken | PolicyRefused):
            return None
        if isinstance(error, Refused) and (incomplete := image.incomplete(self._spec.image, error.detail)):
            return incomplete
        with contextlib.suppress(LaunchError), anyio.move_on_after(5.0):
            inspected = await self._engine.container(self._kernel)
            if (inspected.get("State") or {}).get("Status") not in ("exited", "dead"):
                return None
            said = endings.failure(await self._engine.logs(self._kernel, stdout=True, tail=20))
            wrote = await self._engine.logs(self._kernel, stdout=False, tail=20)
            return image.incomplete(self._spec.image, wrote) or LaunchError(
                f"The container of sandbox {self._spec.name} ended as soon as it was started: "
                f"{said or endings.container_ending(inspected)}. Everything of it was removed."
            )
        return None
