"""A terminal on a shared kernel: jupyter console, started on a relay of its own.

The one rule: leaving ends the relay alone. So Ctrl-C interrupts, as for a kernel that the console started, and Ctrl-D
and `exit` leave, as for one that it did not.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_console.app import ZMQTerminalIPythonApp  # type: ignore[import-untyped]

KERNELSPEC = "kernel-bridge-attached"


class Console(ZMQTerminalIPythonApp):  # type: ignore[misc] # it has no types
    """Jupyter console that leaves what it is on."""

    def init_shell(self) -> None:
        """Make the shell, which is told that it owns nothing, for what it owns it shuts down."""
        super().init_shell()
        self.shell.own_kernel = False
        run_cell = self.shell.run_cell

        def run_and_look(*arguments: Any, **options: Any) -> None:
            run_cell(*arguments, **options)
            if not self.kernel_manager.is_alive():
                self.shell.ask_exit()  # the reason stands in the output

        self.shell.run_cell = run_and_look

    def start(self) -> None:
        """Run until the person leaves, then end the relay."""
        try:
            super().start()
        finally:
            self.kernel_manager.shutdown_kernel()


def attach(kernelspec: Mapping[str, Any], arguments: list[str]) -> None:
    """Run a console on the kernel that a kernelspec leads to; `arguments` are jupyter console's own.

    What other clients run is shown too. Raises `SystemExit` as that program does.
    """
    for each in (signal.SIGHUP, signal.SIGTERM):  # the window is closed: leave, and leave no file
        signal.signal(each, _leave)
    with tempfile.TemporaryDirectory(prefix="kernel-bridge-") as directory:
        place = Path(directory) / "kernels" / KERNELSPEC
        place.mkdir(parents=True)
        (place / "kernel.json").write_text(json.dumps(kernelspec), encoding="utf-8")
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [directory, os.environ.get("JUPYTER_PATH")]))
        shown = "--ZMQTerminalInteractiveShell.include_other_output=True"
        Console.launch_instance([f"--kernel={KERNELSPEC}", "--no-confirm-exit", shown, *arguments])


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)
