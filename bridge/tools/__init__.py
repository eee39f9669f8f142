"""The MCP tools, one file each: `tools/NAME.py` holds the one async function `NAME`.

The one rule: this is the border where a `BridgeError` becomes a `ToolError`, the only exception whose text reaches the
model. Anything else is a bug: the log has its text, and the model is told that it was one. The reviewed list of tools
with their schemas is the golden file `tests/unit/tool_catalogue.json`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import logging
import pkgutil
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, InputRequiredResult, TextContent
from pydantic import ValidationError

from bridge.agents import Agents
from bridge.elicitation import question_to_user
from bridge.errors import BridgeError, UsageError
from bridge.kernels.listing import Outcome
from bridge.policy import Policy
from bridge.progress import Progress, reported
from bridge.render import to_tool_result

if TYPE_CHECKING:
    from bridge.kernels.registry import Kernels

_FAILED = (
    "kernel-bridge itself failed in this call, which is a bug; the server's log tells more. The kernels were left as "
    "they are, with what runs in them; but what this call asked for may have been done, so look (kernel_status, "
    "list_kernels) before it is repeated."
)

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class App:
    """What every tool acts on: the policy in force, and the agents with their kernels. One for each server process.

    `shared`: clients share the process, as over HTTP.
    """

    def __init__(self, policy: Policy, make_kernels: Callable[[Policy], Kernels], *, shared: bool = False) -> None:
        self.policy = policy
        self.shared = shared
        self.agents = Agents(lambda: make_kernels(policy), shared=shared, longest_call=policy.calls.max_timeout)

    def timeout(self, asked: float | None) -> float:
        """Return the seconds a call may wait: what was asked for, within the policy; raises `UsageError`."""
        return self.policy.calls.timeout if asked is None else self.wait(asked, "timeout", "Nothing was executed.")

    def wait(self, asked: float, argument: str = "wait", nothing: str = "") -> float:
        """Return the seconds to wait for what runs already; raises as `timeout`, with the argument's name."""
        most = self.policy.calls.max_timeout
        if not 0 <= asked <= most:
            allowed = f"the policy allows 0 to {most:g} s {self.policy.rule('calls.max_timeout')}"
            raise UsageError(f"{argument} is {asked:g} s; {allowed}. {nothing}".rstrip())
        return asked


def kernels_of(context: Context[App]) -> Kernels:
    """Return the calling agent's kernels, which sign their messages with its name."""
    return context.request_context.lifespan_context.agents.of(context.request_context).kernels


async def connected_kernels(context: Context[App], kernel: str | None) -> Kernels:
    """Return the calling agent's kernels, for a tool that acts on a connected one: see `Kernels.be_at_home`."""
    kernels = kernels_of(context)
    await kernels.be_at_home(kernel)
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
    """A tool as long as whose call an agent is there; its refusals are plain sentences, without pydantic's jargon."""

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:  # noqa: FBT001, FBT002 - the SDK's signature
        request = context.request_context
        try:
            with request.lifespan_context.agents.call(request):
                return await super().run(arguments, context, convert_result)
        except BridgeError as error:
            raise ToolError(str(error)) from error  # of the agent's coming; what a tool raises is one already
        except UnexpectedToolError:
            log.exception("%s failed", self.name)
            raise ToolError(_FAILED) from None
        except ToolError as error:
            if isinstance(error.__cause__, ToolError):
                _tell_of(error.__cause__.__cause__, self, arguments, request)
                raise error.__cause__ from None
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(f"{_wrong_arguments(error.__cause__)} Nothing was done.") from None
            raise


def _tell_of(
    error: BaseException | None, tool: Tool, arguments: dict[str, Any], request: ServerRequestContext[Any, Any]
) -> None:
    """Tell the audit of what was refused before it came to the kernels."""
    app: App = request.lifespan_context
    if isinstance(error, BridgeError) and not error.recorded and app.policy.audit.file:
        with contextlib.suppress(BridgeError):  # the server is being stopped
            kernels = app.agents.of(request).kernels
            about = None
            if "kernel" in tool.parameters["properties"]:
                named = arguments.get("kernel")
                about = {"name": named} if named else kernels.the_only_one()
            kernels.audit.refused(tool.name, error, quoting=True, kernel=about)


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
