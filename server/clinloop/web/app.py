"""The Starlette application: /mcp, the pages, health and metrics, behind one gate."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from clinloop import app as protocol
from clinloop.principal import LOCAL_AGENT
from clinloop.services import Services
from clinloop.web import entrance, tasks
from clinloop.web.gate import Gate
from clinloop.web.pages import HERE, guarded, not_found
from clinloop.web.signing_in import SignIn

CONNECTIONS = 16
"""Connections to the store that are kept open."""
PAGES = [*tasks.PAGES]
"""All pages that need a person; a test visits each as every role."""


def build(services: Services, hosts: Sequence[str]) -> Starlette:
    """Return the application; `hosts` are the names (with port) under which it may be reached."""
    server = protocol.build(services.for_principal(LOCAL_AGENT))
    mcp_routes, manager = protocol.http_routes(server, hosts)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        services.store.keep_connections(CONNECTIONS)
        try:
            async with manager.run():
                yield
        finally:
            services.store.close()

    async def missing(request: Request, _: Exception) -> Response:
        return not_found(request)

    sign_in = SignIn(services)
    made = Starlette(
        routes=[
            Route("/healthz", entrance.health),
            Route("/readyz", entrance.ready),
            Route("/sign-in", entrance.sign_in, methods=["GET", "POST"]),
            Route("/sign-out", entrance.sign_out, methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
            *(Route(page.path, guarded(page), methods=list(page.methods)) for page in PAGES),
            *mcp_routes,
        ],
        middleware=[Middleware(Gate, services=services, sign_in=sign_in, hosts=hosts)],
        exception_handlers={404: missing},
        lifespan=lifespan,
    )
    made.state.services, made.state.sign_in = services, sign_in
    return made
