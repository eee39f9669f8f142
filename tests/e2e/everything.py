"""`kernel-bridge` with one thing more: the tools, resources and prompts that the public MCP suite calls by name.

The one rule: nothing of the server is replaced. The command, the gate, the connections, the guard around each request
and the answers about resources are the product's own; what stands here is only added, as a tool of ours would be.

What each thing must answer the suite tells where it is missing: `conformance server --scenario NAME`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, TypeAlias
from unittest.mock import patch

import mcp.types as T  # noqa: N812 - the SDK's own examples name it so
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.server.subscriptions import PromptsListChanged, ServerEvent, ToolsListChanged
from pydantic import AnyUrl, BaseModel, Field

from bridge.__main__ import main
from bridge.errors import UsageError
from bridge.resources import ServerWithResources
from bridge.tools import App, _tool

Call: TypeAlias = Context[App]
Asked: TypeAlias = str | T.InputRequiredResult

SCHEME = "test://"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M/wHwAEBgIApD5fRAAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="

# --- tools that return content ---------------------------------------------------------------------------------------


async def test_simple_text() -> str:
    """Return text."""
    return "This is a simple text response for testing."


async def test_image_content() -> list[T.ImageContent]:
    """Return an image."""
    return [image()]


async def test_audio_content() -> list[T.AudioContent]:
    """Return a sound."""
    return [T.AudioContent(data=WAV, mime_type="audio/wav")]


async def test_embedded_resource() -> list[T.EmbeddedResource]:
    """Return a resource's content."""
    return [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


async def test_multiple_content_types() -> list[T.TextContent | T.ImageContent | T.EmbeddedResource]:
    """Return content of several kinds."""
    data = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return [text("Multiple content types test:"), image(), data]


async def test_error_handling() -> str:
    """Fail, as a tool of ours fails."""
    raise UsageError("This tool intentionally returns an error for testing")


# --- tools that talk to the client while they run --------------------------------------------------------------------


async def test_tool_with_logging(ctx: Call) -> str:
    """Log three times."""
    for each in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(each)
    return "logged"


async def test_tool_with_progress(ctx: Call) -> str:
    """Tell of progress three times."""
    for each in (0, 50, 100):
        await ctx.report_progress(each, 100)
    return "done"


async def test_reconnection(ctx: Call) -> str:
    """Close the call's stream, for the client to come back for the answer."""
    await ctx.close_sse_stream()
    return "answered"


async def test_sampling(prompt: str, ctx: Call) -> str:
    """Ask the client's model."""
    # a request that is not related to the call goes to a stream that the client need not have opened
    answer = await ctx.session.create_message(
        messages=[said(prompt)], max_tokens=100, related_request_id=ctx.request_id
    )
    return f"LLM response: {answer.content.text if isinstance(answer.content, T.TextContent) else ''}"


class Person(BaseModel):
    username: str
    email: str


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: str = Field("active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = True


def titled(**titles: str) -> list[Any]:
    return [{"const": value, "title": title} for value, title in titles.items()]


class Choices(BaseModel):
    untitledSingle: str = Field(json_schema_extra={"enum": ["option1", "option2", "option3"]})  # noqa: N815 - the suite's
    titledSingle: str = Field(json_schema_extra={"oneOf": titled(value1="First", value2="Second")})  # noqa: N815
    legacyEnum: str = Field(json_schema_extra={"enum": ["opt1", "opt2"], "enumNames": ["One", "Two"]})  # noqa: N815
    untitledMulti: list[str] = Field(json_schema_extra={"items": {"type": "string", "enum": ["option1", "option2"]}})  # noqa: N815
    titledMulti: list[str] = Field(json_schema_extra={"items": {"anyOf": titled(value1="First", value2="Second")}})  # noqa: N815


async def test_elicitation(message: str, ctx: Call) -> str:
    """Ask the user."""
    return await answered(ctx, message, Person)


async def test_elicitation_sep1034_defaults(ctx: Call) -> str:
    """Ask the user, with a default for each kind of value."""
    return await answered(ctx, "Please review", Defaults)


async def test_elicitation_sep1330_enums(ctx: Call) -> str:
    """Ask the user, with each kind of choice."""
    return await answered(ctx, "Please choose", Choices)


async def answered(ctx: Call, message: str, schema: type[BaseModel]) -> str:
    answer = await ctx.elicit(message, schema)
    content = answer.data.model_dump_json() if answer.action == "accept" else "{}"
    return f"User response: action={answer.action}, content={content}"


# --- tools whose result asks, since 2026 -----------------------------------------------------------------------------


async def test_input_required_result_elicitation(ctx: Call) -> Asked:
    """Ask for a name."""
    answer = answers(ctx).get("user_name")
    return f"Hello, {entered(answer, 'name')}!" if answer else asking(user_name=question("What is your name?", "name"))


async def test_input_required_result_sampling(ctx: Call) -> Asked:
    """Ask the model."""
    answer = answers(ctx).get("capital_question")
    if isinstance(answer, T.CreateMessageResult):
        return f"Model said: {answer.content}"
    return asking(capital_question=to_model("What is the capital of France?"))


async def test_input_required_result_list_roots(ctx: Call) -> Asked:
    """Ask for the client's roots."""
    answer = answers(ctx).get("client_roots")
    if isinstance(answer, T.ListRootsResult):
        return f"{len(answer.roots)} roots"
    return asking(client_roots=T.ListRootsRequest())


async def test_input_required_result_request_state(ctx: Call) -> Asked:
    """Ask, and know one's own question again."""
    if "confirm" in answers(ctx) and ctx.request_state == "asked":
        return "state-ok"
    return asking("asked", confirm=question("Please confirm", "ok", kind="boolean"))


async def test_input_required_result_tampered_state(ctx: Call) -> Asked:
    """As above: that the state is the server's own is for the SDK to see."""
    return await test_input_required_result_request_state(ctx)


async def test_input_required_result_multiple_inputs(ctx: Call) -> Asked:
    """Ask everyone at once."""
    wanted: dict[str, T.InputRequest] = {
        "user_name": question("What is your name?", "name"),
        "greeting": to_model("Generate a greeting"),
        "client_roots": T.ListRootsRequest(),
    }
    return "all answered" if wanted.keys() <= answers(ctx).keys() else asking("asked", **wanted)


async def test_input_required_result_multi_round(ctx: Call) -> Asked:
    """Ask for a name, then for a colour."""
    state: dict[str, Any] = json.loads(ctx.request_state or "{}")
    if "name" in state and (colour := answers(ctx).get("step2")):
        return f"{state['name']} likes {entered(colour, 'color')}"
    if name := answers(ctx).get("step1"):
        known = json.dumps({"name": entered(name, "name")})
        return asking(known, step2=question("Step 2: What is your favorite color?", "color"))
    return asking("{}", step1=question("Step 1: What is your name?", "name"))


async def test_input_required_result_capabilities(ctx: Call) -> Asked:
    """Ask only whom the client has."""
    has = ctx.client_capabilities or T.ClientCapabilities()
    wanted: dict[str, T.InputRequest] = {}
    if has.sampling is not None:
        wanted["model"] = to_model("Say hello")
    if has.elicitation is not None:
        wanted["user"] = question("What is your name?", "name")
    return asking("asked", **wanted)


async def test_missing_capability(ctx: Call) -> str:
    """Refuse a client without sampling, as an error of the protocol."""
    if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
        raise MCPError(
            T.MISSING_REQUIRED_CLIENT_CAPABILITY, "needs sampling", {"requiredCapabilities": {"sampling": {}}}
        )
    return "has it"


# --- tools about tools -----------------------------------------------------------------------------------------------


async def test_x_mcp_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Take an argument that a header repeats."""
    return region


async def json_schema_2020_12_tool() -> str:
    """Have a schema of all kinds of words; see `fixture_tools`."""
    return ""


SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


async def test_trigger_tool_change(ctx: Call) -> str:
    """Tell that there are other tools."""
    return await told(ctx, ToolsListChanged())


async def test_trigger_prompt_change(ctx: Call) -> str:
    """Tell that there are other prompts."""
    return await told(ctx, PromptsListChanged())


async def told(ctx: Call, event: ServerEvent) -> str:
    server = ctx.mcp_server
    assert isinstance(server, ServerWithResources)
    agent = ctx.request_context.lifespan_context.agents.of(ctx.request_context)
    await server._news_of(agent)._bus.publish(event)
    return "told"


# --- resources and prompts -------------------------------------------------------------------------------------------


async def static_text() -> str:
    return "This is the content of the static text resource."


async def static_binary() -> bytes:
    return base64.b64decode(PNG)


async def watched() -> str:
    return "Watched resource content"


async def template(id: str) -> str:  # noqa: A002 - the name in the suite's address
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


async def test_simple_prompt() -> list[UserMessage]:
    """Say one thing."""
    return [UserMessage(text("This is a simple prompt for testing."))]


async def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
    """Say what is given."""
    return [UserMessage(text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))]


async def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803 - the suite's
    """Say what is at an address."""
    content = embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
    return [UserMessage(content), UserMessage(text("Please process the embedded resource above."))]


async def test_prompt_with_image() -> list[UserMessage]:
    """Show an image."""
    return [UserMessage(image()), UserMessage(text("Please analyze the image above."))]


async def test_input_required_result_prompt(ctx: Call) -> list[UserMessage] | T.InputRequiredResult:
    """Ask what it is about."""
    answer = answers(ctx).get("user_context")
    if answer is None:
        return asking(user_context=question("What context should the prompt use?", "context"))
    return [UserMessage(text(f"Use the following context: {entered(answer, 'context')}"))]


# --- what they are made of -------------------------------------------------------------------------------------------


def text(content: str) -> T.TextContent:
    return T.TextContent(text=content)


def image() -> T.ImageContent:
    return T.ImageContent(data=PNG, mime_type="image/png")


def embedded(uri: str, mime_type: str, content: str) -> T.EmbeddedResource:
    return T.EmbeddedResource(resource=T.TextResourceContents(uri=uri, mime_type=mime_type, text=content))


def said(content: str) -> T.SamplingMessage:
    return T.SamplingMessage(role="user", content=text(content))


def to_model(content: str) -> T.CreateMessageRequest:
    return T.CreateMessageRequest(params=T.CreateMessageRequestParams(messages=[said(content)], max_tokens=100))


def question(message: str, name: str, kind: str = "string") -> T.ElicitRequest:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return T.ElicitRequest(params=T.ElicitRequestFormParams(message=message, requested_schema=schema))


def asking(state: str | None = None, **requests: T.InputRequest) -> T.InputRequiredResult:
    return T.InputRequiredResult(input_requests=requests, request_state=state)


def answers(ctx: Call) -> T.InputResponses:
    return ctx.input_responses or {}


def entered(answer: T.InputResponse, name: str) -> Any:
    return (answer.content or {}).get(name) if isinstance(answer, T.ElicitResult) else None


# --- the server ------------------------------------------------------------------------------------------------------


def fixture_tools() -> list[Tool]:
    """Return them, made as all tools of ours are."""
    functions: tuple[Callable[..., Awaitable[Any]], ...] = (
        *(test_simple_text, test_image_content, test_audio_content, test_embedded_resource),
        *(test_multiple_content_types, test_error_handling, test_tool_with_logging, test_tool_with_progress),
        *(test_sampling, test_elicitation, test_elicitation_sep1034_defaults, test_elicitation_sep1330_enums),
        *(test_input_required_result_elicitation, test_input_required_result_sampling),
        *(test_input_required_result_list_roots, test_input_required_result_request_state),
        *(test_input_required_result_tampered_state, test_input_required_result_multiple_inputs),
        *(test_input_required_result_multi_round, test_input_required_result_capabilities),
        *(
            test_reconnection,
            test_missing_capability,
            test_x_mcp_header,
            test_trigger_tool_change,
            test_trigger_prompt_change,
        ),
    )
    schemed = _tool(json_schema_2020_12_tool)
    schemed.parameters = SCHEMA_2020_12
    return [*map(_tool, functions), schemed]


class Everything(ServerWithResources):
    """The product's server; what it does not know itself it looks for among the suite's things."""

    def __init__(self, *arguments: Any, tools: list[Tool], **options: Any) -> None:
        super().__init__(*arguments, tools=[*tools, *fixture_tools()], **options)
        self.resource(f"{SCHEME}static-text")(static_text)
        self.resource(f"{SCHEME}static-binary", mime_type="image/png")(static_binary)
        self.resource(f"{SCHEME}watched-resource")(watched)
        self.resource(f"{SCHEME}template/{{id}}/data")(template)
        for each in (
            *(test_simple_prompt, test_prompt_with_arguments, test_prompt_with_embedded_resource),
            *(test_prompt_with_image, test_input_required_result_prompt),
        ):
            self.prompt()(each)
        self.completion()(nothing_to_complete)  # type: ignore[no-untyped-call] # as the SDK has it

    def serve(self, app: App) -> None:
        super().serve(app)
        self._lowlevel_server.add_request_handler("logging/setLevel", T.SetLevelRequestParams, self._done)

    async def _list(self, ctx: Any, params: T.PaginatedRequestParams | None) -> T.ListResourcesResult:
        own = await super()._list(ctx, params)
        return T.ListResourcesResult(resources=[*own.resources, *await self.list_resources()])

    async def list_resource_templates(self) -> list[T.ResourceTemplate]:
        return [*await super().list_resource_templates(), *await MCPServer.list_resource_templates(self)]

    async def read_resource(self, uri: AnyUrl | str, context: Any = None) -> Iterable[ReadResourceContents]:
        if any(str(uri).startswith(f"{SCHEME}{each}") for each in ("static-", "watched-", "template/")):
            found = await MCPServer.read_resource(self, uri, context)
            assert not isinstance(found, T.InputRequiredResult)
            return found
        return await super().read_resource(uri, context)

    async def _subscribe(self, ctx: Any, params: T.SubscribeRequestParams) -> T.EmptyResult:
        is_fixture = str(params.uri).startswith(SCHEME)
        return await (self._done(ctx, params) if is_fixture else super()._subscribe(ctx, params))

    async def _unsubscribe(self, ctx: Any, params: T.UnsubscribeRequestParams) -> T.EmptyResult:
        is_fixture = str(params.uri).startswith(SCHEME)
        return await (self._done(ctx, params) if is_fixture else super()._unsubscribe(ctx, params))

    async def _done(self, _: Any, __: Any) -> T.EmptyResult:
        return T.EmptyResult()


async def nothing_to_complete(*_: Any) -> T.Completion:
    return T.Completion(values=[], total=0, has_more=False)


if __name__ == "__main__":
    with patch("bridge.server.ServerWithResources", Everything):
        main()
