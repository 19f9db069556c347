"""Sign in and out, health, readiness."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from clinloop.errors import Refusal
from clinloop.web.pages import in_thread, render
from clinloop.web.signing_in import COOKIE, SESSION_S, SignIn


async def sign_in(request: Request) -> Response:
    """Show the form, or take a token (POST) or the key of a link (GET ?key=) for a cookie."""
    given = request.query_params.get("key", "")
    if request.method == "POST":
        given = str((await request.form()).get("token", "")).strip()
    if not given:
        return render(request, "sign_in.html.j2", failed=False)
    checks: SignIn = request.app.state.sign_in
    cookie = await in_thread(checks.session, given)
    if cookie is None:
        return render(request, "sign_in.html.j2", 403, failed=True)
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        COOKIE, cookie, max_age=SESSION_S, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return answer


async def sign_out(request: Request) -> Response:
    """Forget the cookie."""
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(COOKIE)
    return answer


async def health(_: Request) -> Response:
    """Say that the process answers."""
    return PlainTextResponse("ok\n")


async def ready(request: Request) -> Response:
    """Say whether the store can be used."""
    try:
        await in_thread(request.app.state.services.store.tasks)
    except (Refusal, OSError) as error:
        return PlainTextResponse(f"not ready: {type(error).__name__}\n", 503)
    return PlainTextResponse("ready\n")
