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
from bridge.errors import EngineUnavailable, LaunchError, NameTaken, PolicyNotEnforceable, PolicyRefused
from bridge.launchers.docker import (
    capabilities,
    connections,
    endings,
    image,
    lasting,
    near,
    owner,
    places,
    removal,
    underway,
    verification,
    workspaces,
)
from bridge.launchers.docker.border import Conflict, Missing, NoAddresses, Refused
from bridge.launchers.docker.document import OUTSIDE, Document, Documents, Facts, documents
from bridge.launchers.docker.engine import Engine, Stdin, together
from bridge.launchers.docker.inventory import Inventory, look
from bridge.launchers.docker.verification import Directory
from bridge.policy import SandboxSpec

SETTLING = 1
"""Seconds in which a container ends for good of which something was seen to have ended."""


@dataclass(frozen=True)
class Started:
    """What came of it."""

    connection_file: Path
    started_at: str
    image_id: str
    container: str


async def start(engine: Engine, who: str, spec: SandboxSpec, environ: Mapping[str, str] = os.environ) -> Started:
    """Start one sandbox; see `Launcher.start`."""
    owner.checked_name(spec.name)
    number = secrets.token_hex(8)
    connection_file = runtime_directory() / owner.connection_file_name(spec.name)
    with contextlib.ExitStack() as held:
        try:
            mark = underway.Mark(connection_file, number)
        except OSError as error:
            raise _unwritable(connection_file, error, "nothing was started") from None
        held.callback(mark.close)
        made = _Start(
            engine, who, spec, number=number, connection_file=connection_file, mark=mark, environ=environ, held=held
        )
        try:
            return await made.run()
        except BaseException as error:
            try:
                explained = await made.explain(error)
            finally:  # it may be cancelled in that too
                undone = await removal.undo(engine, who, number, made.socket_directory)
                # an engine that has not answered may do what it was asked for when all was removed
                if undone and not isinstance(error, EngineUnavailable):
                    with contextlib.suppress(OSError):  # the next sweep removes it
                        mark.remove()
            if explained:
                raise explained from error
            raise


async def run_and_look(engine: Engine, container: str, directories: list[Directory]) -> tuple[dict[str, Any], str]:
    """Start a container; returns what `verification` reads: the engine's view of it, and its own."""
    await engine.start(container)
    command = verification.look_inside(directories)
    inspected, inside = await together(
        partial(engine.container, container), partial(engine.execute, container, command)
    )
    return inspected, inside


def _unwritable(connection_file: Path, error: OSError, outcome: str) -> LaunchError:
    return LaunchError(
        f"The connection file {connection_file} could not be written ({error.strerror}), so {outcome}. Make it "
        "writable, with room in it, or set JUPYTER_RUNTIME_DIR to one that is."
    )


def outside(socket_directory: Path | None) -> list[Directory]:
    """Return what the gateway must have in that directory's place, with network none."""
    if socket_directory is None:
        return []
    try:
        about = socket_directory.stat()
    except OSError as error:
        raise LaunchError(
            f"The directory of the kernel's sockets, {socket_directory}, is gone: {error.strerror}."
        ) from None
    return [Directory(OUTSIDE, about.st_dev, about.st_ino)]


