"""Sign in and out, health, readiness, metrics."""

from __future__ import annotations

import hmac

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from clinloop.errors import Forbidden
from clinloop.web import limits
from clinloop.web.metrics import CONTENT_TYPE, Metrics
from clinloop.web.pages import in_thread, render
from clinloop.web.peer import Peer
from clinloop.web.readiness import Readiness
from clinloop.web.signing_in import COOKIE, SESSION_S, SignIn, caller_of


async def sign_in(request: Request) -> Response:
    """Show the form, or take a token (POST) or the key of a link (GET ?key=) for a cookie."""
    given = request.query_params.get("key", "")
    if request.method == "POST":
        given = str((await request.form(max_fields=10, max_files=0)).get("token", "")).strip()
    if not given:
        return render(request, "sign_in.html.j2", failed=False)
    peer: Peer = request.scope["clinloop.peer"]
    attempts: limits.Buckets = request.app.state.attempts
    if wait := attempts.take(peer.address):
        return limits.too_many(wait, "attempts to sign in")
    checks: SignIn = request.app.state.sign_in
    cookie = await in_thread(checks.session, given)
    if cookie is None:
        return render(request, "sign_in.html.j2", 403, failed=True)
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        COOKIE, cookie, max_age=SESSION_S, httponly=True, samesite="strict", secure=_is_secure(request, peer)
    )
    return answer


def _is_secure(request: Request, peer: Peer) -> bool:
    """Tell whether the browser came over TLS: as the proxy says, or because people reach the page at an address with https only."""
    if request.url.scheme == "https" or peer.is_https:
        return True
    scheme, _, rest = request.app.state.services.settings.page_url.partition("://")
    return scheme == "https" and request.headers.get("host", "") == rest.partition("/")[0]


async def sign_out(request: Request) -> Response:
    """End the session, also for whoever has copied its cookie."""
    caller, checks = caller_of(request), request.app.state.sign_in
    if caller.cookie:
        given = str((await request.form(max_fields=10, max_files=0)).get("csrf", ""))
        if not hmac.compare_digest(given.encode(errors="replace"), checks.csrf(caller.cookie).encode()):
            return PlainTextResponse("This form is of another session; open the page again.\n", 403)
        await in_thread(checks.sign_out, caller)
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


async def health(_: Request) -> Response:
    """Say that the process answers."""
    return PlainTextResponse("ok\n")


async def ready(request: Request) -> Response:
    """Say whether the server could do its work, else what is wrong, a line each."""
    readiness: Readiness = request.app.state.readiness
    problems = await in_thread(readiness.problems)
    return PlainTextResponse("\n".join(problems or ["ready"]) + "\n", 503 if problems else 200)


async def metrics(request: Request) -> Response:
    """Show counters to a custodian."""
    try:
        caller_of(request).principal.require("custodian", what="read the metrics")
    except Forbidden as refusal:
        return PlainTextResponse(f"{refusal}\n", 403)
    kept: Metrics = request.app.state.metrics
    return Response(await in_thread(kept.text), media_type=CONTENT_TYPE)
