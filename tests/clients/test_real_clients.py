"""Claude Code and Codex themselves, configured by `clinloop install`, play a loop whose model is a script; all on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from clinloop.services import Services
from clinloop.settings import load_settings

from .stub import Model, Script, served

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(900)]

INSTALLED = Path(__file__).parents[2] / ".tools" / "clients" / "node_modules"
CLAUDE = INSTALLED / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
CODEX = INSTALLED / "@openai" / "codex-linux-x64" / "vendor" / "x86_64-unknown-linux-musl" / "bin" / "codex"
CLINLOOP = Path(sys.executable).with_name("clinloop")
ENDED = ("succeeded", "failed", "stopped", "lost")
SPEC = {"objective": "Tell three kinds of moles apart.", "budget": "demo", "acceptance": "paper"}
TOKEN = "CLINLOOP_TOKEN"
TOOLS = {"inspect_dataset", "init_task", "edit_workspace", "run_training", "read_validation", "finalize"}


class Desk:
    """A user's home and project, from which the clients are started."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.home, self.project, self.state = folder / "home", folder / "project", state
        self.home.mkdir()
        self.project.mkdir()
        # Clients hand on little of their environment, so the sandbox environments that this machine has are named in the settings.
        (state / "settings.json").write_text(json.dumps({"cache": str(load_settings().cache)}), encoding="utf-8")
        self.variables: dict[str, str] = {}

    def run(self, *command: str | Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run a command of the user, with an environment of its own."""
        environment = (
            {
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "HOME": str(self.home),
                "LANG": "C.UTF-8",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "DISABLE_AUTOUPDATER": "1",
                "MCP_CONNECT_TIMEOUT_MS": "60000",  # the first turn waits 5 s for the server, which is not enough on a busy machine
                "ANTHROPIC_API_KEY": "no-key",
                "STUB_KEY": "no-key",
            }
            | self.variables
        )
        return subprocess.run(
            [str(part) for part in command],
            cwd=self.project,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def install(self, client: str, *options: str) -> str:
        """Configure a client; the state folder and the sandbox are the test's."""
        done = self.run(CLINLOOP, "install", client, "--yes", "--state", self.state, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def trust(self) -> None:
        """Answer Claude Code's question whether the folder is trusted; before that it ignores what a project configures."""
        file = self.home / ".claude.json"
        file.write_text(
            json.dumps({"projects": {str(self.project): {"hasTrustDialogAccepted": True}}}), encoding="utf-8"
        )

    def claude(self, model: Model, *options: str, prompt: str = "Go on.") -> subprocess.CompletedProcess[str]:
        """Let Claude Code work until the model has spoken its last words."""
        with served(model) as address:
            self.variables["ANTHROPIC_BASE_URL"] = address
            arguments = ["--output-format", "stream-json", "--verbose", "--no-session-persistence", *options]
            return _checked(self.run(CLAUDE, "-p", prompt, *arguments), model)

    def codex(self, model: Model) -> subprocess.CompletedProcess[str]:
        """Let Codex work until the model has spoken its last words; the model stands in the configuration that install has changed."""
        file = self.home / ".codex" / "config.toml"
        file.parent.mkdir(exist_ok=True)
        with served(model) as address:
            head = f"""model = "stub-model"
model_provider = "stub"
approval_policy = "never"
[features]
plugins = false # it calls other hosts
[model_providers.stub]
name = "stub"
base_url = "{address}/v1"
env_key = "STUB_KEY"
wire_api = "responses"
supports_websockets = false
"""
            own = file.read_text(encoding="utf-8") if file.exists() else ""
            file.write_text(head + own, encoding="utf-8")
            try:
                done = self.run(CODEX, "exec", "--skip-git-repo-check", "--json", "-C", self.project, "Go on.")
            finally:
                file.write_text(own, encoding="utf-8")
        return _checked(done, model)


def _checked(done: subprocess.CompletedProcess[str], model: Model) -> subprocess.CompletedProcess[str]:
    if model.fault is not None:
        raise model.fault
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{done.stdout[-3000:]}\n{model.others}"
    return done


def as_json(shown: str) -> dict[str, Any]:
    """Return the reply in what a model was shown: Codex puts a line of its own before it."""
    found = re.search(r"\{.*\}", shown, flags=re.DOTALL)
    assert found is not None, shown
    return json.loads(found[0])


def loop(*, finalizes: bool) -> Script:
    """Look, start a task, smoke-test it, read; and with finalize, the baseline and the hidden test set."""
    seen = as_json((yield "inspect_dataset", {"dataset": "moles"}))
    assert seen["facts"]["classes"], seen
    arguments = {"dataset": "moles", "request": "Tell these moles apart.", "spec": SPEC, "template": "linear"}
    task = as_json((yield "init_task", arguments))["task_id"]
    listed = as_json((yield "edit_workspace", {"task_id": task, "operation": "list"}))
    assert "train.py" in json.dumps(listed), listed
    modes = ["smoke", "full"] if finalizes else ["smoke"]
    for mode in modes:
        started = as_json(
            (yield "run_training", {"task_id": task, "mode": mode, "hypothesis": "The baseline as it comes."})
        )
        name, cursor = started["run"]["run"], ""
        for _ in range(60):
            read = {"task_id": task, "run": name, "since": cursor, "wait": 10}
            state = as_json((yield "read_validation", read))
            cursor = state["cursor"]
            if state["status"] in ENDED:
                break
        assert state["status"] == "succeeded", state
    if not finalizes:
        refused = yield "finalize", {"task_id": task, "run": "run0"}
        assert "approval" not in refused and "run" in refused, refused
        return f"{task} smoke-tested"
    for _ in range(60):
        final = as_json((yield "finalize", {"task_id": task, "run": "run0", "wait": 10}))
        if final["status"] not in ("evaluating", "unsealed"):
            break
    assert final["status"] == "evaluated", final
    assert final["result"]["metrics"], final
    return f"{task} finalized"


@pytest.fixture
def desk(tmp_path: Path, state: Path) -> Desk:
    for file in (CLAUDE, CODEX):
        if not file.exists():
            pytest.skip("the clients are not installed: sh scripts/clients.sh (760 MB)")
    return Desk(tmp_path, state)


@pytest.fixture
def address(tmp_path: Path, desk: Desk) -> Generator[str]:
    """A server over HTTP that asks for a token; the token is in the desk's environment."""
    store = Services(load_settings(desk.state)).store
    desk.variables[TOKEN] = store.create_token("robot", "agent", days=1)[1]
    log = tmp_path / "server.log"
    command = [CLINLOOP, "serve", "--http", "127.0.0.1:0", "--state", desk.state, *ISOLATION]
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env={"PATH": os.environ["PATH"]})
        try:
            for _ in range(600):
                found = re.search(r"http://127.0.0.1:\d+/mcp", log.read_text(encoding="utf-8"))
                if found and "startup complete" in log.read_text(encoding="utf-8"):
                    break
                assert server.poll() is None, log.read_text(encoding="utf-8")
                signal.sigtimedwait([], 0.1)
            assert found is not None, log.read_text(encoding="utf-8")
            yield found[0]
        finally:
            server.terminate()
            server.wait(30)


ISOLATION = ("--sandbox", "none", "--i-accept-no-isolation")


def test_claude_code_plays_a_loop_to_the_end_over_standard_input_and_output(desk: Desk) -> None:
    desk.install("claude", *ISOLATION)
    desk.trust()
    model = Model(loop(finalizes=True))
    done = desk.claude(model)
    assert "finalized" in done.stdout
    offered = {tool["name"].removeprefix("mcp__clinloop__") for tool in model.requests[0]["tools"]}
    assert offered >= TOOLS  # all of them as soon as the server is connected, without a search for each


def test_claude_code_works_over_http_with_a_token_from_its_environment(desk: Desk, address: str) -> None:
    desk.install("claude", "--http", address, "--token-env", TOKEN, "--scope", "user")
    done = desk.claude(Model(loop(finalizes=False)))
    assert "smoke-tested" in done.stdout
    for file in desk.home.rglob("*.json"):
        if file.name in (".claude.json", "settings.json"):
            assert desk.variables[TOKEN] not in file.read_text(encoding="utf-8")
    servers = desk.home / ".claude.json"
    before = json.loads(servers.read_text(encoding="utf-8"))
    assert len(before) > 1  # Claude Code keeps its own state there
    desk.install("claude", "--scope", "user", "--undo")
    assert json.loads(servers.read_text(encoding="utf-8")) == {k: v for k, v in before.items() if k != "mcpServers"}


def test_codex_plays_a_loop_to_the_end_and_may_finalize(desk: Desk) -> None:
    desk.install("codex", *ISOLATION)
    done = desk.codex(Model(loop(finalizes=True)))
    assert "finalized" in done.stdout


def test_codex_works_over_http_with_a_token_from_its_environment(desk: Desk, address: str) -> None:
    desk.install("codex", "--http", address, "--token-env", TOKEN)
    done = desk.codex(Model(loop(finalizes=False)))
    assert "smoke-tested" in done.stdout


def test_codex_asks_before_finalize_where_install_was_told_so(desk: Desk) -> None:
    def script() -> Script:
        seen = yield "inspect_dataset", {}
        assert "moles" in seen
        refused = yield "finalize", {"task_id": "moles-000000", "run": "run0"}
        assert "approval" in refused, refused
        return "asked"

    desk.install("codex", *ISOLATION, "--finalize", "ask")
    assert "asked" in desk.codex(Model(script())).stdout


def test_the_fence_keeps_the_tools_of_claude_code_off_the_data_though_they_are_allowed(desk: Desk) -> None:
    datasets = desk.state / "datasets" / "moles"
    secret = next(path for path in datasets.rglob("*.csv"))
    open_file = desk.state / "tasks" / "moles-000000" / "workspace" / "train.py"
    open_file.parent.mkdir(parents=True)
    open_file.write_text("# an open workspace\n", encoding="utf-8")

    def script() -> Script:
        assert "an open workspace" in (yield "Read", {"file_path": str(open_file)})
        first_line = secret.read_text(encoding="utf-8").splitlines()[0]
        for tool, arguments in (
            ("Read", {"file_path": str(secret)}),
            ("Read", {"file_path": str(desk.state / "key")}),
            ("Bash", {"command": f"cat {secret}", "description": "look"}),
        ):
            shown = yield tool, arguments
            assert first_line not in shown and "denied" in shown.lower(), (tool, shown)
        return "kept off"

    desk.install("claude", *ISOLATION)
    desk.trust()
    done = desk.claude(Model(script()), "--allowedTools", "Read", "Bash")
    assert "kept off" in done.stdout


@pytest.mark.parametrize(("client", "tool"), [("claude", "ReadMcpResourceTool"), ("codex", "read_mcp_resource")])
def test_both_clients_read_resources(desk: Desk, client: str, tool: str) -> None:
    def script() -> Script:
        shown = yield tool, {"server": "clinloop", "uri": "clinloop://templates/classification/techniques"}
        assert "Techniques" in shown or "techniques" in shown, shown
        return "has read"

    desk.install(client, *ISOLATION)
    desk.trust()
    done = desk.claude(Model(script()), "--allowedTools", tool) if client == "claude" else desk.codex(Model(script()))
    assert "has read" in done.stdout


def test_claude_code_offers_the_prompts_as_commands(desk: Desk) -> None:
    def script() -> Script:
        yield "inspect_dataset", {}
        return "began"

    desk.install("claude", *ISOLATION)
    desk.trust()
    model = Model(script())
    done = desk.claude(model, prompt="/mcp__clinloop__develop_model moles moles")
    assert "began" in done.stdout
    assert "Develop an image model with the tools of the server clinloop" in json.dumps(model.requests[0]["messages"])
