"""The page of tokens: the secret is shown once and nowhere else; only custodians make and revoke."""

from __future__ import annotations

import re

import pytest

from .conftest import Visitor, Web


def once(visitor: Visitor) -> str:
    found = re.search(r'name="once" value="([0-9a-f]+)"', visitor.get("/tokens").text)
    assert found is not None
    return found[1]


def make(visitor: Visitor, **fields: str) -> str:
    given = {"name": "codex-7", "role": "agent", "days": "30", "once": once(visitor)} | fields
    return visitor.post("/tokens/new", **given).text


def test_a_secret_is_shown_once_works_and_is_kept_nowhere(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    custodian = web.custodian
    form = once(custodian)
    answer = custodian.post("/tokens/new", name="codex-7", role="agent", days="30", once=form)
    (secret,) = re.findall(r"clinloop_[A-Za-z0-9_-]{40,}", answer.text)
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    found = web.services.store.find_token(secret)
    assert found is not None and (found.name, found.role) == ("codex-7", "agent")
    assert secret not in custodian.get("/tokens").text and secret not in caplog.text
    assert secret.encode() not in b"".join(
        file.read_bytes() for file in web.services.settings.state.glob("clinloop.sqlite*")
    )

    again = custodian.post("/tokens/new", name="codex-7", role="agent", days="30", once=form)  # the browser's "reload"

    assert again.status_code == 409 and "clinloop_" not in again.text
    assert [token.name for token in web.services.store.tokens()].count("codex-7") == 1


def test_a_revoked_token_is_refused_at_once_and_shown_as_revoked(web: Web) -> None:
    custodian = web.custodian
    (secret,) = re.findall(r"clinloop_[A-Za-z0-9_-]{40,}", make(custodian))
    token = web.services.store.find_token(secret)
    assert token is not None
    assert custodian.post(f"/tokens/{token.id}/revoke").status_code == 303
    assert web.services.store.find_token(secret) is None
    assert "revoked" in custodian.get("/tokens").text
    assert custodian.post("/tokens/00000000/revoke").status_code == 404


@pytest.mark.parametrize("days", ["0", "-1", "3650.5", "nan", "inf", "1e9", "", "many"])
def test_days_outside_0_to_3650_make_no_token(web: Web, days: str) -> None:
    before = len(web.services.store.tokens())
    assert "Days: a number above 0 and up to 3650." in make(web.custodian, days=days)
    assert len(web.services.store.tokens()) == before


@pytest.mark.parametrize("name", ["", "   ", "a" * 81, "two\nlines", "bell\x07", "\u202eevil"])
def test_a_name_that_cannot_be_shown_makes_no_token(web: Web, name: str) -> None:
    before = len(web.services.store.tokens())
    assert "Name: 1 to 80 characters" in make(web.custodian, name=name)
    assert len(web.services.store.tokens()) == before


def test_a_name_of_another_role_and_an_unknown_role_make_no_token(web: Web) -> None:
    before = len(web.services.store.tokens())
    assert "There is a clinician named" in make(web.custodian, name="Dr. Weber", role="custodian")
    assert "Role: one of agent, clinician, custodian." in make(web.custodian, role="root")
    assert len(web.services.store.tokens()) == before


def test_nobody_but_a_custodian_makes_lists_or_revokes(web: Web) -> None:
    before = web.services.store.tokens()
    for visitor in (web.clinician, web.codex):
        assert visitor.get("/tokens").status_code == 403
        sent = visitor.post("/tokens/new", name="me", role="custodian", days="1", once="1")
        assert sent.status_code == 403
        assert visitor.post(f"/tokens/{before[0].id}/revoke").status_code == 403
    forged = web.custodian.request(
        "POST", "/tokens/new", data={"csrf": "0" * 64, "name": "me", "role": "custodian", "days": "1", "once": "1"}
    )
    assert forged.status_code == 403
    assert [token.id for token in web.services.store.tokens()] == [token.id for token in before]
