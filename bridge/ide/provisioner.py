"""`kernel-bridge` among Jupyter's kernel provisioners: what uses jupyter_client starts its kernels in our sandboxes.

The one rule: a KernelManager says nothing to the kernel by itself. It would send a shared kernel a shutdown_request and
interrupt whoever's cell runs in it before it asks anybody, and unlink the Unix sockets of one that lives on; so all of
it goes through here, and what is not owned is left alone.

The contract is jupyter_client's `KernelProvisionerBase`; the configuration is the kernelspec's
`metadata.kernel_provisioner.config`: `kernel` (a shared sandbox's name; without it each start is a sandbox of its own),
`owner` (the one of that name is started where it is missing, and ends with this), `policy`, `engine`, `sandbox`.
"""

from __future__ import annotations

import inspect
import os
import signal
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from jupyter_core.utils import run_sync
from traitlets import Bool, Dict, Unicode

from bridge.audit import Who
from bridge.connection import ConnectionInfo
from bridge.errors import BridgeError, NotOurs, UsageError
from bridge.ide import inside
from bridge.ide.background import Background, background
from bridge.ide.configuration import refuse_unknown, requested, working_directory
from bridge.ide.joining import Joining
from bridge.ide.process import KernelProcess
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.policy import SandboxRequest, find

CONFIG = ("kernel", "owner", "policy", "engine", "sandbox")


