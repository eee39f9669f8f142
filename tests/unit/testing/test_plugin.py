"""The pytest plugin is imported in every run of whoever has us installed."""

from __future__ import annotations

import subprocess
import sys

SOON = 60.0
# What pytest has imported by itself is no cost of ours.
LIGHT = """
import sys, pytest
before = set(sys.modules)
import bridge.testing, bridge.testing.plugin
print(sorted(set(sys.modules) - before))
"""


def test_importing_the_plugin_imports_nothing_but_itself() -> None:
    finished = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=SOON, check=True)
    assert finished.stdout.strip() == str(["bridge", "bridge.errors", "bridge.testing", "bridge.testing.plugin"])
