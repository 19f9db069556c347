"""The custodian's page of tokens: make one (its secret is shown once), list, revoke."""

from __future__ import annotations

import math
import secrets

from starlette.requests import Request
from starlette.responses import Response

from clinloop.errors import BadInput, NotNow
from clinloop.principal import ROLES, Role
from clinloop.store.tokens import NAME_CAP
from clinloop.untrusted import clean
from clinloop.web.pages import Page, back, form_of, in_thread, render
from clinloop.web.signing_in import services_of

DAYS_MOST = 3650
_FORMS = 256
"""Forms that are remembered as sent."""


async def tokens(request: Request) -> Response:
    """List the tokens, with the form for another."""
    return await _page(request)


async def create(request: Request) -> Response:
    """Make a token and show its secret: in this answer and nowhere else; sending the form again makes no second one."""
    form = await form_of(request)
    given = {name: str(form.get(name, "")) for name in ("name", "role", "days", "once")}
    services = services_of(request)
    try:
        name, role, days = given["name"].strip(), _role(given["role"]), _days(given["days"])
        if not name or name != clean(name, cap=NAME_CAP) or "\n" in name:
            raise BadInput(f"Name: 1 to {NAME_CAP} characters in one line, for example Dr. Weber or codex-1.")
        _use_form(request, given["once"])
        row, secret = await in_thread(lambda: services.store.create_token(name, role, days=days))
    except BadInput as refusal:
        return await _page(request, 400, refusal=str(refusal), given=given)
    return await _page(request, made=row, secret=secret)


async def revoke(request: Request) -> Response:
    """End a token at once."""
    services = services_of(request)
    await in_thread(services.store.revoke_token, request.path_params["token_id"])
    return back("/tokens")


async def _page(request: Request, status: int = 200, **values: object) -> Response:
    known: dict[str, object] = {"made": None, "secret": "", "refusal": "", "given": {}, "roles": ROLES}
    services = services_of(request)
    return render(
        request,
        "tokens.html.j2",
        status,
        tokens=await in_thread(services.store.tokens),
        once=secrets.token_hex(8),
        most=DAYS_MOST,
        **(known | values),
    )


def _role(text: str) -> Role:
    for role in ROLES:
        if role == text:
            return role
    raise BadInput(f"Role: one of {', '.join(ROLES)}.")


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 < days <= DAYS_MOST:
        raise BadInput(f"Days: a number above 0 and up to {DAYS_MOST}.")
    return days


def _use_form(request: Request, once: str) -> None:
    """Refuse a form that was sent before, as when a browser loads the answer again."""
    if not hasattr(request.app.state, "sent_forms"):
        request.app.state.sent_forms = dict[str, None]()
    sent: dict[str, None] = request.app.state.sent_forms
    if once in sent:
        raise NotNow("This form was sent before; the token that it made is in the list, its secret is not shown again.")
    sent[once] = None
    while len(sent) > _FORMS:
        del sent[next(iter(sent))]


PAGES = [
    Page("/tokens", tokens, ("custodian",)),
    Page("/tokens/new", create, ("custodian",), ("POST",)),
    Page("/tokens/{token_id}/revoke", revoke, ("custodian",), ("POST",)),
]
