"""What a server's start costs: only what the first reply needs is imported."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("docker", "zmq", "jupyter_client", "resvg_py", "IPython", "rich", "bridge.http")


def test_the_first_reply_waits_for_no_library_that_only_a_kernel_needs() -> None:
    code = f"import sys, bridge.server, bridge.cli.serve; print([each for each in {HEAVY} if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
