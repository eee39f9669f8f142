"""Kernelspecs of ours: which are in the pickers of IDEs, and which of them lead nowhere.

The one rule: a kernelspec is read, and nothing that it names is started.
"""

from __future__ import annotations

from collections.abc import Iterator

from bridge.checks import Finding
from bridge.errors import UsageError
from bridge.ide.installed import installed, place


def kernelspecs() -> Iterator[Finding]:
    """Look at each of ours."""
    check = "kernelspecs"
    try:
        ours = installed()
    except UsageError as error:
        cure = "export JUPYTER_DATA_DIR=DIRECTORY    (one that is yours)"
        yield Finding(check, "warn", str(error).partition(" Nothing was changed.")[0], cure)
        return
    judged = [(each.display_name, each.fault()) for each in ours]
    sound = [name for name, fault in judged if fault is None]
    if sound or not ours:
        text = ", ".join(sound) or "none of ours; kernel-bridge ide install NAME puts a kernel into the pickers of IDEs"
        yield Finding(check, "ok", f"{text} ({place()})" if sound else text)
    for name, fault in judged:
        if fault:
            yield Finding(check, "warn", f"{name} leads nowhere: {fault.found}", fault.cure)
