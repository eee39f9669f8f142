"""The pytest plugin: the fixture `sandbox_kernel`, its marker and its settings.

The one rule: a run that does not use it sees nothing of it. So nothing of ours is imported before the fixture is asked
for, and a setting is read then, but for the scope, which pytest needs before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, cast

import pytest

from bridge.testing import ENTRY_POINT

if TYPE_CHECKING:
    from bridge.testing.kernel import SandboxKernel

Scope = Literal["function", "class", "module", "package", "session"]
SCOPES: tuple[Scope, ...] = ("function", "class", "module", "package", "session")
PREFIX = "sandbox_kernel_"
MARKER = "sandbox_kernel"
SETTINGS = {
    "image": "what the sandbox is started from; the policy must allow it",
    "policy": "the policy file, relative to the root directory; without it the policy in force",
    "workspace": "a directory, relative to the root directory, to be mounted; the policy must allow it",
    "workspace_mode": "ro or rw",
    "network": "isolated, none or open; the policy must allow it",
    "memory": "up to the policy's limit, like 1GiB",
    "cpus": "up to the policy's limit, like 0.5",
    "engine": "the container engine, as in DOCKER_HOST",
    "start_timeout": "how long the kernel may take to start, like 90s",
}
"""In the configuration with the prefix; in the marker without."""

_told = pytest.StashKey[dict[str, str]]()
"""Why no sandbox could be started, and in which test that was told in full."""


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Have the settings known, and no other name of this module looked at: pytest refuses one that has two."""
    for name in (ENTRY_POINT, __name__):
        if not pluginmanager.has_plugin(name):
            pluginmanager.set_blocked(name)
    scopes = ", ".join(SCOPES)
    parser.addini(f"{PREFIX}scope", f"how many tests share one kernel: {scopes}; without it each has its own")
    for name, meaning in SETTINGS.items():
        parser.addini(PREFIX + name, f"of the fixture sandbox_kernel: {meaning}")


def pytest_configure(config: pytest.Config) -> None:
    """Have the marker known, and a wrong scope told before pytest makes a traceback of it."""
    names = ", ".join(f"{name}=..." for name in SETTINGS)
    config.addinivalue_line("markers", f"{MARKER}({names}): what the sandbox of this test's kernel is started with.")
    scope = config.getini(f"{PREFIX}scope") or SCOPES[0]
    if scope not in SCOPES:
        raise pytest.UsageError(f"{PREFIX}scope: {scope!r} is none; write one of {', '.join(SCOPES)}.")


def _scope(fixture_name: str, config: pytest.Config) -> Scope:  # noqa: ARG001 - pytest names both
    return cast("Scope", config.getini(f"{PREFIX}scope") or SCOPES[0])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marker that could not be obeyed: the kernel of several tests is started once."""
    scope = _scope(MARKER, item.config)
    if scope != "function" and item.get_closest_marker(MARKER):
        pytest.fail(
            f"@pytest.mark.{MARKER} is for a kernel of one test, and {PREFIX}scope = {scope} has several tests share "
            f"one. Write {PREFIX}scope = function, or set the same for all of them: {PREFIX}image and so on.",
            pytrace=False,
        )


@pytest.fixture(scope=_scope)
def sandbox_kernel(request: pytest.FixtureRequest) -> Iterator[SandboxKernel]:
    """A fresh IPython kernel in a sealed container: `sandbox_kernel.run("6 * 7").value == "42"`.

    Code that raises fails the test with the kernel's traceback. The sandbox ends with the test, or with the scope that
    `sandbox_kernel_scope` names.
    """
    from bridge.errors import BridgeError  # noqa: PLC0415 - see the module's rule
    from bridge.testing import kernel, settings  # noqa: PLC0415

    try:
        started = kernel.start(settings.read(request.config, list(request.node.iter_markers(MARKER))))
    except BridgeError as error:
        raise pytest.fail.Exception(_once(str(error), request), pytrace=False) from None
    yield started
    try:
        started.close()
    except BridgeError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def _once(text: str, request: pytest.FixtureRequest) -> str:
    """Return the text, or where it was told before, its beginning and where."""
    told = request.config.stash.setdefault(_told, {})
    first = told.setdefault(text, request.node.nodeid)
    return text if first == request.node.nodeid else f"No sandbox, as in {first}: {text.splitlines()[0]}"