class SandboxProvisioner(KernelProvisionerBase):
    """Provides one KernelManager with a kernel in a sandbox of ours, or with one that is shared."""

    kernel = Unicode(None, allow_none=True)
    owner = Bool(False)  # noqa: FBT003 - traitlets' own way
    policy = Unicode(None, allow_none=True)
    engine = Unicode(None, allow_none=True)
    sandbox = Dict()

    def __init__(self, **given: Any) -> None:
        refuse_unknown(set(given) - {"kernel_id", "kernel_spec", "parent"}, CONFIG, "kernel_provisioner.config")
        super().__init__(**given)
        self._process: KernelProcess | None = None
        self._managed = False
        self._directory = Path.cwd()
        self._environ: dict[str, str] = {}
        """With the kernelspec's own `env`."""
        self._limit: int | None = None
        """Of the auto-restarter, while it is held back."""

    # -- as jupyter_client asks

    @property
    def has_process(self) -> bool:
        """Whether a kernel was started, and its end not yet taken note of by `wait` or `cleanup`."""
        return self._managed

    async def poll(self) -> int | None:
        """Return None while the kernel's process runs; costs nothing, the connection to the kernel tells by itself."""
        if self._process is None:
            return 0
        if self._process.gone:
            self._hold_back()
        return self._process.returncode

    async def wait(self) -> int | None:
        """Wait until the process has ended, and return its exit code."""
        process = self._process
        if process is None:
            return 0
        if process.returncode is None:
            await self._background.run(process.until_ended())
        self._managed = False
        return process.returncode

    async def send_signal(self, signum: int) -> None:
        """Interrupt, end, or only look, as the number says; raises `UsageError` for any other.

        While a shared kernel is being left nobody's cell is interrupted.
        """
        process = self._process
        if process is None or process.returncode is not None or signum == 0:
            return
        if signum == signal.SIGINT:
            await self._interrupt(process)
            return
        if signum not in (signal.SIGTERM, signal.SIGKILL):
            raise UsageError(f"Signal {signum} cannot be sent into a sandbox; SIGINT, SIGTERM and SIGKILL can.")
        if not process.owned:
            raise NotOurs(f"Kernel {self.kernel} is shared, so it is not ended from here.")
        await self._background.run(process.kill())

    async def kill(self, restart: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - the contract's; it is not told the truth
        """End an owned kernel's process past its channels; leave a shared kernel."""
        if self._process is not None and not self._process.closed:
            await self._background.run(self._process.kill())

    async def terminate(self, restart: bool = False) -> None:  # noqa: FBT001, FBT002
        """As `kill`: who comes here has asked politely before."""
        await self.kill(restart)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Take over what the KernelManager would do to the kernel by itself, and note where it is started."""
        kwargs = await super().pre_launch(**kwargs)
        self._directory, self._environ = _absolute(kwargs.get("cwd")), kwargs["env"]
        self._take_over()
        return {**kwargs, "cmd": ["kernel-bridge", self.kernel or "sandbox"]}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:  # noqa: ARG002 - the contract's
        """Start or join the kernel and return where it listens.

        Nothing of the server's environment goes into a sandbox but what the configuration names and the policy allows.
        Raises a `BridgeError` that says why not. Only where an auto-restarter would then leave the kernel "starting"
        for ever, it is dead from the beginning instead.
        """
        before = self.connection_info
        try:
            await self._launch()
        except BridgeError as error:
            if not before or self._restarter is None or self._process is None:
                raise
            self.log.error("%s", error)  # noqa: TRY400 - the text is complete
            self._process.gone = True
        self._managed = True
        return self.connection_info

    async def post_launch(self, **kwargs: Any) -> None:  # noqa: ARG002 - the contract's
        """Have an owned sandbox ended where its kernel is given up for dead, which is told in no other way."""
        self._manager.remove_restart_callback(self._given_up, "dead")
        self._manager.add_restart_callback(self._given_up, "dead")

    async def shutdown_requested(self, restart: bool = False) -> None:  # noqa: FBT001, FBT002
        """Ask an owned kernel to end by itself; leave a shared one."""
        if self._process is not None and not self._process.closed:
            await self._background.run(self._process.shut_down(restart=restart))

    async def cleanup(self, restart: bool = False) -> None:  # noqa: FBT001, FBT002
        """Stop an owned sandbox and remove all of it, unless its kernel is only restarted."""
        if not restart and self._process is not None:
            self._managed = False
            await self._close(self._process)

    async def get_provisioner_info(self) -> dict[str, Any]:
        """Return what another process needs to go on with this kernel; the key is not part of it.

        Whoever asks means the kernel to outlive this process, so its end does not stop the sandbox any more.
        """
        info = await super().get_provisioner_info()
        process = self._process
        if process is not None:
            await self._background.run(process.let_go())
        where = {name: value for name, value in self.connection_info.items() if name != "key"}
        return {**info, "connection_info": where, "kernel": None if process is None else process.joining.name}

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Go on with a kernel of an earlier process; raises `BridgeError` where it is not there any more."""
        await super().load_provisioner_info(provisioner_info)
        self._take_over()
        process = self._process = self._new_process(provisioner_info["kernel"], None)
        try:
            await self._start(process, None)
        except BaseException:
            await self._background.run(process.let_go())
            raise
        self._managed = True

    # -- inside

    def _take_over(self) -> None:
        """Have all go through here that the KernelManager would do to the kernel before it asks anybody."""
        manager = self._manager
        manager.kernel_spec.interrupt_mode = "signal"  # which means `send_signal`
        request = self.shutdown_requested
        is_async = inspect.iscoroutinefunction(manager.request_shutdown)
        manager._async_request_shutdown = request  # noqa: SLF001 - there is no other way; it is what shutdown_kernel calls
        manager.request_shutdown = request if is_async else run_sync(request)
        manager.cleanup_ipc_files = lambda: None

    async def _launch(self) -> None:
        request = requested(self.kernel or "", self.sandbox, self._directory, self._environ)
        if self._process is not None and self._process.gone:
            # Whatever is being closed of it is not to be taken for the next one's: that would never be closed.
            await self._close(self._process)
        if self._process is None or self._process.closed:
            self._process = self._new_process(self.kernel, request)
        process, is_restart = self._process, bool(self.connection_info)
        try:
            is_new = await self._start(process, working_directory(request, self._directory))
        except BaseException:
            await self._close(process)
            raise
        self._let_go()
        if is_restart and not is_new:
            await self._tell_that_nothing_was_restarted(process)

    async def _start(self, process: KernelProcess, directory: Path | None) -> bool:
        joined, is_new = await self._background.run(process.start(directory), cancellable=True)
        self.connection_info = _as_jupyter_has_it(joined.info)
        return is_new

    def _new_process(self, name: str | None, request: SandboxRequest | None) -> KernelProcess:
        policy = find(Path(self.policy).expanduser() if self.policy else None)
        username, engine = os.environ.get("USER") or "ide", self.engine
        joining = Joining(
            lambda: Kernels(policy, lambda: DockerLauncher(engine), username=username, who=Who("provisioner")),
            name,
            owner=self.kernel is None or bool(self.owner),
            request=request,
            engine=engine,
        )
        return KernelProcess(joining, self.log, self._background.kept, username=username)

    async def _tell_that_nothing_was_restarted(self, process: KernelProcess) -> None:
        text = process.joining.was_not_restarted
        self.log.warning("%s", text)
        await self._background.run(process.run_hidden(inside.tell_once(f"kernel-bridge: {text}")))

    async def _interrupt(self, process: KernelProcess) -> None:
        """Interrupt whatever runs, but in a shared kernel that is only being left."""
        is_leaving = self._manager.shutting_down
        if is_leaving and not process.owned:
            return
        try:
            await self._background.run(process.interrupt())
        except BridgeError as error:
            if not is_leaving:
                raise
            self.log.warning("%s", error)  # what comes next ends it all the same

    async def _close(self, process: KernelProcess) -> None:
        if not process.closed:
            await self._background.run(process.close())

    # -- the auto-restarter, where there is one

    @property
    def _restarter(self) -> Any:
        return getattr(self.parent, "_restarter", None)

    def _hold_back(self) -> None:
        """Have a kernel that is gone told dead at the next look, instead of after five starts that cannot succeed."""
        if self._restarter is not None and self._limit is None:
            self._limit, self._restarter.restart_limit = self._restarter.restart_limit, 0

    def _let_go(self) -> None:
        if self._restarter is not None and self._limit is not None:
            self._restarter.restart_limit, self._limit = self._limit, None

    def _given_up(self) -> None:
        if self._process is not None and not self._process.closed:
            self._background.begin(self._process.close())

    @property
    def _manager(self) -> Any:
        return self.parent

    @property
    def _background(self) -> Background:
        return background()


def _as_jupyter_has_it(info: ConnectionInfo) -> KernelConnectionInfo:
    """Return a kernel's address as KernelManager compares it with its own."""
    return {
        "transport": info.transport,
        "ip": info.ip,
        "shell_port": info.shell_port,
        "iopub_port": info.iopub_port,
        "stdin_port": info.stdin_port,
        "control_port": info.control_port,
        "hb_port": info.hb_port,
        # whatever is declared there, bytes are what it is compared with
        "key": info.key.encode(),  # type: ignore[typeddict-item]
        "signature_scheme": info.signature_scheme,
    }


def _absolute(directory: str | os.PathLike[str] | None) -> Path:
    return Path(directory or Path.cwd()).absolute()
