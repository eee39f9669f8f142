"""The MCP tools, one file each: `tools/NAME.py` holds the one async function `NAME`.

The one rule: this is the border where a `BridgeError` becomes a `ToolError`, the only exception whose text reaches the
model. Anything else is a bug: the SDK keeps its text from the model and the log has it. The reviewed list of tools with
their schemas is the golden file `tests/unit/tool_catalogue.json`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, InputRequiredResult, TextContent
from pydantic import ValidationError

from bridge.elicitation import question_to_user
from bridge.errors import BridgeError, UsageError
from bridge.kernels.listing import Outcome
from bridge.policy import Policy
from bridge.progress import Progress, reported
from bridge.render import to_tool_result

if TYPE_CHECKING:
    from bridge.kernels.registry import Kernels

P = ParamSpec("P")
R = TypeVar("R")


class App:
    """What every tool acts on: the policy in force and the kernels. One for each server process."""

    def __init__(self, policy: Policy, make_kernels: Callable[[Policy], Kernels]) -> None:
        self.policy = policy
        self._make_kernels = make_kernels
        self.on_activity: Callable[[str], None] = lambda _: None
        """As `Kernels.on_activity`."""
        self.on_connected: Callable[[], None] = lambda: None
        """As `Kernels.on_connected`."""

    @functools.cached_property
    def kernels(self) -> Kernels:
        """The kernels, made on first use: their libraries must not delay the server's first reply."""
        kernels = self._make_kernels(self.policy)
        kernels.on_activity, kernels.on_connected = self.on_activity, self.on_connected
        return kernels

    def connected(self) -> list[str]:
        """Return the names of the connected kernels."""
        return [each.name for each in self.kernels.statuses()] if "kernels" in self.__dict__ else []

    def timeout(self, asked: float | None) -> float:
        """Return the seconds a call may wait: what was asked for, within the policy; raises `UsageError`."""
        return self.policy.calls.timeout if asked is None else self.wait(asked, "timeout", "Nothing was executed.")

    def wait(self, asked: float, argument: str = "wait", nothing: str = "") -> float:
        """Return the seconds to wait for what runs already; raises as `timeout`, with the argument's name."""
        most = self.policy.calls.max_timeout
        if not 0 <= asked <= most:
            raise UsageError(f"{argument} is {asked:g} s; the policy allows 0 to {most:g} s. {nothing}".rstrip())
        return asked


def kernels_of(context: Context[App]) -> Kernels:
    """Return the kernels, which from now on sign their messages with the calling client's name."""
    kernels = context.request_context.lifespan_context.kernels
    client = context.session.client_params
    if client is not None and client.client_info.name:
        kernels.username = client.client_info.name[:64]
    return kernels


def telling(ctx: Context[App]) -> AbstractAsyncContextManager[Progress]:
    """Tell the client of a cell for as long as a block waits for it; see `progress.reported`."""
    return reported(lambda passed, line: ctx.report_progress(passed, None, line))


async def shown(app: App, outcome: Outcome) -> CallToolResult:
    """Return the outcome of an execution as a model should see it, within the policy's caps."""
    calls, result = app.policy.calls, outcome.result
    if result is None:
        return CallToolResult(content=[TextContent(text="\n".join(outcome.notices))])
    render = functools.partial(
        to_tool_result,
        result,
        kernel=outcome.kernel,
        max_output=calls.max_output,
        max_result=calls.max_result,
        notices=outcome.notices,
    )
    # megabytes of text, or an SVG to draw, must not hold up the other calls
    return await anyio.to_thread.run_sync(render)


async def shown_or_asked(ctx: Context[App], outcome: Outcome) -> CallToolResult | InputRequiredResult:
    """Return what the cell asks as a question to the user, where the client takes it so; else as `shown`."""
    question = question_to_user(ctx, outcome)
    if question is None:
        return await shown(ctx.request_context.lifespan_context, outcome)
    kernels_of(ctx).untold(outcome)
    return question


def all_tools() -> list[Tool]:
    """Return every tool in this package, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [_tool(getattr(importlib.import_module(f"{__name__}.{name}"), name)) for name in names]


class _StrictTool(Tool):
    """A tool whose refusals are plain sentences: the SDK's own hold pydantic's jargon."""

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:  # noqa: FBT001, FBT002 - the SDK's signature
        try:
            return await super().run(arguments, context, convert_result)
        except ToolError as error:
            if isinstance(error.__cause__, ToolError):
                raise error.__cause__ from None
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(f"{_wrong_arguments(error.__cause__)} Nothing was done.") from None
            raise


def _wrong_arguments(error: ValidationError) -> str:
    told = {"missing": "is required", "extra_forbidden": "is not an argument of this tool"}
    rows = (
        f"`{'.'.join(map(str, each['loc']))}` {told.get(each['type']) or each['msg'].lower()}"
        for each in error.errors()
    )
    return f"{'; '.join(rows)}."


def _tool(function: Callable[..., Awaitable[Any]]) -> Tool:
    tool = _StrictTool.from_function(
        _border(function),
        title=function.__name__.replace("_", " ").capitalize(),
        description=inspect.getdoc(function),  # without the indentation, which Python has dropped by itself since 3.13
    )
    # by default the SDK drops arguments it does not know: a misspelt `timeout` would be ignored in silence
    model = tool.fn_metadata.arg_model
    model.model_config["extra"] = "forbid"
    model.model_rebuild(force=True)
    tool.parameters = _untitled(model.model_json_schema(by_alias=True))
    tool.fn_metadata.output_schema = _untitled(tool.fn_metadata.output_schema)
    return tool


def _untitled(schema: Any) -> Any:
    """A schema without the names that pydantic gives to everything: a seventh of what a model reads, for nothing."""
    if isinstance(schema, dict):
        return {key: _untitled(each) for key, each in schema.items() if not (key == "title" and isinstance(each, str))}
    return [_untitled(each) for each in schema] if isinstance(schema, list) else schema


def _border(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    @functools.wraps(function)
    async def bordered(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await function(*args, **kwargs)
        except BridgeError as error:
            raise ToolError(str(error)) from error

    return bordered
