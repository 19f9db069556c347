"""The gate: every request passes Host and Origin checks and is known to come from somebody, before anything else looks at it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clinloop.app import MCP_PATH, mark_authenticated
from clinloop.principal import Role
from clinloop.services import Services
from clinloop.web.signing_in import Caller, SignIn

OPEN_PATHS = ("/healthz", "/readyz", "/sign-in", "/static/")
"""What needs no credential; a path that ends in / means all below it."""
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
PAGE_ROLES: frozenset[Role] = frozenset(["clinician", "custodian"])


class Gate:
    """ASGI middleware: refuses, or hands on a request with `clinloop.caller` and `clinloop.services` in its scope."""

    def __init__(self, app: ASGIApp, *, services: Services, sign_in: SignIn, hosts: Collection[str]) -> None:
        self._app, self._services, self._sign_in = app, services, sign_in
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        refusal = self._refusal(request)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, _with_headers(scope, send))

    def _refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that is not handed on; else put who sends it into its scope."""
        host = request.headers.get("host", "")
        if host not in self._hosts:
            return PlainTextResponse(
                "This server is not reached under that name; see the setting allowed_hosts.\n", 421
            )
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc not in self._hosts:
            return PlainTextResponse("Requests from other sites are refused.\n", 403)
        path = request.url.path
        if any(path.startswith(allowed) if allowed.endswith("/") else path == allowed for allowed in OPEN_PATHS):
            return None
        caller = self._sign_in.caller(request)
        if path == MCP_PATH:
            if caller is None and "authorization" not in request.headers:
                caller = self._sign_in.anonymous_agent()
            if caller is None or caller.cookie:
                return PlainTextResponse(
                    "A valid token is needed: Authorization: Bearer TOKEN (clinloop token create).\n",
                    401,
                    {"WWW-Authenticate": "Bearer"},
                )
        elif caller is None:
            return RedirectResponse("/sign-in", 303)
        elif not caller.principal.may(*PAGE_ROLES):
            return PlainTextResponse("Agents have no page; they use /mcp.\n", 403)
        self._admit(request, caller)
        return None

    def _admit(self, request: Request, caller: Caller) -> None:
        request.scope["clinloop.caller"] = caller
        request.scope["clinloop.services"] = self._services.for_principal(caller.principal)
        if request.url.path == MCP_PATH:
            mark_authenticated(request.scope, caller.credential or "anonymous")


def _with_headers(scope: Scope, send: Send) -> Send:
    """Add the security headers to every answer but those of /mcp."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start" and scope["path"] != MCP_PATH:
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(
                    (name.lower().encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.lower().encode() not in present
                ),
            ]
        await send(message)

    return wrapped
