"""The Starlette application: /mcp, the pages, health and metrics, behind one gate."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from clinloop import app as protocol
from clinloop.principal import LOCAL_AGENT
from clinloop.services import Services
from clinloop.web import datasets, doctor, entrance, housekeeping, ledger, tasks, tokens
from clinloop.web.gate import Gate
from clinloop.web.limits import SIGN_INS_BURST, SIGN_INS_PER_S, THREADS, Buckets
from clinloop.web.live import Live
from clinloop.web.metrics import Metrics
from clinloop.web.pages import HERE, guarded, not_found
from clinloop.web.readiness import Readiness
from clinloop.web.signing_in import SignIn
from clinloop.web.watch import Watch

CONNECTIONS = 16
"""Connections to the store that are kept open."""
PAGES = [
    *tasks.PAGES,
    *datasets.PAGES,
    *ledger.PAGES,
    *doctor.PAGES,
    *tokens.PAGES,
    *housekeeping.PAGES,
]
"""All pages that need a person; a test visits each as every role."""


def build(services: Services, hosts: Sequence[str], *, is_open: bool = True) -> Starlette:
    """Return the application; `hosts` are the names (with port) under which it may be reached.

    `is_open`: it listens on this machine only, whose programs need no token while no agent ever had one.
    """
    server = protocol.build(services.for_principal(LOCAL_AGENT))
    mcp_routes, manager = protocol.http_routes(server)
    sign_in = SignIn(services, is_open=is_open)
    watch = Watch(sign_in)
    metrics = Metrics(services, lambda: watch.sessions)
    watch.end_session = lambda session, caller: protocol.end_session(manager, session, caller.credential)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        services.store.keep_connections(CONNECTIONS)
        try:
            async with manager.run(), anyio.create_task_group() as tasks:
                tasks.start_soon(watch.run)
                yield
                tasks.cancel_scope.cancel()
        finally:
            sign_in.note_uses()
            services.store.close()

    async def missing(request: Request, _: Exception) -> Response:
        return not_found(request)

    made = Starlette(
        routes=[
            Route("/healthz", entrance.health),
            Route("/readyz", entrance.ready),
            Route("/metrics", entrance.metrics),
            Route("/sign-in", entrance.sign_in, methods=["GET", "POST"]),
            Route("/sign-out", entrance.sign_out, methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
            *(Route(page.path, guarded(page), methods=list(page.methods)) for page in PAGES),
            *mcp_routes,
        ],
        middleware=[
            Middleware(Gate, services=services, sign_in=sign_in, hosts=hosts, metrics=metrics, watch=watch),
        ],
        exception_handlers={404: missing},
        lifespan=lifespan,
    )
    made.state.services, made.state.sign_in, made.state.watch = services, sign_in, watch
    made.state.metrics, made.state.readiness = metrics, Readiness(services)
    made.state.attempts = Buckets(SIGN_INS_PER_S, SIGN_INS_BURST)
    made.state.live = Live()
    return made
