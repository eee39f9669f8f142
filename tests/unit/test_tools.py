"""The tool catalogue as a client sees it, against the reviewed one; and the border that errors cross."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest
from mcp import Client
from mcp.types import CallToolResult, TextContent

from bridge.errors import KernelBusy
from bridge.policy import built_in
from bridge.server import build_server, make_app
from bridge.tools import App, all_tools

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).with_name("tool_catalogue.json")
# A token is about four characters of English and JSON; the design's limit is 6,000 tokens.
LARGEST_CATALOGUE = 6000 * 4


def catalogue() -> list[dict[str, Any]]:
    rows = []
    for tool in all_tools():
        row = {
            "name": tool.name,
            "description": tool.description,
            "input": tool.parameters,
            "output": tool.output_schema,
        }
        rows.append(row)
    return rows


def text(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


def test_the_catalogue_is_the_reviewed_one() -> None:
    """A change here is a change of the outside contract; `make generated` writes it once it is meant."""
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(catalogue(), indent=1, ensure_ascii=False) + "\n")
    assert catalogue() == json.loads(GOLDEN.read_text())


def test_the_catalogue_stays_small_enough_for_a_model() -> None:
    assert len(json.dumps(catalogue())) < LARGEST_CATALOGUE


def test_every_tool_says_when_to_use_it_and_describes_each_argument() -> None:
    for tool in all_tools():
        assert tool.description
        assert len(tool.description) > 80, tool.name
        for name, schema in tool.parameters["properties"].items():
            assert schema.get("description"), f"{tool.name}.{name}"
        assert tool.parameters["additionalProperties"] is False


def test_execution_tools_have_no_output_schema_because_clients_then_hide_the_images() -> None:
    schemas = {tool.name: tool.output_schema for tool in all_tools()}
    assert schemas["execute_code"] is None
    assert schemas["get_execution"] is None
    assert schemas["list_kernels"] is not None


class _Failing:
    username = ""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise self._error


def app_with(error: Exception) -> App:
    # it only has to fail, so it need not be a whole `Kernels`
    return App(built_in(), lambda _: cast("Any", _Failing(error)))


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_deliberate_error_reaches_the_model_word_for_word(mode: Any) -> None:
    async with Client(build_server(app_with(KernelBusy("It is busy. Nothing was executed."))), mode=mode) as client:
        result = await client.call_tool("execute_code", {"code": "1"})
    assert result.is_error
    assert text(result) == "It is busy. Nothing was executed."


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_bug_reaches_the_model_without_its_text(mode: Any) -> None:
    async with Client(build_server(app_with(RuntimeError("secret path"))), mode=mode) as client:
        result = await client.call_tool("execute_code", {"code": "1"})
    assert result.is_error
    assert "secret" not in text(result)


async def test_a_wrong_wait_is_refused_by_its_own_name() -> None:
    async with Client(build_server(make_app(built_in()))) as client:
        result = await client.call_tool("get_execution", {"execution": 1, "wait": -1})
    assert result.is_error
    assert text(result) == "wait is -1 s; the policy allows 0 to 3600 s (calls.max_timeout, built in)."


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"cod": "1"}, "`code` is required; `cod` is not an argument of this tool. Nothing was done."),
        ({"code": "1", "timout": 3}, "`timout` is not an argument of this tool. Nothing was done."),
        (
            {"code": "1", "timeout": -1},
            "timeout is -1 s; the policy allows 0 to 3600 s (calls.max_timeout, built in). Nothing was executed.",
        ),
        ({"code": 1}, "`code` input should be a valid string. Nothing was done."),
    ],
)
async def test_wrong_arguments_are_refused_in_plain_words(mode: Any, arguments: dict[str, Any], sentence: str) -> None:
    async with Client(build_server(make_app(built_in())), mode=mode) as client:
        result = await client.call_tool("execute_code", arguments)
    assert result.is_error
    assert text(result) == sentence
