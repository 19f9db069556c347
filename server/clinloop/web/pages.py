"""How a page is made: templates, forms that are checked, and refusals as pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import jinja2
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from clinloop import __version__
from clinloop.errors import Forbidden, NotNow, Refusal, Unknown
from clinloop.principal import Role
from clinloop.untrusted import clean
from clinloop.web.signing_in import caller_of

HERE = Path(__file__).parent
Endpoint = Callable[[Request], Awaitable[Response]]
_STATUS: Mapping[type[Refusal], int] = {Forbidden: 403, Unknown: 404, NotNow: 409}


class Page(NamedTuple):
    """One route: a path with who may use it."""

    path: str
    endpoint: Endpoint
    roles: tuple[Role, ...] = ("clinician", "custodian")
    methods: tuple[str, ...] = ("GET",)


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Return the environment of all templates; everything is escaped, and every value cleaned of control characters."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_cleaned,
    )
    known: dict[str, Any] = made.globals
    known["version"] = __version__
    return made


def _cleaned(value: Any) -> Any:
    """Return what a template shows: text that is not markup of ours is cleaned."""
    return clean(value, cap=20_000) if type(value) is str else value


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page; templates find `request`, `principal` and `csrf` besides what is given."""
    return HTMLResponse(fragment(request, template, **values), status)


def fragment(request: Request, template: str, **values: Any) -> str:
    """Return rendered text, for pages and for parts that are sent by themselves."""
    caller = request.scope.get("clinloop.caller")
    known: dict[str, Any] = {"request": request, "principal": caller.principal if caller else None, "csrf": ""}
    if caller and caller.cookie:
        known["csrf"] = request.app.state.sign_in.csrf(caller.cookie)
    return environment().get_template(template).render(**known, **values)


def guarded(page: Page) -> Endpoint:
    """Return the endpoint of a page, which only its roles reach and whose refusals become pages."""

    async def endpoint(request: Request) -> Response:
        caller = caller_of(request)
        try:
            caller.principal.require(*page.roles, what="see this page")
            if request.method == "POST" and caller.cookie:
                given = str((await request.form()).get("csrf", ""))
                if given != request.app.state.sign_in.csrf(caller.cookie):
                    raise Forbidden("This form is of another session; open the page again.")
            return await page.endpoint(request)
        except Refusal as refusal:
            status = next((code for kind, code in _STATUS.items() if isinstance(refusal, kind)), 400)
            return render(request, "refusal.html.j2", status, message=str(refusal))

    return endpoint


async def form_of(request: Request) -> FormData:
    """Return the fields of a form."""
    return await request.form()


async def texts_of(request: Request) -> dict[str, str]:
    """Return the fields of a form that are text, which leaves out files."""
    return {key: value for key, value in (await request.form()).items() if isinstance(value, str)}


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call what reads files or the store outside the event loop."""
    return await anyio.to_thread.run_sync(function, *arguments)


def back(to: str) -> RedirectResponse:
    """Return to a page after a form was accepted."""
    return RedirectResponse(to, 303)


def not_found(request: Request) -> Response:
    """Return the answer for a path that does not exist."""
    if request.scope.get("clinloop.caller"):
        return render(request, "refusal.html.j2", 404, message="There is no such page.")
    return PlainTextResponse("There is no such page.\n", 404)
