"""IPython's configuration for every kernel of the image: what one client runs must not take the kernel from the others.

The one rule: only the person can undo it. A `profile_default/ipython_kernel_config.py` in HOME comes after this file.
"""

import json
import os
import tempfile
import threading
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from jupyter_client import session
from jupyter_client.jsonutil import json_clean, json_default
from traitlets.config import get_config

SENTENCE = (
    "exit and quit() do not end this kernel: others may be using it. "
    "Close your client to leave, or stop it with: kernel-bridge stop NAME"
)


def pack(message: Any) -> bytes:
    """Serialize as Jupyter does, but with a replacement character for each lone surrogate.

    UTF-8 has no form for one. Jupyter's own packer then raises in the thread that sends all output: the output is lost,
    and the thread may never wake again (seen with ipykernel 7.4 and jupyter_client 8.10).
    """
    try:
        return session.json_packer(message)
    except UnicodeEncodeError:
        text = json.dumps(json_clean(message), default=json_default, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


# A kernel that is told to end has this long for its own end; a cell that runs on would keep it from that for ever.
SHUTDOWN_SECONDS = 5.0


def do_shutdown(kernel: IPythonKernel, restart: bool) -> Any:  # noqa: FBT001 - ipykernel's signature
    """End as ipykernel does, and if that takes too long, at once."""
    last = threading.Timer(SHUTDOWN_SECONDS, os._exit, (0,))
    last.daemon = True
    last.start()
    return shut_down(kernel, restart)  # type: ignore[no-untyped-call]


# Each cell asks where temporary files go. Python tries the places out by writing, and where everything is full it finds
# none: then no cell runs, also none that would make room.
tempfile.tempdir = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - in the container, it is the kernel's own

c = get_config()
c.IPKernelApp.exec_lines.append(f"get_ipython().ask_exit = lambda: print({SENTENCE!r})")
# Its advice at every start, on a terminal that is not there and a path that is not the host's, would fill the log.
IPKernelApp.log_connection_info = lambda _: None  # type: ignore[method-assign]
# In a thread of its own, control, so also while a cell runs.
shut_down, IPythonKernel.do_shutdown = IPythonKernel.do_shutdown, do_shutdown  # type: ignore[method-assign]
# The setting takes a name that can be imported, and this file is no module.
vars(session)["well_formed_packer"] = pack
c.Session.packer = "jupyter_client.session.well_formed_packer"