class _Start:
    """The steps, in the order in which they are done."""

    def __init__(
        self,
        engine: Engine,
        who: str,
        spec: SandboxSpec,
        *,
        number: str,
        connection_file: Path,
        mark: underway.Mark,
        environ: Mapping[str, str],
        held: contextlib.ExitStack,
    ) -> None:
        self._engine = engine
        self._who = who
        self._spec = spec
        self._number = number
        self._connection_file = connection_file
        self._mark = mark
        self._environ = environ
        self._held = held
        self._kernel: str | None = None
        self._network: str | None = None
        self._hidden: list[Directory] = []
        self._release = ""
        self.socket_directory: Path | None = None

    async def run(self) -> Started:
        facts = await self._gather()
        asked = documents(self._spec, facts)
        self._kernel = await self._claim(asked)
        if asked.network:
            self._network = await self._make_network(asked.network)
        (stdin, kernel, inside), (gateway, beside), _ = await together(
            partial(self._run_kernel, self._kernel), partial(self._run_gateway, asked), self._recount
        )
        network = await self._engine.network(self._network) if self._network else None
        self._verify(asked, kernel, inside, gateway, beside, network)
        key = secrets.token_hex(32)
        spec = self._spec
        line = connections.orders(
            key,
            spec.environment,
            proxy=bool(spec.egress),
            certificates=spec.certificates,
            limits=lasting.limits(spec),
        )
        await self._engine.send(stdin, line)
        outside = self._connection(key, gateway)
        try:
            self._mark.remove()  # before the file: what has one is a sandbox, whoever ends now
            save(outside, facts.connection_file)
        except OSError as error:
            raise _unwritable(facts.connection_file, error, "the sandbox was removed again") from None
        return Started(facts.connection_file, kernel["State"]["StartedAt"], facts.image_id, kernel["Id"])

    async def _gather(self) -> Facts:
        spec = self._spec
        info, picture, there = await together(
            self._engine.info, self._inspect_image, partial(look, self._engine, self._who, volumes=False)
        )
        chosen = image.checked(spec.image, picture)
        connection_file = self._connection_file
        self._refuse_too_many(there)
        if any(each.connection_file == connection_file and not each.ended for each in there.others):
            raise NameTaken(
                f"Another owner's sandbox {spec.name} uses {connection_file}. Nothing was started. Choose another "
                "name, or set JUPYTER_RUNTIME_DIR to a directory of your own."
            )
        if not await removal.is_free(connection_file, there):
            raise NameTaken(
                f"{connection_file} is of a kernel that this engine does not have, and something listens where it "
                f"leads, as if a sandbox {spec.name} of another engine of yours ran. Nothing was started. Choose "
                "another name, or end that one; if there is none, remove the file."
            )
        if holder := next((each for each in there.composed if each.name == spec.name), None):
            raise NameTaken(
                f"A docker compose project's kernel is named {spec.name} already ({holder.connection_file}). Nothing "
                "was started. Connect to it, or choose another name."
            )
        able = capabilities.read(info)
        capabilities.refuse(spec, able)
        self._release = able.release
        taken = {each.uid for each in (*there.containers, *there.composed, *there.others)}
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
            known = (each.connection_file.parent for each in (*there.composed, *there.others) if each.is_composed)
            self._hidden = workspaces.to_hide(spec.workspace, known)
        if spec.network == "none":
            self.socket_directory = places.make_socket_directory(user, self._held, self._environ)
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
            near=near.networks() if spec.egress else (),
            hidden=tuple(Path(each.path) for each in self._hidden),
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
            if holder and holder.under_way:
                raise NameTaken(
                    f"A sandbox named {self._spec.name} is just being started by somebody else. Nothing was started. "
                    "Connect to it in a moment, or choose another name."
                )
            if holder is None or not (holder.ended or holder.cut_short):
                break
            await removal.remove(self._engine, there)
        raise NameTaken(
            f"A sandbox named {self._spec.name} is there already. Nothing was started. Connect to it, choose another "
            f"name, or end it first (kernel-bridge stop {self._spec.name})."
        )

    async def _make_network(self, asked: Document) -> str:
        """Make the kernel's own network; it begins after the claim, so that no sweep takes it for a leftover."""
        try:
            return await self._engine.create_network(asked)
        except NoAddresses as error:
            there = await self._engine.networks()
            ours = [each for each in there if owner.OWNER in (each.get("Labels") or {})]
            raise LaunchError(
                f"Sandbox {self._spec.name} was not started: with network open it gets a network of its own, and the "
                f"engine has no addresses left for one ({len(there)} networks are there, {len(ours)} of sandboxes). "
                "Nothing of it is left. Stop sandboxes with network open that are not needed any more (kernel-bridge "
                "ls), remove networks without containers (docker network prune), give the engine more addresses "
                "(default-address-pools in its daemon.json), or use network isolated, which needs none."
            ) from error

    async def _run_kernel(self, kernel: str) -> tuple[Stdin, dict[str, Any], str]:
        # attached before it starts: the supervisor's stdin is open from its first instruction on
        stdin = await self._engine.attach(kernel)
        self._held.callback(stdin.close)
        inspected, inside = await run_and_look(self._engine, kernel, [*self._workspace(), *self._hidden])
        return stdin, inspected, inside

    async def _run_gateway(self, asked: Documents) -> tuple[dict[str, Any], str]:
        try:
            gateway = await self._engine.create(asked.gateway, asked.gateway_name)
        except Conflict:
            # The name of the sandbox is ours by now: what still has the gateway's was left behind by an earlier one.
            there = (await look(self._engine, self._who)).of(self._spec.name)
            await removal.remove(self._engine, there.without(self._number))
            gateway = await self._engine.create(asked.gateway, asked.gateway_name)
        return await run_and_look(self._engine, gateway, outside(self.socket_directory))

    async def _recount(self) -> None:
        """Count again now that ours is there: two starts at the same time see each other here, if not before."""
        self._refuse_too_many(await look(self._engine, self._who, volumes=False))

    def _workspace(self) -> list[Directory]:
        workspace = self._spec.workspace
        return [Directory(str(workspace.path), workspace.device, workspace.inode)] if workspace else []

    def _verify(
        self,
        asked: Documents,
        kernel: Mapping[str, Any],
        inside: str,
        gateway: Mapping[str, Any],
        beside: str,
        network: Mapping[str, Any] | None,
    ) -> None:
        problems = verification.container_problems(asked.kernel, kernel)
        problems += verification.network_problems(asked.kernel, kernel)
        if asked.network:
            problems += verification.own_network_problems(asked.network, network or {}, kernel)
        problems += verification.inside_problems(
            asked.kernel, inside, self._workspace(), self._hidden, release=self._release
        )
        found = verification.gateway_problems(asked.gateway, gateway, beside, outside(self.socket_directory))
        problems += [f"of the gateway: {each}" for each in found]
        verification.refuse(f"sandbox {self._spec.name}", problems)

    def _connection(self, key: str, gateway: Mapping[str, Any]) -> ConnectionInfo:
        if self.socket_directory:
            return connections.over_sockets(key, self.socket_directory, self._number)
        return connections.over_ports(key, verification.published_ports(gateway), self._number)

    async def explain(self, error: BaseException) -> LaunchError | PolicyNotEnforceable | None:
        """Where the kernel's container ended meanwhile, that is the reason, and not what it made fail."""
        if self._kernel is None or not isinstance(error, LaunchError) or isinstance(error, NameTaken | PolicyRefused):
            return None
        if isinstance(error, Refused):
            if incomplete := image.incomplete(self._spec.image, error.detail):
                return incomplete
            if without := capabilities.without_gpus(self._spec, error.detail):
                return without
        with contextlib.suppress(LaunchError), anyio.move_on_after(5.0):
            return await self._explain_end(self._kernel)
        return None

    async def _explain_end(self, kernel: str) -> LaunchError | PolicyNotEnforceable | None:
        try:
            await self._engine.wait(kernel, SETTLING)
            inspected = await self._engine.container(kernel)
        except Missing:
            return LaunchError(
                f"Sandbox {self._spec.name} was stopped while it was being started. Nothing of it is left."
            )
        if (inspected.get("State") or {}).get("Status") not in ("exited", "dead"):
            return None
        said = endings.failure(await self._engine.logs(kernel, stdout=True, tail=20))
        wrote = await self._engine.logs(kernel, stdout=False, tail=20)
        return image.incomplete(self._spec.image, wrote) or LaunchError(
            f"The container of sandbox {self._spec.name} ended as soon as it was started: "
            f"{said or endings.container_ending(inspected)}. Everything of it was removed."
        )
