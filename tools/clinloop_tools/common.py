"""How a function becomes a tool: annotations, arguments that are checked, errors that the agent can act on, waits that its client survives."""

from __future__ import annotations

import difflib
import errno
import inspect
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, nullcontext
from typing import Any, TypeVar

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import ToolAnnotations
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from clinloop.errors import Refusal
from clinloop.services import Services
from clinloop.untrusted import clean

T = TypeVar("T")

NOT_GIVEN: Any = None
"""Default of a text that may be left out. Its type stays `str`: the SDK takes the text of any other type for JSON where it can."""

_ERROR_CAP = 8_000
# Start of a client's name -> longest wait in seconds. Source: default tool limits measured with real clients: openai-agents 5 s (it goes
# by the Python SDK's default name), TypeScript SDK 60 s, Codex 300 s, Gemini CLI 600 s, Claude Code hours; clients that are not listed
# get what the common limit of 60 s allows.
_WAIT_CAPS = {"claude-code": 600.0, "codex-mcp-client": 240.0, "gemini-cli-mcp-client": 300.0, "mcp": 4.0}
_WAIT_CAP_UNKNOWN = 45.0


SCOPE_KEY = "clinloop.services"
"""Where a request over HTTP carries the services of its principal (ASGI scope)."""
SLOTS_KEY, OBSERVE_KEY = "clinloop.slots", "clinloop.observe"
"""Where it carries the semaphore of what its principal may do at once in threads, and whom to tell the tool, outcome and seconds of a call."""


def services_of(ctx: Context[Services]) -> Services:
    """Return the services of who asks: of the principal of an HTTP request, else of the one client of this server."""
    return _scope(ctx).get(SCOPE_KEY) or ctx.request_context.lifespan_context


def _scope(ctx: Context[Services]) -> dict[str, Any]:
    """Return the ASGI scope of an HTTP request; empty on other transports."""
    return getattr(ctx.request_context.request, "scope", {})


async def in_thread(ctx: Context[Services], work: Callable[[], T]) -> T:
    """Do what takes long in a thread, of which a principal may use only a few at once."""
    async with _scope(ctx).get(SLOTS_KEY) or nullcontext():
        return await anyio.to_thread.run_sync(work)


def wait_seconds(ctx: Context[Services], asked: float) -> float:
    """Return how long this client may wait: what it asked for, capped by setting or by its name."""
    params = ctx.session.client_params
    configured = ctx.request_context.lifespan_context.settings.wait_cap_s
    cap = configured if configured is not None else wait_cap(params.client_info.name if params else "")
    return max(0.0, min(asked, cap))


def wait_cap(client: str) -> float:
    """Return the longest wait in seconds that a client of this name survives with its default settings."""
    if client == "mcp":
        return _WAIT_CAPS["mcp"]
    return next(
        (cap for name, cap in _WAIT_CAPS.items() if client.startswith(name) and name != "mcp"), _WAIT_CAP_UNKNOWN
    )


def tool(
    function: Callable[..., Any],
    *,
    title: str,
    read_only: bool,
    idempotent: bool,
    destructive: bool = False,
) -> Tool:
    """Make the tool of a function: all annotations set, unknown arguments refused, refusals shown to the agent.

    What is not read-only is for agents; a task that the principal does not see does not exist for it.
    """
    made = _Tool.from_function(
        function,
        title=title,
        description=inspect.cleandoc(function.__doc__ or ""),
        annotations=ToolAnnotations(
            title=title,
            read_only_hint=read_only,
            destructive_hint=destructive,
            idempotent_hint=idempotent,
            open_world_hint=False,
        ),
        meta={"anthropic/alwaysLoad": True},  # Claude Code would show the model only the names of tools
    )
    arguments = made.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"  # the SDK would drop a misspelt argument silently
    arguments.model_rebuild(force=True)
    made.parameters = arguments.model_json_schema(by_alias=True)
    return made


