"""The layers of bridge/README.md, read from the imports themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "bridge"

# From the bottom up; a module may import what stands in a line above its own, and its own package.
LAYERS = [
    {"errors", "locks", "ending", "moments"},
    {"replacing", "journal_file"},
    {
        "policy",
        "connection",
        "outputs",
        "messages",
        "pictures",
        "terminal",
        "charts",
        "authors",
        "addresses",
    },
    {"journal", "audit", "looking", "backlog"},
    {"execution", "journals"},
    {"others"},
    {"channels", "launchers"},
    {"session", "entry"},
    {"kernels"},
    {"render", "progress", "elicitation", "notebooks", "agents"},
    {"tools"},
    {"resources", "stdio"},
    {"server"},
    {"http"},
    {"ide", "clients"},
    {"checks"},
    {"cli", "testing"},
    {"__main__"},
]
# Each foreign library's owners; `cli/demo` is an MCP client, from the outside.
OWNERS = {
    "docker": {"launchers"},
    "jupyter_client": {"channels", "ide"},
    "zmq": {"channels", "ide"},
    "yaml": {"policy"},
    "mcp": {"render", "elicitation", "agents", "tools", "resources", "stdio", "server", "http", "cli/demo"},
    "uvicorn": {"http"},
    "starlette": {"http"},
    "click": {"cli"},
    "pytest": {"testing"},
}


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """Yield each module's path within bridge, its room, and its parsed text."""
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").as_posix()
        if name == "__init__":
            continue
        yield name, name.split("/")[0], ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that they can be read here"
            if node.module == "bridge":
                yield from (f"bridge.{each.name}" for each in node.names)
            else:
                yield node.module or ""


def level(room: str) -> int:
    found = [number for number, rooms in enumerate(LAYERS) if room in rooms]
    assert found, f"{room} stands in no layer; say in this test where it belongs"
    return found[0]


def violations(name: str, room: str, imported: str) -> Iterator[str]:
    parts = imported.split(".")
    if parts[0] == "bridge" and len(parts) > 1 and parts[1] != room and level(parts[1]) >= level(room):
        yield f"{name} imports {imported}, which is not below it"
    owners = OWNERS.get(parts[0])
    if owners and not {room, name} & owners:
        yield f"{name} imports {parts[0]}, which only {', '.join(sorted(owners))} may"


def test_imports_only_go_downwards_and_each_library_has_one_owner() -> None:
    found = [
        problem
        for name, room, tree in modules()
        for imported in imports(tree)
        for problem in violations(name, room, imported)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("execution", "bridge.session"),
        ("render", "docker.errors"),
        ("policy/model", "bridge.connection"),
        ("cli/ls", "mcp"),
    ],
)
def test_the_check_itself_sees_a_wrong_import(name: str, imported: str) -> None:
    assert list(violations(name, name.split("/", maxsplit=1)[0], imported))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import bridge.session", ["bridge.session"]),
        ("from bridge.session import KernelSession", ["bridge.session"]),
        ("from bridge import session, server", ["bridge.session", "bridge.server"]),
        ("def late():\n    import docker.errors", ["docker.errors"]),
    ],
)
def test_every_way_to_import_is_read(text: str, found: list[str]) -> None:
    assert list(imports(ast.parse(text))) == found


def test_only_the_command_line_prints() -> None:
    printing = [
        name
        for name, room, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print" and room != "cli"
    ]
    assert not printing
