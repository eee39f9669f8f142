"""A cell's question as MCP's elicitation: the user answers it where the client can ask them, in both protocol eras.

The one rule: a question is answered once, and no code is run again for it. Before 2026 a server asks the client while
the call is open (`ask_user`). Since then the call's result is the question (`question_to_user`), and the client sends
the same call again with the answer and our state, which names the one question that is meant (`resumed`); the SDK seals
the state, but it may come twice, too late or never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mcp.types as T  # noqa: N812 - the SDK's own examples name it so
from mcp import MCPError
from mcp.server.mcpserver import Context
from pydantic import BaseModel, ValidationError

from bridge import terminal
from bridge.errors import NoAnswer
from bridge.kernels.listing import Outcome

if TYPE_CHECKING:
    from bridge.kernels.cells import AskFor
    from bridge.kernels.registry import Kernels
    from bridge.session import OnMessage

_MODERN = "2026-07-28"
"""The first revision, and they compare as text, in which a server cannot ask by itself."""
_ROUNDS = 8
"""Questions that one call puts to the user: clients give up after ten, and the cell would be left asking."""
_LONGEST = 1000
"""Characters: the question stands in a dialog."""
_KEY = "input"
# not required: Enter alone is an answer too
_FORM: dict[str, Any] = {"type": "object", "properties": {"answer": {"type": "string", "title": "Answer"}}}


class _State(BaseModel):
    """Which question the client was asked, and the how many-th of its call it was."""

    kernel: str
    execution: int
    question: str
    round: int


def ask_user(ctx: Context[Any, Any]) -> AskFor | None:
    """Return what asks the user while the call is open; None where the client cannot, or its era has no such way."""
    if not _can_ask(ctx) or _is_modern(ctx):
        return None

    async def ask(kernel: str, prompt: str) -> str | None:
        try:
            return _text(await ctx.session.elicit_form(_message(kernel, prompt), _FORM, ctx.request_id))
        except (MCPError, ValidationError):
            return None  # it said that it can, but cannot

    return ask


def question_to_user(ctx: Context[Any, Any], outcome: Outcome) -> T.InputRequiredResult | None:
    """Return the result that asks the user what the cell asks; None where it asks nothing, or there is no such way."""
    result = outcome.result
    if result is None or result.question is None or not _can_ask(ctx) or not _is_modern(ctx):
        return None
    before = _state(ctx)
    state = _State(
        kernel=outcome.kernel,
        execution=result.execution,
        question=result.question.id,
        round=before.round + 1 if before else 1,
    )
    if state.round > _ROUNDS:
        return None
    form = T.ElicitRequestFormParams(message=_message(outcome.kernel, result.question.prompt), requested_schema=_FORM)
    return T.InputRequiredResult(
        input_requests={_KEY: T.ElicitRequest(params=form)}, request_state=state.model_dump_json()
    )


async def resumed(
    ctx: Context[Any, Any], kernels: Kernels, *, wait: float, on_message: OnMessage | None = None
) -> Outcome | None:
    """Go on with the execution that asked, where this call brings the user's answer; None where it brings none.

    Raises as `Kernels.answer`: a question that is over is never answered, and the code is never run again.
    """
    state = _state(ctx)
    if state is None:
        return None
    response = (ctx.input_responses or {}).get(_KEY)
    if not isinstance(response, T.ElicitResult):
        return await kernels.read(state.execution, name=state.kernel)  # and ask what it asks now
    try:
        text = _text(response)
    except NoAnswer as error:
        return await kernels.decline(str(error), state.execution, name=state.kernel, question=state.question)
    return await kernels.answer(
        text, state.execution, name=state.kernel, question=state.question, wait=wait, on_message=on_message
    )


def _state(ctx: Context[Any, Any]) -> _State | None:
    return _State.model_validate_json(ctx.request_state) if ctx.request_state else None


def _can_ask(ctx: Context[Any, Any]) -> bool:
    capabilities = ctx.client_capabilities
    can = capabilities.elicitation if capabilities else None
    # naming neither means forms, which came first
    return can is not None and (can.form is not None or can.url is None)


def _is_modern(ctx: Context[Any, Any]) -> bool:
    return (ctx.protocol_version or "") >= _MODERN


def _message(kernel: str, prompt: str) -> str:
    asks = f"asks: {terminal.shown(prompt)[:_LONGEST]}" if prompt.strip() else "asks for input."
    return f"Code in {kernel} {asks}".encode("utf-8", "replace").decode()


def _text(response: T.ElicitResult) -> str:
    if response.action == "accept":
        answer = (response.content or {}).get("answer")
        return "" if answer is None else str(answer)
    how = "declined to answer" if response.action == "decline" else "dismissed the question"
    raise NoAnswer(f"The user {how}, so the cell was interrupted.")
