"""The product's server process with the fixtures of the conformance suite beside its own tools: python fixtures.py serve --http HOST:PORT …

What each fixture must do is said by the suite itself (`description` of each scenario).
"""

from __future__ import annotations

import base64
import json
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp.types import (
    AudioContent,
    CallToolResult,
    ClientCapabilities,
    Completion,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingCapability,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from mcp_types import MISSING_REQUIRED_CLIENT_CAPABILITY, MissingRequiredClientCapabilityErrorData
from pydantic import BaseModel, Field

from clinloop import app
from clinloop.services import Services

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
Reply = str | InputRequiredResult
"""What a tool that asks returns: a question, or in the end a text."""
RICH_SCHEMA: dict[str, Any] = {
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


# content --------------------------------------------------------------------------------------------------------------


def _embedded(uri: str, text: str, kind: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=kind, text=text))


def _image() -> ImageContent:
    return ImageContent(type="image", data=PNG, mime_type="image/png")


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _content(server: MCPServer) -> None:
    """Tools that answer at once."""

    @server.tool()
    def test_simple_text() -> str:
        """Return a text."""
        return "This is a simple text response for testing."

    @server.tool()
    def test_image_content() -> CallToolResult:
        """Return a picture."""
        return CallToolResult(content=[_image()])

    @server.tool()
    def test_audio_content() -> CallToolResult:
        """Return a sound."""
        return CallToolResult(content=[AudioContent(type="audio", data=WAV, mime_type="audio/wav")])

    @server.tool()
    def test_embedded_resource() -> CallToolResult:
        """Return a resource."""
        return CallToolResult(content=[_embedded("test://embedded-resource", "This is an embedded resource content.")])

    @server.tool()
    def test_multiple_content_types() -> CallToolResult:
        """Return a text, a picture and a resource."""
        data = _embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json")
        return CallToolResult(content=[_text("Multiple content types test:"), _image(), data])

    @server.tool()
    def test_error_handling() -> str:
        """Fail."""
        raise RuntimeError("This tool intentionally returns an error for testing")

    @server.tool()
    def test_x_mcp_header(region: str = Field(json_schema_extra={"x-mcp-header": "Region"})) -> str:
        """Take an argument that travels in a header too."""
        return region


async def _three(ctx: Context[Services], *, progress: bool) -> None:
    """Notify three times."""
    for step, words in enumerate(("Tool execution started", "Tool processing data", "Tool execution completed")):
        if progress:
            await ctx.report_progress(50 * step, 100, words)
        else:
            await ctx.info(words)
        await anyio.sleep(0.05)


def _notifying(server: MCPServer) -> None:
    """Tools that notify while they work, or change what is listed."""

    @server.tool()
    async def test_tool_with_logging(ctx: Context[Services]) -> str:
        """Log three times."""
        await _three(ctx, progress=False)
        return "logged"

    @server.tool()
    async def test_logging_tool(ctx: Context[Services]) -> str:
        """Log; nothing may be sent to a client that set no level."""
        await ctx.info("hello")
        return "logged"

    @server.tool()
    async def test_tool_with_progress(ctx: Context[Services]) -> str:
        """Report progress three times."""
        await _three(ctx, progress=True)
        return "done"

    @server.tool()
    async def test_trigger_tool_change(ctx: Context[Services]) -> str:
        """Say that the tools have changed."""
        await ctx.notify_tools_changed()
        return "said"

    @server.tool()
    async def test_trigger_prompt_change(ctx: Context[Services]) -> str:
        """Say that the prompts have changed."""
        await ctx.notify_prompts_changed()
        return "said"


# questions in the middle of a request, handshake era ------------------------------------------------------------------


class _User(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class _Defaults(BaseModel):
    name: str = Field(default="John Doe")
    age: int = Field(default=30)
    score: float = Field(default=95.5)
    status: str = Field(default="active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = Field(default=True)


def _titled(**choices: str) -> list[dict[str, str]]:
    return [{"const": value, "title": title} for value, title in choices.items()]


class _Enums(BaseModel):
    untitledSingle: str = Field(json_schema_extra={"enum": ["option1", "option2", "option3"]})
    titledSingle: str = Field(json_schema_extra={"oneOf": _titled(value1="First", value2="Second", value3="Third")})
    legacyEnum: str = Field(json_schema_extra={"enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]})
    untitledMulti: list[str] = Field(json_schema_extra={"items": {"type": "string", "enum": ["option1", "option2"]}})
    titledMulti: list[str] = Field(json_schema_extra={"items": {"anyOf": _titled(value1="First", value2="Second")}})


def _asking_back(server: MCPServer) -> None:
    """Tools that ask the client and wait for its answer."""

    async def ask(ctx: Context[Services], message: str, schema: type[BaseModel]) -> str:
        answer = await ctx.elicit(message, schema)
        content = answer.data.model_dump_json() if answer.action == "accept" else "{}"
        return f"User response: action={answer.action}, content={content}"

    @server.tool()
    async def test_elicitation(message: str, ctx: Context[Services]) -> str:
        """Ask the user."""
        return await ask(ctx, message, _User)

    @server.tool()
    async def test_elicitation_sep1034_defaults(ctx: Context[Services]) -> str:
        """Ask with defaults."""
        return await ask(ctx, "Please provide user information", _Defaults)

    @server.tool()
    async def test_elicitation_sep1330_enums(ctx: Context[Services]) -> str:
        """Ask with choices."""
        return await ask(ctx, "Please choose", _Enums)

    @server.tool()
    async def test_sampling(prompt: str, ctx: Context[Services]) -> str:
        """Ask the client's model."""
        message = SamplingMessage(role="user", content=_text(prompt))
        answer = await ctx.session.create_message(messages=[message], max_tokens=100)
        return f"LLM response: {answer.content.text if isinstance(answer.content, TextContent) else ''}"


# questions as results, stateless era ----------------------------------------------------------------------------------


def _form(message: str, name: str, kind: str = "string") -> ElicitRequest:
    schema: dict[str, Any] = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(text: str) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=_text(text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=100))


def _question(state: str | None = None, **asked: InputRequest) -> InputRequiredResult:
    return InputRequiredResult(input_requests=asked, request_state=state)


def _filled(ctx: Context[Services], key: str) -> dict[str, Any] | None:
    """Return a form that the user has filled in."""
    given = (ctx.input_responses or {}).get(key)
    return dict(given.content or {}) if isinstance(given, ElicitResult) and given.action == "accept" else None


def _asking(server: MCPServer) -> None:
    """Tools and a prompt that end with a question and are called again with its answer."""

    @server.tool()
    async def test_input_required_result_elicitation(ctx: Context[Services]) -> Reply:
        """Ask for a name."""
        form = _filled(ctx, "user_name")
        if form is None or "name" not in form:
            return _question(user_name=_form("What is your name?", "name"))
        return f"Hello, {form['name']}!"

    @server.tool()
    async def test_input_required_result_sampling(ctx: Context[Services]) -> Reply:
        """Ask the client's model."""
        given = (ctx.input_responses or {}).get("capital_question")
        if not isinstance(given, CreateMessageResult) or not isinstance(given.content, TextContent):
            return _question(capital_question=_sample("What is the capital of France?"))
        return given.content.text

    @server.tool()
    async def test_input_required_result_list_roots(ctx: Context[Services]) -> Reply:
        """Ask for the roots."""
        given = (ctx.input_responses or {}).get("client_roots")
        if not isinstance(given, ListRootsResult):
            return _question(client_roots=ListRootsRequest())
        return ", ".join(str(root.uri) for root in given.roots)

    @server.tool()
    async def test_input_required_result_request_state(ctx: Context[Services]) -> Reply:
        """Get back the state that it gave."""
        if _filled(ctx, "confirm") is None or ctx.request_state != "asked":
            return _question("asked", confirm=_form("Please confirm", "ok", "boolean"))
        return "state-ok"

    @server.tool()
    async def test_input_required_result_tampered_state(ctx: Context[Services]) -> Reply:
        """Get back the state that it gave; the SDK refuses another one."""
        if _filled(ctx, "confirm") is None:
            return _question("sealed", confirm=_form("Please confirm", "ok", "boolean"))
        return "state-ok"

    @server.tool()
    async def test_input_required_result_multiple_inputs(ctx: Context[Services]) -> Reply:
        """Ask three things at once."""
        asked: dict[str, InputRequest] = {
            "user_name": _form("What is your name?", "name"),
            "greeting": _sample("Generate a greeting"),
            "client_roots": ListRootsRequest(),
        }
        if asked.keys() - (ctx.input_responses or {}).keys():
            return _question("three", **asked)
        return "all answered"

    @server.tool()
    async def test_input_required_result_multi_round(ctx: Context[Services]) -> Reply:
        """Ask twice."""
        if ctx.request_state is None:
            return _question("first", step1=_form("Step 1: What is your name?", "name"))
        if ctx.request_state == "first":
            return _question("second", step2=_form("Step 2: What is your favorite color?", "color"))
        return "both answered"

    @server.tool()
    async def test_input_required_result_capabilities(ctx: Context[Services]) -> Reply:
        """Ask only what the client says that it can answer."""
        known = ctx.client_capabilities or ClientCapabilities()
        asked: dict[str, InputRequest] = {}
        if known.elicitation is not None:
            asked["form"] = _form("What is your name?", "name")
        if known.sampling is not None:
            asked["sample"] = _sample("Generate a greeting")
        return _question(**asked) if asked else "nothing can be asked"

    @server.tool()
    async def test_streaming_elicitation(ctx: Context[Services]) -> Reply:
        """Notify, then ask."""
        await ctx.report_progress(1, 2)
        return "answered" if _filled(ctx, "name") else _question(name=_form("What is your name?", "name"))

    @server.tool()
    async def test_missing_capability(ctx: Context[Services]) -> str:
        """Need what the client does not have."""
        if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
            needed = MissingRequiredClientCapabilityErrorData(
                required_capabilities=ClientCapabilities(sampling=SamplingCapability())
            )
            raise MCPError(
                MISSING_REQUIRED_CLIENT_CAPABILITY,
                "This tool needs sampling",
                needed.model_dump(by_alias=True, mode="json", exclude_none=True),
            )
        return "it has it"

    @server.prompt()
    async def test_input_required_result_prompt(ctx: Context[Services]) -> list[UserMessage] | InputRequiredResult:
        """Ask before it is a prompt."""
        form = _filled(ctx, "user_context")
        if form is None:
            return _question(user_context=_form("What context should the prompt use?", "context"))
        return [UserMessage(_text(f"Context: {form.get('context')}"))]


# resources and prompts ------------------------------------------------------------------------------------------------


def _resources(server: MCPServer) -> None:
    @server.resource("test://static-text", mime_type="text/plain", description="A text")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png", description="A picture")
    def static_binary() -> bytes:
        return base64.b64decode(PNG)

    @server.resource("test://watched-resource", mime_type="text/plain", description="A text to watch")
    def watched() -> str:
        return "Watched resource content"

    @server.resource("test://template/{id}/data", mime_type="application/json", description="A record")
    def template(id: str) -> str:
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def _prompts(server: MCPServer) -> None:
    @server.prompt()
    def test_simple_prompt() -> list[UserMessage]:
        """Say one thing."""
        return [UserMessage(_text("This is a simple prompt for testing."))]

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
        """Say two things."""
        return [UserMessage(_text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))]

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
        """Carry a resource."""
        return [
            UserMessage(_embedded(resourceUri, "Embedded resource content for testing.")),
            UserMessage(_text("Please process the embedded resource above.")),
        ]

    @server.prompt()
    def test_prompt_with_image() -> list[UserMessage]:
        """Carry a picture."""
        return [UserMessage(_image()), UserMessage(_text("Please analyze the image above."))]


def _handlers(server: MCPServer) -> None:
    """What the handshake era asks for and the SDK has no public way to answer."""

    async def nothing(_: Any, __: Any) -> EmptyResult:
        return EmptyResult()

    low: Any = server._lowlevel_server
    low.add_request_handler("logging/setLevel", SetLevelRequestParams, nothing)
    low.add_request_handler("resources/subscribe", SubscribeRequestParams, nothing)
    low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, nothing)

    @server.completion()
    async def complete(*_: Any) -> Completion:
        return Completion(values=[], total=0, has_more=False)


def _rich(name: str) -> str:
    return name


def add(server: MCPServer) -> MCPServer:
    """Add all fixtures to a server of the product."""
    for part in (_content, _notifying, _asking_back, _asking, _resources, _prompts, _handlers):
        part(server)
    rich = Tool.from_function(_rich, name="json_schema_2020_12_tool", description="Has a schema with rare keywords.")
    rich.parameters = RICH_SCHEMA
    server._tool_manager._tools[rich.name] = rich
    return server


def main() -> None:
    """Run clinloop's command line with the fixtures in every server that it builds."""
    built = app.build
    app.build = lambda services: add(built(services))
    from clinloop.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
