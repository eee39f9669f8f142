"""For tests of other projects: code in a fresh sandboxed kernel, by the pytest fixture `sandbox_kernel`.

The one rule: this package is imported in every pytest run of an environment that has us, so importing it costs next to
nothing. What needs more comes with the first use of a name, or of the fixture.

The installed plugin is found by its entry point. Where those are not looked at (`PYTEST_DISABLE_PLUGIN_AUTOLOAD`),
`-p bridge.testing` or `pytest_plugins = ["bridge.testing"]` loads it, and where they are, does no harm; nor does the
name of the module itself, `bridge.testing.plugin`. Then pytest would warn that it is too late to rewrite the assertions
here; there are none, as it reads here: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bridge.errors import KernelDied

if TYPE_CHECKING:
    import pytest

    from bridge.testing.cells import Cell, CellExecutionError, CellTimeoutError
    from bridge.testing.kernel import SandboxKernel

__all__ = ["Cell", "CellExecutionError", "CellTimeoutError", "KernelDied", "SandboxKernel"]

_WHERE = {"Cell": "cells", "CellExecutionError": "cells", "CellTimeoutError": "cells", "SandboxKernel": "kernel"}
ENTRY_POINT = "kernel-bridge"


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the plugin, unless its entry point has: pytest refuses one that comes under two names."""
    if not pluginmanager.has_plugin(ENTRY_POINT):
        pluginmanager.register(import_module(f"{__name__}.plugin"), ENTRY_POINT)
