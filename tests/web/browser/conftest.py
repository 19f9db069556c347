"""A browser on a real server: Chromium of the system, driven by Playwright; skipped without one, which CI counts as a failure."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, StorageState, sync_playwright

from clinloop.services import Services
from clinloop.settings import Limits, load_settings

from ...ci import in_ci
from .stage import Server, Stage

HERE = Path(__file__).parent
AXE = HERE.parents[1] / "node" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
DAYS = 1


def missing(what: str) -> None:
    """Skip, or fail where everything must be there."""
    if in_ci():
        pytest.fail(f"{what}, which CI must have (scripts/browser_ci.sh)")
    pytest.skip(what)


class Person:
    """Somebody in front of a browser, with what the browser complained about and whom it asked."""

    def __init__(self, context: BrowserContext, server: Server) -> None:
        self.page: Page = context.new_page()
        self.server = server
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", lambda said: self._said(said.type, said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda asked: self._asked(asked.url))

    def open(self, path: str) -> Page:
        """Open a page."""
        answer = self.page.goto(f"{self.server.address}{path}")
        assert answer is not None and answer.ok, (path, answer and answer.status)
        return self.page

    def sign_in(self, token: str) -> Person:
        """Sign in with a token."""
        self.open("/sign-in")
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("button", name="Sign out").wait_for()
        return self

    def faults(self) -> list[str]:
        """Return what axe-core finds serious or critical on the page as it is."""
        if not AXE.is_file():
            missing("axe-core is not installed: run scripts/node.sh")
        # Not add_script_tag: the page forbids scripts of others, and rightly so.
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("async () => (await axe.run()).violations")
        return [
            f"{fault['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]

    def sees_no_side_scroll(self) -> bool:
        """Tell whether the page is no wider than the window."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))

    def _said(self, kind: str, text: str) -> None:
        if kind == "error" and "status of 400" not in text:  # the answer to a form that was filled in wrongly
            self.complaints.append(text)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.server.address, "data:", "blob:", "about:")):
            self.elsewhere.append(url)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser of this machine."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        missing("there is no Chromium: apt-get install chromium")
    with sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        try:
            browser = driver.chromium.launch(executable_path=found, args=arguments)
        except Error as error:
            missing(f"Chromium does not start: {error.message[:200]}")
            raise
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def stage(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A state folder with the dataset moles and no task yet."""
    state = Path(shutil.copytree(ingested, tmp_path_factory.mktemp("browser") / "state"))
    limits = Limits(memory_bytes=2 << 30, out_bytes=64 << 20, predict_seconds=60)
    return Stage(Services(load_settings(state, sandbox="none", limits=limits), accept_no_isolation=True))


@pytest.fixture(scope="module")
def server(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """The server, as a process of its own."""
    started = Server(stage.services.settings.state, tmp_path_factory.mktemp("log") / "server.txt")
    yield started
    assert started.stop() in (0, -signal.SIGTERM)  # uvicorn passes the signal on when it has ended


@pytest.fixture(scope="module")
def tokens(stage: Stage) -> dict[str, str]:
    """Tokens of a clinician and of a custodian."""
    make = stage.services.store.create_token
    return {
        "clinician": make("Dr. Weber", "clinician", days=DAYS)[1],
        "custodian": make("IT", "custodian", days=DAYS)[1],
    }


@pytest.fixture(scope="module")
def session(chromium: Browser, server: Server, tokens: dict[str, str]) -> StorageState:
    """The cookie of the clinician, who signs in once: attempts are limited."""
    context = chromium.new_context()
    Person(context, server).sign_in(tokens["clinician"])
    kept = context.storage_state()
    context.close()
    return kept


@pytest.fixture
def doctor(chromium: Browser, server: Server, session: StorageState) -> Generator[Person]:
    """A clinician who has signed in; nothing may be asked of other servers, and the browser may not complain."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, storage_state=session)
    context.set_default_timeout(30_000)
    person = Person(context, server)
    yield person
    context.close()
    assert person.elsewhere == []
    assert person.complaints == []