class _Tool(Tool):
    """A tool whose errors say what was wrong, what is valid and what to do next."""

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:
        begun, outcome, scope = time.monotonic(), "fault", _scope(context)
        try:
            async with AsyncExitStack() as stack:
                if not self.is_async and SLOTS_KEY in scope:  # it works in a thread, of which there are not many
                    await stack.enter_async_context(scope[SLOTS_KEY])
                result = await self._run(arguments, context, convert_result)
            outcome = "ok"
            return result
        except ToolError as error:
            outcome = "fault" if isinstance(error, UnexpectedToolError) else "refused"
            raise
        except anyio.get_cancelled_exc_class():
            outcome = "cancelled"
            raise
        finally:
            if OBSERVE_KEY in scope:
                scope[OBSERVE_KEY](self.name, outcome, time.monotonic() - begun)

    async def _run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool) -> Any:
        given = {name: value for name, value in arguments.items() if value is not None}  # null means "not given"
        try:
            self._admit(services_of(context), given)
            return await super().run(given, context, convert_result)
        except Refusal as refusal:  # before the function was called
            raise ToolError(f"Error executing tool {self.name}: {clean(str(refusal), cap=_ERROR_CAP)}") from refusal
        except ToolError as error:
            cause, is_crash = error.__cause__, isinstance(error, UnexpectedToolError)
            if isinstance(cause, Refusal):
                text = str(cause)
            elif isinstance(cause, ValidationError) and not is_crash:
                text = explain(cause, self.parameters)
            elif isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}:
                text = "The server's disk is full; tell the custodian, then repeat the call."
            elif is_crash:
                raise UnexpectedToolError(
                    f"Error executing tool {self.name}: a fault of the server, which its log describes. Repeat the call once; "
                    "if it fails again, tell the custodian."
                ) from cause
            else:
                raise
            raise ToolError(f"Error executing tool {self.name}: {clean(text, cap=_ERROR_CAP)}") from cause

    def _admit(self, services: Services, given: dict[str, Any]) -> None:
        if not (self.annotations and self.annotations.read_only_hint):
            services.principal.require("agent", what=f"call {self.name}")
        if isinstance(task_id := given.get("task_id"), str):
            services.task(task_id)


def explain(error: ValidationError, schema: dict[str, Any]) -> str:
    """Return what is wrong with the arguments of a call, all of it at once, and what is valid."""
    found = error.errors(include_url=False, include_context=True)
    problems = [_problem(item, schema) for item in found[:12]] + (
        [f"and {len(found) - 12} more"] if len(found) > 12 else []
    )
    required = schema.get("required", [])
    names = ", ".join(f"{name} (required)" if name in required else name for name in schema["properties"])
    return f"Wrong arguments, so nothing was done: {'; '.join(problems)}. The arguments are: {names}. Correct the call and repeat it."


def _problem(found: ErrorDetails, schema: dict[str, Any]) -> str:
    where = clean(".".join(map(str, found["loc"])), cap=120)
    match found["type"]:
        case "extra_forbidden":
            valid = _field_names(schema, found["loc"][:-1])
            close = difflib.get_close_matches(str(found["loc"][-1]), valid, n=1)
            guess = f" (did you mean {close[0]}?)" if close else ""
            fields = (
                f"; {'.'.join(map(str, found['loc'][:-1]))} has the fields {', '.join(valid)}"
                if found["loc"][1:]
                else ""
            )
            return f"there is no {where}{guess}{fields}"
        case "missing":
            return f"{where} is missing"
        case "literal_error":
            return f"{where} is {_shown(found['input'])}, but must be {found.get('ctx', {}).get('expected', 'one of the listed')}"
        case _:
            message = re.sub(r"^(Input|String|List|Tuple|Value error,) ", "", found["msg"])
            if "instance of" in message:  # names a class of ours
                message = "should be an object with the fields " + ", ".join(_field_names(schema, found["loc"]))
            return f"{where} {message} (it is {_shown(found['input'])})"


def _field_names(schema: dict[str, Any], path: Sequence[int | str]) -> list[str]:
    """Return the fields of the object at a path of a JSON schema."""
    node: dict[str, Any] = schema
    for part in (*path, None):
        if reference := node.get("$ref"):
            node = schema["$defs"][reference.rpartition("/")[2]]
        if part is not None:
            node = node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, {})
    return list(node.get("properties", {}))


def _shown(value: Any) -> str:
    return clean(repr(value), cap=60)
