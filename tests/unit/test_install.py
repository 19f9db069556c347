"""`clinloop install`: the files of clients change as shown, can be had back exactly, and lose nothing that was in them."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import tomlkit
from typer.testing import CliRunner

from clinloop.cli import app
from clinloop.cli_install import Client
from clinloop.clients import CLIENTS
from clinloop.errors import Refusal

CODEX = """# my settings
model = "gpt-6" # the good one

[mcp_servers.other]   # keep
command = "other"
args = ["a",  "b"]

[profiles.x]
y = 1
"""
SETTINGS = '{\n\t"permissions": {\n\t\t"deny": ["Read(./.env)"],\n\t\t"allow": []\n\t},\n\t"theme": "dark"\n}'


class Desk:
    """A home and a project, and the command run in them."""

    def __init__(self, folder: Path) -> None:
        self.home, self.project, self.state = folder / "home", folder / "project", folder / "state"
        for made in (self.home, self.project):
            made.mkdir()

    def install(self, *arguments: str, yes: bool = True, refused: bool = False) -> str:
        """Run the command and return what it prints, or the text of its refusal."""
        given = ["install", *arguments, "--state", str(self.state), *(["--yes"] if yes else [])]
        done = CliRunner().invoke(app, given)
        if refused:
            assert isinstance(done.exception, Refusal), done.output
            return str(done.exception)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    def files(self) -> dict[str, bytes]:
        """Return all files of home and project but what clinloop remembers."""
        return {
            str(path.relative_to(folder.parent)): path.read_bytes()
            for folder in (self.home, self.project)
            for path in folder.rglob("*")
            if path.is_file() and ".local" not in path.parts
        }


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(tmp_path)
    monkeypatch.setenv("HOME", str(made.home))
    for name in ("CODEX_HOME", "CLAUDE_CONFIG_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(made.project)
    return made


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    path.chmod(mode)
    return path


def test_every_client_can_be_named_and_has_a_page() -> None:
    assert [client.value for client in Client] == list(CLIENTS)
    pages = Path(__file__).parents[2] / "docs" / "clients"
    assert all((pages / f"{client}.md").is_file() for client in CLIENTS)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("http", [(), ("--http", "https://x.example", "--token-env", "TOKEN_X")])
def test_installing_twice_changes_nothing_more_and_undo_leaves_no_trace(
    desk: Desk, client: str, http: tuple[str, ...]
) -> None:
    folders = {path for path in desk.home.parent.rglob("*") if ".local" not in path.parts}
    desk.install(client, *http)
    first = desk.files()
    assert first and any(b"clinloop" in data for data in first.values())
    assert "nothing was changed" in desk.install(client, *http)
    assert desk.files() == first
    desk.install(client, *http, "--undo")
    assert desk.files() == {}
    assert {path for path in desk.home.parent.rglob("*") if ".local" not in path.parts} == folders
    assert "Nothing of clinloop is recorded" in desk.install(client, "--undo", refused=True)


def test_codex_keeps_comments_and_order_and_gets_its_file_back(desk: Desk) -> None:
    file = write(desk.home / ".codex" / "config.toml", CODEX, 0o640)
    roots = desk.project / "images"
    roots.mkdir()
    desk.install("codex", "--data-root", "images")
    text = file.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line and line in CODEX] == [
        line for line in CODEX.splitlines() if line
    ]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    entry = tomllib.loads(text)["mcp_servers"]["clinloop"]
    assert entry["args"] == ["serve", "--stdio", "--state", str(desk.state), "--data-root", str(roots)]
    assert Path(entry["command"]).is_absolute() and os.access(entry["command"], os.X_OK)
    assert entry["required"] is True and entry["startup_timeout_sec"] >= 10 and entry["tool_timeout_sec"] > 600
    assert entry["tools"] == {"finalize": {"approval_mode": "approve"}}
    desk.install("codex", "--finalize", "ask")
    assert "tools" not in tomllib.loads(file.read_text(encoding="utf-8"))["mcp_servers"]["clinloop"]
    desk.install("codex", "--undo")
    assert file.read_bytes() == CODEX.encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_undo_after_another_change_removes_only_what_was_added(desk: Desk) -> None:
    file = write(desk.home / ".codex" / "config.toml", CODEX)
    desk.install("codex")
    document = tomlkit.parse(file.read_text(encoding="utf-8"))
    document["mcp_servers"]["clinloop"]["tool_timeout_sec"] = 5  # type: ignore[index]  # also of an entry that was tuned
    file.write_text("# new\n" + tomlkit.dumps(document), encoding="utf-8")
    desk.install("codex", "--undo")
    assert file.read_text(encoding="utf-8").strip() == f"# new\n{CODEX}".strip()


def test_claude_code_of_a_project_gets_server_permissions_and_a_fence(desk: Desk) -> None:
    settings = write(desk.project / ".claude" / "settings.local.json", SETTINGS)
    said = desk.install("claude")
    assert "fence and no guarantee" in " ".join(said.split())
    entry = json.loads((desk.project / ".mcp.json").read_text(encoding="utf-8"))["mcpServers"]["clinloop"]
    assert entry["type"] == "stdio" and entry["alwaysLoad"] is True and entry["timeout"] > 600_000
    found = json.loads(settings.read_text(encoding="utf-8"))
    assert found["theme"] == "dark" and found["enabledMcpjsonServers"] == ["clinloop"]
    assert "mcp__clinloop__finalize" in found["permissions"]["allow"]
    deny = found["permissions"]["deny"]
    assert deny[0] == "Read(./.env)"
    assert f"Read(/{desk.state}/datasets/**)" in deny
    assert not any("workspace" in rule or rule.endswith("tasks/**)") for rule in deny)  # agents may edit there
    assert settings.read_text(encoding="utf-8").startswith('{\n\t"permissions"')
    found["permissions"]["deny"].append("Read(./later)")
    settings.write_text(json.dumps(found, indent="\t"), encoding="utf-8")
    desk.install("claude", "--undo")
    left = json.loads(settings.read_text(encoding="utf-8"))
    assert left == {"permissions": {"deny": ["Read(./.env)", "Read(./later)"], "allow": []}, "theme": "dark"}
    assert not (desk.project / ".mcp.json").exists()


def test_finalize_is_asked_about_where_that_was_wanted(desk: Desk) -> None:
    desk.install("claude", "--finalize", "ask", "--scope", "user")
    permissions = json.loads((desk.home / ".claude" / "settings.json").read_text(encoding="utf-8"))["permissions"]
    assert permissions["ask"] == ["mcp__clinloop__finalize"]
    assert "mcp__clinloop__finalize" not in permissions["allow"] and len(permissions["allow"]) == 5


def test_no_file_of_a_project_ever_holds_a_token(desk: Desk) -> None:
    token = write(desk.home / "token", "clt_secretsecret\n", 0o600)
    http = ("--http", "https://x.example/mcp")
    for client in ("claude", "codex", "cursor", "vscode"):
        refusal = desk.install(client, *http, "--token-file", str(token), "--scope", "project", refused=True)
        assert "--token-env" in refusal and "secretsecret" not in refusal
    for client in ("claude", "codex", "cursor"):
        shown = desk.install(client, *http, "--token-file", str(token))
        assert "secretsecret" not in shown
    assert "--token-env" in desk.install("vscode", *http, "--token-file", str(token), refused=True)
    holding = {name for name, data in desk.files().items() if b"secretsecret" in data} - {"home/token"}
    assert holding == {"home/.claude.json", "home/.codex/config.toml", "home/.cursor/mcp.json"}
    for name in holding:
        assert stat.S_IMODE((desk.home.parent / name).stat().st_mode) == 0o600
    records = desk.home / ".local" / "state" / "clinloop" / "install"
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in records.iterdir())


def test_a_variable_is_named_in_the_way_of_each_client(desk: Desk) -> None:
    http = ("--http", "https://x.example", "--token-env", "TOKEN_X", "--scope", "project")
    for client in ("claude", "codex", "cursor", "vscode"):
        desk.install(client, *http)
    read: Any = lambda name: json.loads((desk.project / name).read_text(encoding="utf-8"))  # noqa: E731
    claude = read(".mcp.json")["mcpServers"]["clinloop"]
    assert claude["url"] == "https://x.example/mcp" and claude["headers"]["Authorization"] == "Bearer ${TOKEN_X}"
    assert read(".cursor/mcp.json")["mcpServers"]["clinloop"]["headers"]["Authorization"] == "Bearer ${env:TOKEN_X}"
    vscode = read(".vscode/mcp.json")
    assert vscode["inputs"][0]["password"] is True
    assert vscode["inputs"][0]["id"] in vscode["servers"]["clinloop"]["headers"]["Authorization"]
    codex = tomllib.loads((desk.project / ".codex" / "config.toml").read_text(encoding="utf-8"))
    assert codex["mcp_servers"]["clinloop"]["bearer_token_env_var"] == "TOKEN_X"


@pytest.mark.parametrize(
    ("name", "client", "text"),
    [
        (".vscode/mcp.json", "vscode", '{\n  // mine\n  "servers": {}\n}'),
        (".cursor/mcp.json", "cursor", '{"mcpServers": {},}'),
        (".cursor/mcp.json", "cursor", '{"mcpServers": {}, "mcpServers": {"a": {}}}'),
        (".mcp.json", "claude", '{"mcpServers": []}'),
        (".mcp.json", "claude", "[]"),
        (".claude/settings.local.json", "claude", '{"permissions": {"deny": "all"}}'),
        (".codex/config.toml", "codex", "a = \n[mcp_servers"),
        (".codex/config.toml", "codex", "mcp_servers = 3\n"),
        (".mcp.json", "claude", "\ufeff{}"),
    ],
)
def test_a_file_that_cannot_be_changed_without_loss_is_refused_and_nothing_is_written(
    desk: Desk, name: str, client: str, text: str
) -> None:
    write(desk.project / name, text)
    before = desk.files()
    refusal = desk.install(client, "--scope", "project", refused=True)
    assert str(desk.project / name) in refusal
    assert desk.files() == before


@pytest.mark.parametrize("linked", [".mcp.json", ".claude"])
def test_links_are_refused(desk: Desk, linked: str) -> None:
    elsewhere = desk.home / "dotfiles"
    elsewhere.mkdir()
    write(elsewhere / "it.json", "{}")
    (desk.project / linked).symlink_to(elsewhere if linked == ".claude" else elsewhere / "it.json")
    before = desk.files()
    assert "is a link to" in desk.install("claude", refused=True)
    assert desk.files() == before


def test_without_a_terminal_it_shows_the_change_and_makes_it_only_with_yes(desk: Desk) -> None:
    command = [str(Path(sys.executable).with_name("clinloop")), "install", "cursor", "--state", str(desk.state)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 1
    assert '+    "clinloop": {' in done.stdout and "--yes" in done.stderr and "Traceback" not in done.stderr
    assert desk.files() == {}


def test_print_changes_nothing_and_holds_what_would_be_written(desk: Desk) -> None:
    shown = desk.install("cursor", "--print", yes=False)
    assert desk.files() == {}
    _, _, body = shown.partition("\n")
    written = json.loads(body[: body.rindex("}") + 1])
    desk.install("cursor")
    assert json.loads((desk.project / ".cursor" / "mcp.json").read_text(encoding="utf-8")) == written
    link = urlsplit(next(word for word in shown.split() if word.startswith("cursor://")))
    config = parse_qs(link.query)["config"][0]
    assert json.loads(base64.b64decode(config)) == written["mcpServers"]["clinloop"]


def test_a_file_keeps_its_line_ends_its_indentation_and_its_letters(desk: Desk) -> None:
    text = '{\r\n    "mcpServers": {\r\n        "über": {\r\n            "command": "x"\r\n        }\r\n    }\r\n}'
    file = write(desk.project / ".cursor" / "mcp.json", text)
    desk.install("cursor")
    found = file.read_bytes().decode()
    assert found.startswith(text[: text.index("        }\r\n    }")]) and not found.endswith("\n")
    assert found.count("\n") == found.count("\r\n")
    desk.install("cursor", "--undo")
    assert file.read_bytes() == text.encode()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--http", "ftp://x"), "is no address"),
        (("--http", "http://x.example", "--token-env", "T"), "in the clear"),
        (("--token-env", "not a name"), "no name of a variable"),
        (("--data-root", "missing"), "is no folder"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_shown(desk: Desk, arguments: tuple[str, str], why: str) -> None:
    assert why in desk.install("claude", *arguments, refused=True)
    assert desk.files() == {}
