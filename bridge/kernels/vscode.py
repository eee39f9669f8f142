"""The kernels that VS Code starts: of which notebook each is, which stands in none of its files.

The one rule: nothing is executed. VS Code leaves the notebook's path in the kernel as a variable (vscode-jupyter,
`gatherInternalStartupCode`); it is asked for as any editor asks what a name is, on the control channel, which answers
beside a running cell.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from bridge.channels import open_channels
from bridge.connection import ConnectionInfo
from bridge.errors import BridgeError
from bridge.messages import Message, mapping, text_of

VARIABLE = "__vsc_ipynb_file__"
# As IPython describes an object, without the colours.
PATH = re.compile(r"^String form: *(\S.*)$", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def is_vscodes(connection_file: Path) -> bool:
    """Tell whether VS Code gave a connection file its name (`KernelProcess.updateConnectionArgs`)."""
    return connection_file.name.startswith("kernel-v3")


async def notebook(info: ConnectionInfo, *, username: str, timeout: float) -> str | None:
    """Return the path of the notebook whose kernel this is; None where it has none, or tells nothing in time.

    `timeout`: seconds for the connection, and once more for the answer.
    """
    told: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    def take(message: Message) -> None:
        if message.msg_type == "inspect_reply" and message.parent_session == channels.session and not told.done():
            told.set_result(message)

    try:
        channels = await open_channels(info, username=username, timeout=timeout)
    except BridgeError:
        return None
    try:
        channels.start(take, lambda _: None)
        # the higher level: the lower one cuts long values short
        question = {"code": VARIABLE, "cursor_pos": len(VARIABLE), "detail_level": 1}
        await channels.send("control", "inspect_request", question)
        async with asyncio.timeout(timeout):
            answer = await told
    except (BridgeError, TimeoutError):
        return None
    finally:
        await channels.close()
    described = COLOUR.sub("", text_of(mapping(answer.content.get("data")).get("text/plain")))
    found = PATH.search(described)
    return found[1] if found else None
