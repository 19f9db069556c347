"""Who reaches what over HTTP."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from clinloop.doctor import http_line
from clinloop.errors import BadInput
from clinloop.installation import Plan, unit_text
from clinloop.terminal import out
from clinloop.web.app import PAGES
from clinloop.web.gate import OPEN_PATHS
from clinloop.web.serve import serve_http
from clinloop.web.signing_in import COOKIE
from clinloop_tools import TOOLS

from .conftest import ACCEPT, HOST, REQUEST, SPEC, Visitor, Web

DOCS = Path(__file__).parents[2] / "docs" / "http.md"
ROLES: dict[tuple[str, str], tuple[str, ...]] = {
    ("GET", "/healthz"): ("nobody", "agent", "clinician", "custodian"),
    ("GET", "/readyz"): ("nobody", "agent", "clinician", "custodian"),
    ("GET", "/sign-in"): ("nobody", "agent", "clinician", "custodian"),
    ("GET", "/metrics"): ("custodian",),
    **{(method, page.path): page.roles for page in PAGES for method in page.methods},
}
"""Who may do what; each page says it itself."""
STREAMS = ("events", "live", "stream")
"""Parts of paths that answer without end."""


def visitor(web: Web, who: str) -> Visitor:
    return {"nobody": web.nobody, "agent": lambda: web.codex}.get(who, lambda: getattr(web, who))()


@pytest.mark.parametrize(("method", "path"), list(ROLES))
def test_every_route_is_for_its_roles_only(web: Web, method: str, path: str) -> None:
    address = path.replace("{", "").replace("}", "").replace(":path", "")
    for who in ("nobody", "agent", "clinician", "custodian"):
        guest = visitor(web, who)
        allowed = who in ROLES[method, path]
        if allowed and any(part in path for part in STREAMS):
            continue
        answer = guest.get(address) if method == "GET" else guest.post(address)
        assert (answer.status_code != 403 and answer.headers.get("location") != "/sign-in") == allowed, (who, answer)


def test_there_is_no_route_beyond_those_that_are_tested(web: Web) -> None:
    found = {route.path for route in web.app.routes if isinstance(route, Route)}
    assert found == {path for _, path in ROLES} | {"/mcp", "/sign-out"}
    assert all(path in found or path == "/static/" for path in OPEN_PATHS)


def test_the_documented_roles_are_those_that_are_tested() -> None:
    rows = re.findall(r"^\| (`/[^|]*?`) \|(.*)\|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    said = {path: cells for paths, cells in rows for path in re.findall(r"`([^`]+)`", paths)}
    for (_, path), roles in ROLES.items():
        if path in said:
            cells = [cell.strip() == "yes" for cell in said[path].split("|")]
            assert cells == [who in roles for who in ("nobody", "agent", "clinician", "custodian")], path
    assert {"/healthz", "/readyz", "/sign-in", "/metrics"} <= set(said)


@pytest.mark.parametrize("tool", [tool.name for tool in TOOLS])
def test_people_call_no_tool_that_changes_anything_and_nobody_any_tool_of_others(web: Web, tool: str) -> None:
    made = next(found for found in TOOLS if found.name == tool)
    assert made.annotations is not None
    task = web.codex.begin()
    given: dict[str, Any] = {
        "inspect_dataset": {},
        "init_task": {"dataset": "moles", "request": REQUEST, "spec": SPEC},
        "edit_workspace": {"task_id": task, "operation": "view", "path": "train.py"},
        "finalize": {"task_id": task, "run": "run0"},
    }.get(tool, {"task_id": task})
    for name in ("Dr. Weber", "IT"):
        person = web.agent(name)  # its token, as a bearer
        if made.annotations.read_only_hint:
            assert not person.raw(tool, **given).get("isError")
        else:
            assert "Only an agent may call" in person.refused(tool, **given)
    if "task_id" in given:
        text = web.claude.refused(tool, **given)
        assert "known: none yet" in text
    assert web.nobody().rpc("tools/call", {"name": tool, "arguments": given}).status_code == 401
    assert (
        web.clinician.rpc("tools/call", {"name": tool, "arguments": given}).status_code == 401
    )  # a cookie is no token
    assert Visitor(web.client, token="clinloop_" + "x" * 43).rpc("tools/list", {}).status_code == 401


def test_agents_share_no_task_and_hear_of_none_of_others(web: Web) -> None:
    own = web.codex.begin()
    assert web.codex.begin() == own
    other = web.claude.begin()
    assert other != own
    assert own not in str(web.claude.raw("inspect_dataset")) + str(web.claude.raw("inspect_dataset", dataset="moles"))
    text = web.claude.refused("read_validation", task_id="moles-000000")
    assert other in text and own not in text
    assert (
        web.codex.call("init_task", dataset="moles", request=REQUEST, spec=SPEC, template="linear")["workspace"] == ""
    )


def test_a_session_answers_to_the_credential_that_opened_it_only(web: Web) -> None:
    session = open_session(web.codex)
    listed = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    headers = {"Accept": ACCEPT, "Mcp-Session-Id": session}
    assert web.codex.request("POST", "/mcp", json=listed, headers=headers).status_code == 200
    assert web.claude.request("POST", "/mcp", json=listed, headers=headers).status_code == 404
    assert web.claude.request("DELETE", "/mcp", headers=headers).status_code == 404
    assert web.codex.request("POST", "/mcp", json=listed, headers=headers).status_code == 200


def open_session(agent: Visitor) -> str:
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    answer = agent.request("POST", "/mcp", json=opening, headers={"Accept": ACCEPT})
    assert answer.status_code == 200, answer.text
    return answer.headers["mcp-session-id"]


def revoke(web: Web, name: str) -> None:
    token = next(row for row in web.services.store.tokens() if row.name == name)
    web.services.store.revoke_token(token.id)


def test_a_revoked_token_ends_at_the_next_request_and_its_sessions_and_waits_soon(web: Web) -> None:
    session = open_session(web.codex)
    assert web.app.state.watch.sessions == 1
    revoke(web, "codex")
    assert web.codex.rpc("tools/list", {}).status_code == 401
    deadline = time.monotonic() + 20
    while web.app.state.watch.sessions and time.monotonic() < deadline:
        time.sleep(0.1)
    assert web.app.state.watch.sessions == 0
    assert session not in web.app.routes[-1].endpoint.session_manager._server_instances  # type: ignore[attr-defined]
    person = web.clinician
    assert person.get("/").status_code == 200
    revoke(web, "Dr. Weber")
    assert person.get("/").headers["location"] == "/sign-in"


def test_an_expired_token_is_refused(started: Web) -> None:
    _, started.tokens["old"] = started.services.store.create_token("old", "agent", days=0.000001)
    time.sleep(0.2)
    assert started.agent("old").rpc("tools/list", {}).status_code == 401


def test_programs_of_this_machine_need_no_token_until_the_first_agent_has_one(started: Web) -> None:
    assert started.nobody().call("inspect_dataset")["status"] == "ok"
    assert started.nobody().rpc("tools/list", {}, **{"X-Forwarded-For": "10.0.0.7"}).status_code == 401
    row, _ = started.services.store.create_token("codex", "agent", days=1)
    assert started.nobody().rpc("tools/list", {}).status_code == 401
    started.services.store.revoke_token(row.id)
    assert started.nobody().rpc("tools/list", {}).status_code == 401  # what was closed does not open by itself


def test_the_cookie_is_for_this_site_and_no_script_and_ends_with_signing_out(web: Web) -> None:
    answer = web.nobody().post("/sign-in", token=web.tokens["Dr. Weber"])
    said = answer.headers["set-cookie"].lower()
    assert "httponly" in said and "samesite=strict" in said and "secure" not in said
    person = Visitor(web.client, cookie=answer.cookies[COOKIE])
    assert person.request("POST", "/sign-out", data={"csrf": "x"}).status_code == 403
    assert person.get("/").status_code == 200
    assert person.post("/sign-out").headers["location"] == "/sign-in"
    assert person.get("/").headers["location"] == "/sign-in"  # a copy of the cookie is of no use
    assert web.nobody().post("/sign-in", token=web.tokens["codex"]).status_code == 403
    assert web.clinician.get("/").status_code == 200


@pytest.mark.parametrize(
    "cookie", ["a.b.c", "....", "local.1.2.3", "ü.ü.ü", "\x7f", "a" * 5000, 'x"y', "1.2.3.4.5", "=;=", "é" * 40]
)
def test_a_malformed_credential_is_none(web: Web, cookie: str) -> None:
    shown = {"Cookie": f"{COOKIE}={cookie}".encode("latin-1")}
    assert web.nobody().get("/", headers=shown).headers["location"] == "/sign-in"
    for scheme in ("Bearer ", "Basic ", "", "bearer\t"):
        headers = {"Authorization": (scheme + cookie).encode("latin-1")}
        assert web.nobody().get("/", headers=headers).status_code == 303
        assert web.nobody().request("POST", "/mcp", json={}, headers=headers).status_code == 401
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    raw = web.nobody().request("POST", "/sign-in", content=b"token=%ff%fe%00" + cookie.encode(), headers=form)
    assert raw.status_code == 403


def test_the_link_of_a_server_without_tokens_signs_in_once(started: Web) -> None:
    link = f"/sign-in?key={started.app.state.sign_in.link_key}"
    answer = started.nobody().get(link)
    assert answer.headers["location"] == "/"
    person = Visitor(started.client, cookie=answer.cookies[COOKIE])
    assert person.get("/").status_code == 200
    assert person.get("/metrics").status_code == 200
    assert started.nobody().get(link).status_code == 403


def test_attempts_to_sign_in_are_limited(web: Web) -> None:
    found = [web.nobody().post("/sign-in", token="no").status_code for _ in range(7)]
    assert found == [403] * 5 + [429] * 2
    assert int(web.nobody().post("/sign-in", token="no").headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        (HOST, None, 200),
        (HOST.upper(), f"http://{HOST}", 200),
        ("evil.example", None, 421),
        ("evil.example:8765", None, 421),
        ("", None, 421),
        ("127.0.0.1:8765@evil.example", None, 421),
        ("[::1", None, 421),
        (HOST, "http://evil.example", 403),
        (HOST, "null", 403),
        (HOST, "http://[", 403),
        (HOST, "file:///x", 403),
        (HOST, "http://127.0.0.1:8765.evil.example", 403),
        ("[::1]:8765", None, 421),
    ],
)
def test_only_its_own_names_and_pages_reach_the_server(web: Web, host: str, origin: str | None, status: int) -> None:
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    assert web.nobody().get("/healthz", headers=headers).status_code == status
    assert (web.codex.rpc("tools/list", {}, **headers).status_code == 200) == (status == 200)


def test_other_machines_are_served_only_with_tokens_and_the_refusal_says_how_to_have_tls(started: Web) -> None:
    with pytest.raises(BadInput, match=r"token create.*reverse proxy with TLS"):
        serve_http(started.services, "0.0.0.0:0", out())
    with pytest.raises(BadInput, match="HOST:PORT"):
        serve_http(started.services, "8765", out())


def test_a_form_of_another_session_or_none_is_refused(web: Web) -> None:
    posts = [page for page in PAGES if "POST" in page.methods]
    clinician, custodian = web.clinician, web.custodian
    for page in posts:
        address = page.path.replace("{", "").replace("}", "")
        person = clinician if "clinician" in page.roles else custodian
        assert person.request("POST", address, data={"csrf": "x"}).status_code == 403
        assert person.request("POST", address).status_code == 403
        assert person.request("POST", address, data={"csrf": custodian.csrf + "x"}).status_code == 403


def test_the_unit_of_a_service_serves_over_http_where_that_was_asked_for() -> None:
    plan = Plan("clinloop", Path("/var/lib/clinloop"), Path("/var/cache/clinloop"))
    assert "--http" not in unit_text(plan)
    assert "--http 127.0.0.1:8765\n" in unit_text(plan._replace(http="127.0.0.1:8765"))


def test_doctor_says_where_servers_listen_and_who_has_tokens(web: Web) -> None:
    assert http_line(web.services).startswith(
        "no server listens. Valid tokens: 2 agent, 1 clinician, 1 custodian. Agents need"
    )
    web.services.state.http.mkdir()
    note = json.dumps({"address": "127.0.0.1:8765", "page": "https://clinloop.hospital.example"})
    (web.services.state.http / f"{os.getpid()}.json").write_text(note, encoding="utf-8")
    (web.services.state.http / "4194305.json").write_text(note, encoding="utf-8")  # no process has that number
    assert http_line(web.services).count("127.0.0.1:8765 (page https://clinloop.hospital.example)") == 1
