"""Drawn requests to every route and drawn arguments to every tool: never a fault, a traceback or a path; --fuzz draws more."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clinloop.web.app import PAGES
from clinloop_tools import TOOLS

from .http_server import Server, faults, modern, modern_headers
from .lab import Lab

PATHS = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/sign-in",
    "/sign-out",
    "/static/page.css",
    "/mcp",
    *(p.path for p in PAGES),
]


class Site:
    """A server with a task, and somebody of each role."""

    def __init__(self, server: Server, task: str) -> None:
        self.server, self.task = server, task
        self.token = server.token("agent", "codex")
        self.http = httpx2.Client(base_url=server.url, timeout=30)
        self.cookies = [""]
        for role in ("clinician", "custodian"):
            answer = self.http.post("/sign-in", data={"token": server.token(role, f"a {role}")})
            self.cookies.append(answer.headers["set-cookie"].partition(";")[0])
            self.http.cookies.clear()

    def check(self, answer: httpx2.Response) -> None:
        """Check that an answer is none of a fault."""
        shown = f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text[:600]}"
        assert answer.status_code < 500, shown
        assert "Traceback" not in answer.text, shown
        assert re.search(r'File "/|site-packages', answer.text) is None or _tells_paths(answer), shown
        assert str(self.server.state) not in answer.text or _tells_paths(answer), shown
        assert "fault of the server" not in answer.text, shown
        assert '"code":-32603' not in answer.text.replace(" ", ""), shown


def _tells_paths(answer: httpx2.Response) -> bool:
    """Tell whether it is the page that says where things lie, as its custodian has to know."""
    return answer.request.url.path == "/doctor" and answer.status_code == 200


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, ingested: Path) -> Iterator[Site]:
    from clinloop.services import Services
    from clinloop.settings import load_settings

    state = Path(shutil.copytree(ingested, tmp_path_factory.mktemp("fuzz") / "state"))
    task = Lab(Services(load_settings(state, sandbox="none"), accept_no_isolation=True)).task()
    with Server(state) as server:
        made = Site(server, task)
        yield made
        made.http.close()
        assert faults(server.log) == []


def drawn(request: pytest.FixtureRequest, n: int) -> settings:
    """Return how much is drawn: the same every time by default, with --fuzz N that much and anew."""
    more = request.config.getoption("--fuzz")
    return settings(
        max_examples=more or n,
        derandomize=not more,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


TEXT = st.text(max_size=60) | st.sampled_from(
    [
        "",
        ".",
        "..",
        "../../etc/passwd",
        "%2e%2e",
        "\x00",
        "\ud7ff\ue000",
        "a" * 5000,
        "-1",
        "run0",
        "r1",
        "<script>",
        "'; DROP TABLE task; --",
        "NaN",
        "🩺",
    ]
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


def _fits(schema: dict[str, Any], root: dict[str, Any], task: str) -> st.SearchStrategy[Any]:
    """Return values that nearly fit a schema: of its type, mostly."""
    if "$ref" in schema:
        return _fits(root["$defs"][schema["$ref"].rpartition("/")[2]], root, task)
    if choices := schema.get("anyOf"):
        return st.one_of(*(_fits(choice, root, task) for choice in choices))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "string":
            return TEXT | st.sampled_from([task, "moles", "train.py", "run0", "curve"])
        case "integer":
            return st.integers(-(2**70), 2**70) | st.integers(-2, 50)
        case "number":
            return st.floats(allow_nan=False, allow_infinity=False, max_value=1) | st.just(0)
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(_fits(schema.get("items", {}), root, task), max_size=3)
        case "object" if "properties" in schema:
            return st.fixed_dictionaries(
                {}, optional={k: _fits(v, root, task) for k, v in schema["properties"].items()}
            )
        case _:
            return VALUE


@pytest.mark.parametrize("tool", [tool.name for tool in TOOLS])
def test_drawn_arguments_never_make_a_tool_fail(request: pytest.FixtureRequest, site: Site, tool: str) -> None:
    schema = next(made.parameters for made in TOOLS if made.name == tool)
    known = {name: _fits(part, schema, site.task) for name, part in schema["properties"].items()}
    arguments = (
        st.fixed_dictionaries({}, optional=known)
        | st.fixed_dictionaries(
            {name: known[name] for name in schema.get("required", [])},
            optional={k: v for k, v in known.items() if k not in schema.get("required", [])},
        )
        | st.dictionaries(st.sampled_from(sorted(known)) | TEXT, VALUE, max_size=5)
    )

    @drawn(request, 60)
    @given(arguments, st.booleans())
    def calls(given_arguments: dict[str, Any], names_task: bool) -> None:
        if names_task and "task_id" in known:
            given_arguments["task_id"] = site.task
        if given_arguments.get("wait"):
            given_arguments["wait"] = 0
        try:
            body = json.dumps(modern("tools/call", name=tool, arguments=given_arguments)).encode()
        except (UnicodeEncodeError, ValueError):
            return
        site.check(site.http.post("/mcp", content=body, headers=modern_headers("tools/call", tool, site.token)))

    calls()


@pytest.mark.parametrize("path", PATHS)
def test_drawn_requests_never_make_a_route_fail(request: pytest.FixtureRequest, site: Site, path: str) -> None:
    parts = re.findall(r"{(\w+)", path)
    part = st.text(min_size=1, max_size=30) | st.sampled_from(
        [site.task, "moles", "run0", "..", "%00", "0", "report.html"]
    )

    @drawn(request, 25)
    @given(
        st.fixed_dictionaries(dict.fromkeys(parts, part)),
        st.sampled_from(["GET", "POST", "HEAD", "DELETE"]),
        st.dictionaries(TEXT, TEXT, max_size=4),
        st.dictionaries(
            st.sampled_from(["csrf", "token", "name", "role", "answer", "run", "days", "text"]) | TEXT, TEXT, max_size=5
        ),
        st.sampled_from(range(3)),
        st.booleans(),
    )
    def requests(
        values: dict[str, str], method: str, query: dict[str, str], form: dict[str, str], who: int, same: bool
    ) -> None:
        from urllib.parse import quote

        where = re.sub(
            r"{(\w+)(?::\w+)?}", lambda found: quote(values[found[1]].encode(errors="replace"), safe=""), path
        )
        headers = {"Cookie": site.cookies[who]} if site.cookies[who] else {}
        if same:
            headers["Origin"] = site.server.url
        try:
            if "live" in path:  # a stream that does not end by itself
                with site.http.stream(method, where, params=query, headers=headers) as answer:
                    assert answer.status_code < 500
                return
            data = form if method == "POST" else None
            site.check(site.http.request(method, where, params=query, data=data, headers=headers))
        except (UnicodeEncodeError, httpx2.InvalidURL):
            return

    requests()
