"""The connection file that `up` has printed, in Jupyter's own console: it works as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.e2e.terminals import ctrl_d, left, terminal


def test_jupyters_console_is_one_more_client_of_the_file_that_up_printed(
    command: Any, shell_sandbox: str, runtime: Path
) -> None:
    file = str(runtime / f"kernel-bridge-{shell_sandbox}.json")  # which the fixture holds against what `up` printed
    assert command("run", shell_sandbox, "-c", "theirs = 41").returncode == 0
    with terminal("jupyter", "console", "--existing", file, kind="xterm") as child:
        child.expect(r"\]: ")
        child.send("mine = theirs + 1; print('it', 'is', mine)\r")
        child.expect("it is 42")
        assert command("run", shell_sandbox, "-c", "print(mine)").stdout == "42\n"
        ctrl_d(child, "Do you really want to exit")
        child.send("y\r")
        child.expect("keeping kernel alive")
        assert left(child) == 0
    assert command("run", shell_sandbox, "-c", "print(theirs, mine)").stdout == "41 42\n"
