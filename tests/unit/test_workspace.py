"""The workspace: every change is a revision, nothing is lost, nothing outside is touched, nothing in it is executed."""

from __future__ import annotations

import hashlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clinloop.errors import BadInput, NotNow, Refusal, Unknown
from clinloop.workspace import Workspace

FILES = ["train.py", "predict.py", "README.md", "TECHNIQUES.md"]
TRAIN = "".join(f"line_{number} = {number}\n" for number in range(1, 101))


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A template folder with one file too many."""
    folder = tmp_path / "template"
    folder.mkdir()
    for name in ("predict.py", "README.md", "TECHNIQUES.md", "template.toml"):
        (folder / name).write_text(f"this is {name} of the template\n", encoding="utf-8")
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the workspace lies."""
    return tmp_path / "task" / "workspace"


@pytest.fixture
def workspace(template: Path, folder: Path) -> Workspace:
    """A workspace at r1."""
    folder.parent.mkdir()
    made = Workspace(folder, folder.parent / "revisions.git")
    made.create_from("linear", {name: template / name for name in FILES})
    return made


def test_a_new_workspace_holds_the_files_of_its_template_as_r1(
    workspace: Workspace, folder: Path, template: Path
) -> None:
    assert [file.path for file in workspace.listing().files] == ["README.md", "TECHNIQUES.md", "predict.py", "train.py"]
    assert (folder / "README.md").read_text(encoding="utf-8") == "this is README.md of the template\n"
    (only,) = workspace.log()
    assert (only.name, only.kind, len(only.commit)) == ("r1", "initial", 40)
    assert workspace.create_from("linear", {name: template / name for name in FILES}) == only


def test_each_edit_is_a_revision_with_its_diff(workspace: Workspace, folder: Path) -> None:
    made = workspace.replace("train.py", "line_50 = 50\n", "line_50 = 'x'\n")
    assert (made.revision, made.files_changed, made.outside_revision) == ("r2", ["train.py"], "")
    assert "-line_50 = 50\n+line_50 = 'x'\n" in made.diff
    assert "line_50 = 'x'\n" in (folder / "train.py").read_text(encoding="utf-8")
    assert workspace.insert("train.py", 0, "import x").revision == "r3"
    assert workspace.create("lib/net.py", "a = 1\n").revision == "r4"
    assert workspace.delete("lib/net.py").revision == "r5"
    assert not (folder / "lib").exists()
    assert [(item.name, item.kind, item.summary) for item in workspace.log(limit=3)] == [
        ("r5", "edit", "delete lib/net.py"),
        ("r4", "edit", "create lib/net.py"),
        ("r3", "edit", "insert in train.py after line 0"),
    ]
    assert workspace.diff(path="train.py").files_changed == ["train.py"]
    assert workspace.diff(since="r4", until="r5").text.startswith("--- a/lib/net.py\n+++ /dev/null\n")


def test_an_edit_that_changes_nothing_or_meets_a_file_in_the_way_is_refused(workspace: Workspace) -> None:
    with pytest.raises(BadInput, match="exists"):
        workspace.create("train.py", "x")
    with pytest.raises(BadInput, match="changes nothing"):
        workspace.create("train.py", TRAIN, overwrite=True)
    with pytest.raises(BadInput):
        workspace.create("train.py/inner.py", "x")
    with pytest.raises(Unknown, match=r"known: README\.md"):
        workspace.replace("tain.py", "a", "b")
    with pytest.raises(Unknown, match="known: r1"):
        workspace.restore("r9")
    for odd in ("HEAD", "r01", "r1; x", "../r1", ""):
        with pytest.raises(Unknown):
            workspace.revision(odd)
    assert workspace.snapshot().name == "r1"


def test_a_patch_of_several_files_is_applied_as_a_whole_or_not_at_all(workspace: Workspace, folder: Path) -> None:
    good = "--- a/train.py\n+++ b/train.py\n@@ -1,1 +1,1 @@\n-line_1 = 1\n+line_1 = 'one'\n--- /dev/null\n+++ b/new.py\n@@ -0,0 +1,1 @@\n+a\n"
    bad = good + "--- a/README.md\n+++ b/README.md\n@@ -1,1 +1,1 @@\n-wrong\n+x\n"
    with pytest.raises(BadInput, match=r"Hunk 1 of README\.md does not apply"):
        workspace.patch(bad)
    os.mkfifo(folder / "new.py")
    with pytest.raises(BadInput, match=r"new\.py exists"):
        workspace.patch(good)
    (folder / "new.py").unlink()
    assert workspace.snapshot().name == "r1"
    assert workspace.patch(good).files_changed == ["new.py", "train.py"]


def test_an_edit_that_cannot_be_written_takes_back_what_it_wrote(workspace: Workspace, folder: Path) -> None:
    (folder / "locked").symlink_to(folder.parent)
    patch = "--- a/predict.py\n+++ b/predict.py\n@@ -1,1 +1,1 @@\n-this is predict.py of the template\n+x\n--- /dev/null\n+++ b/zz/a\n@@ -0,0 +1,1 @@\n+a\n"
    with pytest.raises(BadInput):
        workspace.patch(patch.replace("zz/a", "locked/a"))
    with pytest.raises(BadInput):
        workspace.patch(patch.replace("zz/a", "train.py/a"))
    assert workspace.snapshot().name == "r1"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["revisions.git", "workspace"]


def test_restore_brings_back_one_file_or_all_as_a_new_revision(workspace: Workspace, folder: Path) -> None:
    workspace.replace("train.py", "line_1 = 1\n", "changed\n")
    workspace.delete("README.md")
    workspace.create("README.md/now-a-folder.txt", "x")
    assert workspace.restore("r1", path="train.py").revision == "r5"
    assert (folder / "train.py").read_text(encoding="utf-8") == TRAIN
    assert workspace.restore("r1").files_changed == ["README.md", "README.md/now-a-folder.txt"]
    assert workspace.tree_digest("r6") == workspace.tree_digest("r1")
    assert workspace.restore("r4").revision == "r7"
    assert workspace.log(limit=1)[0].kind == "restore"


def test_changes_made_outside_are_recorded_before_the_next_edit(workspace: Workspace, folder: Path) -> None:
    (folder / "train.py").write_bytes(b"outside\n")
    (folder / "binary.bin").write_bytes(b"\0\xff")
    assert [(file.path, file.n_lines, file.is_changed) for file in workspace.listing().files][2:] == [
        ("binary.bin", None, True),
        ("predict.py", 1, False),
        ("train.py", 1, True),
    ]
    made = workspace.insert("predict.py", 1, "x")
    assert (made.outside_revision, made.revision, made.files_changed) == ("r2", "r3", ["predict.py"])
    assert workspace.revision("r2").kind == "outside"
    assert "binary.bin, train.py" in workspace.revision("r2").summary
    with pytest.raises(BadInput, match="no UTF-8 text"):
        workspace.view("binary.bin")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert workspace.snapshot().name == "r4"
    workspace.restore("r1")
    assert (folder / "train.py").read_text(encoding="utf-8") == TRAIN


def test_a_view_numbers_lines_and_says_how_to_see_more(workspace: Workspace) -> None:
    shown = workspace.view("train.py", first_line=99)
    assert shown.text == "   99  line_99 = 99\n  100  line_100 = 100"
    assert (shown.last_line, shown.n_lines, shown.note) == (100, 100, "")
    workspace.create("long.txt", "word " * 1000 + "\n" + "x\n" * 5000)
    shown = workspace.view("long.txt")
    assert len(shown.text) <= 7_000
    assert "… (+4,600 characters)" in shown.text
    assert f"first_line={shown.last_line + 1}" in shown.note
    assert workspace.view("long.txt", first_line=2, last_line=3).note == ""
    workspace.create("empty.txt", "")
    assert workspace.view("empty.txt").text == ""
    for first, last in ((0, None), (102, None), (5, 4)):
        with pytest.raises(BadInput):
            workspace.view("train.py", first_line=first, last_line=last)


def test_search_finds_plain_text_and_says_that_it_is_plain(workspace: Workspace) -> None:
    found = workspace.search("line_10", glob="*.py")
    assert [(match.path, match.line) for match in found.matches] == [("train.py", 10), ("train.py", 100)]
    assert workspace.search("LINE_", ignore_case=True).n_matches == 100
    assert len(workspace.search("line_").matches) == 50
    nothing = workspace.search("line_.*", glob="**/*.py")
    assert (nothing.matches, nothing.n_matches) == ([], 0)
    assert "regular expression" in nothing.note
    workspace.create("long.txt", "x" * 10_000 + "needle" + "y" * 10_000)
    assert "needle" in workspace.search("needle").matches[0].text
    begin = time.monotonic()
    workspace.search("x", glob="*x" * 100)
    assert time.monotonic() - begin < 2


def test_a_long_diff_is_cut_and_says_so(workspace: Workspace) -> None:
    made = workspace.create("long.txt", "some line\n" * 2000)
    assert len(made.diff) < 6_200
    assert "more lines of the diff are not shown" in made.diff


def test_limits_refuse_an_edit_and_name_what_lies_over_them(workspace: Workspace, folder: Path) -> None:
    with pytest.raises(BadInput, match="at most 1,048,576"):
        workspace.create("big.txt", "x" * ((1 << 20) + 1))
    for text in ("a\0b", "\ud800"):
        with pytest.raises(BadInput):
            workspace.create("odd.txt", text)
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(1 << 40)
    snapshot = workspace.snapshot()
    assert (snapshot.name, snapshot.skipped) == ("r1", ("weights.bin: larger than 1,048,576 bytes",))
    with pytest.raises(BadInput, match="no part of the revisions"):
        workspace.create("weights.bin", "small")
    for number in range(200):
        (folder / f"n{number}").write_bytes(b"x")
    with pytest.raises(NotNow, match="205 files"):
        workspace.snapshot()
    assert any("205 files" in line for line in workspace.listing().skipped)


@pytest.mark.parametrize(
    ("path", "plant"),
    [
        ("x", lambda root: (root / "x").symlink_to("/etc/passwd")),
        ("x/passwd", lambda root: (root / "x").symlink_to("/etc")),
        ("x", lambda root: os.link(root.parent / "secret", root / "x")),
        ("x", lambda root: os.mkfifo(root / "x")),
        ("../secret", None),
        ("/etc/passwd", None),
        (".git/config", None),
        ("a/.GIT/hooks/x", None),
        ("a\0b", None),
        ("~/x", None),
    ],
)
def test_no_operation_follows_a_hostile_path(
    workspace: Workspace, folder: Path, path: str, plant: Callable[[Path], None] | None
) -> None:
    (folder.parent / "secret").write_bytes(b"root:secret")
    if plant:
        plant(folder)
    patch = f"--- a/{path}\n+++ b/{path}\n@@ -1,1 +1,1 @@\n-root:secret\n+x\n"
    operations: list[Callable[[], object]] = [
        lambda: workspace.view(path),
        lambda: workspace.create(path, "x"),
        lambda: workspace.create(path, "x", overwrite=True),
        lambda: workspace.replace(path, "root", "x"),
        lambda: workspace.insert(path, 0, "x"),
        lambda: workspace.patch(patch),
        lambda: workspace.delete(path),
        lambda: workspace.diff(path=path),
        lambda: workspace.restore("r1", path=path),
    ]
    for operation in operations:
        with pytest.raises(Refusal):
            operation()
    snapshot = workspace.snapshot()
    assert snapshot.name == "r1"
    assert [line.split(":")[0] for line in snapshot.skipped] == (["x"] if plant else [])
    assert [line.split(":")[0] for line in workspace.listing().skipped] == (["x"] if plant else [])
    assert workspace.search("root:").n_matches == 0
    assert (folder.parent / "secret").read_bytes() == b"root:secret"


def test_a_workspace_replaced_by_a_link_is_refused(workspace: Workspace, folder: Path) -> None:
    folder.rename(folder.parent / "moved")
    folder.symlink_to(folder.parent / "moved")
    for operation in (workspace.snapshot, workspace.listing, lambda: workspace.create("x.py", "x")):
        with pytest.raises(BadInput):
            operation()
    assert not (folder.parent / "moved" / "x.py").exists()


def test_nothing_that_is_planted_in_the_workspace_or_the_home_is_executed(
    workspace: Workspace, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "executed"
    attack = f"touch {marker}; cat"
    config = (
        f'[core]\n\tfsmonitor = "{attack}"\n\thooksPath = {folder}/.git/hooks\n\tautocrlf = true\n'
        f'[filter "x"]\n\tclean = "{attack}"\n\tsmudge = "{attack}"\n\trequired = true\n[diff "x"]\n\ttextconv = "{attack}"\n'
    )
    (folder / ".git" / "hooks").mkdir(parents=True)
    for hook in ("pre-commit", "post-commit", "post-checkout", "reference-transaction", "post-index-change"):
        (folder / ".git" / "hooks" / hook).write_text(f"#!/bin/sh\n{attack}\n", encoding="utf-8")
        (folder / ".git" / "hooks" / hook).chmod(0o755)
    (folder / ".git" / "config").write_text(config, encoding="utf-8")
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n", encoding="utf-8")
    (folder / ".gitattributes").write_text("* filter=x diff=x text eol=lf\n", encoding="utf-8")
    (folder / "sitecustomize.py").write_text(f"import os; os.system({attack!r})\n", encoding="utf-8")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(config, encoding="utf-8")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(folder / ".git"))
    monkeypatch.setenv("PATH", "")
    (folder / "train.py").write_bytes(b"a\r\nb\r\n")
    assert workspace.snapshot().skipped == (".git: never looked at",)
    workspace.replace("train.py", "a\n", "c\n")
    workspace.restore("r2", path="train.py")
    workspace.diff()
    workspace.export("r4", tmp_path / "exported")
    assert not marker.exists()
    assert (tmp_path / "exported" / "train.py").read_bytes() == b"a\r\nb\r\n"
    assert not (tmp_path / "exported" / ".git").exists()


def test_an_export_is_the_revision_with_constant_modes_and_times(workspace: Workspace, tmp_path: Path) -> None:
    workspace.create("lib/net.py", "a = 1\n")
    workspace.create("train.py", "later", overwrite=True)
    previous = os.umask(0o077)
    try:
        workspace.export("r2", tmp_path / "code")
    finally:
        os.umask(previous)
    facts = {
        str(path.relative_to(tmp_path / "code")): path.stat()
        for path in [tmp_path / "code", *(tmp_path / "code").rglob("*")]
    }
    assert {name: oct(fact.st_mode & 0o777) for name, fact in facts.items() if "." not in name or name == "."} == {
        ".": "0o755",
        "lib": "0o755",
    }
    assert {oct(fact.st_mode & 0o777) for name, fact in facts.items() if "." in name[1:]} == {"0o644"}
    assert len({fact.st_mtime for fact in facts.values()}) == 1
    assert (tmp_path / "code" / "train.py").read_text(encoding="utf-8") == TRAIN
    with pytest.raises(FileExistsError):
        workspace.export("r1", tmp_path / "code")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "task", "template"]


def test_the_tree_digest_depends_on_content_and_names_alone(workspace: Workspace, template: Path) -> None:
    first = workspace.tree_digest("r1")
    workspace.create("a.py", "x")
    workspace.delete("a.py")
    assert workspace.tree_digest("r3") == first
    assert workspace.tree_digest("r2") != first
    lines = "".join(f"{name}\0{hashlib.sha256((template / name).read_bytes()).hexdigest()}\n" for name in sorted(FILES))
    assert first == hashlib.sha256(lines.encode()).hexdigest()


def test_git_reads_the_store(workspace: Workspace, folder: Path) -> None:
    workspace.create("lib/net.py", "a = 1\n")
    workspace.create("lib.py", "a = 1\n")
    store = folder.parent / "revisions.git"
    git = ["git", "-c", "safe.directory=*", "--git-dir", str(store)]
    checked = subprocess.run(
        [*git, "fsck", "--strict", "--full"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr
    listed = subprocess.run(
        [*git, "log", "--format=%h %s", "r3"], capture_output=True, text=True, timeout=60, check=True
    )
    assert listed.stdout.splitlines() == [f"{item.commit[:7]} {item.summary}" for item in workspace.log()]


_EDITOR = """
import sys
from pathlib import Path
from clinloop.workspace import Workspace
folder, name, n_edits = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
workspace = Workspace(folder, folder.parent / "revisions.git")
for number in range(n_edits):
    made = workspace.insert("train.py", 0, f"edit {name} {number}")
    print(made.revision, name, number, flush=True)
"""


def _editor(folder: Path, name: str, n_edits: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _EDITOR, str(folder), name, str(n_edits)], stdout=subprocess.PIPE, text=True
    )


def test_edits_of_four_processes_at_once_are_all_kept(workspace: Workspace, folder: Path) -> None:
    editors = [_editor(folder, name, 20) for name in "abcd"]
    told = "".join(editor.communicate(timeout=60)[0] for editor in editors).split("\n")[:-1]
    lines = (folder / "train.py").read_text(encoding="utf-8").splitlines()
    assert sorted(line for line in lines if line.startswith("edit")) == sorted(
        f"edit {name} {n}" for name in "abcd" for n in range(20)
    )
    assert sorted(int(line.split()[0][1:]) for line in told) == list(range(2, 82))
    assert {item.kind for item in workspace.log(limit=80)} == {"edit"}


def test_an_editor_killed_at_any_moment_loses_no_edit_that_it_reported(workspace: Workspace, folder: Path) -> None:
    reported: list[str] = []
    for round_number in range(6):
        editor = _editor(folder, str(round_number), 10_000)
        assert editor.stdout is not None
        reported += [editor.stdout.readline() for _ in range(3)]
        time.sleep(0.003 * round_number)  # the moment of the kill is what is varied
        editor.send_signal(signal.SIGKILL)
        reported += editor.communicate(timeout=60)[0].splitlines(keepends=True)
    reported = [line for line in reported if line.endswith("\n")]
    made = workspace.insert("predict.py", 0, "after")
    text = (folder / "train.py").read_text(encoding="utf-8")
    for line in reported:
        revision, name, number = line.split()
        assert f"edit {name} {number}\n" in text
        assert revision in {item.name for item in workspace.log(limit=10_000)}
    assert [item.number for item in workspace.log(limit=10_000)] == list(range(int(made.revision[1:]), 0, -1))


def test_a_new_process_does_not_import_git_code_before_it_needs_it() -> None:
    code = "import sys; import clinloop.workspace; sys.exit(any(name.startswith('dulwich') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_an_edit_is_quick(workspace: Workspace, record_property: Callable[[str, object], None]) -> None:
    seconds: list[float] = []
    for number in range(40):
        begin = time.perf_counter()
        workspace.insert("train.py", 50, f"new = {number}")
        seconds.append(time.perf_counter() - begin)
    record_property("median_edit_ms", round(1000 * statistics.median(seconds), 2))
    print(f"median of an edit: {1000 * statistics.median(seconds):.2f} ms")
    assert workspace.snapshot().name == "r41"


def test_a_diff_summary_counts_lines_of_each_file(workspace: Workspace) -> None:
    workspace.replace("train.py", "line_1 = 1\n", "a\nb\n")
    workspace.create("z.py", "x\n")
    assert workspace.diff_summary("r1", "r3") == "train.py +2 -1; z.py +1 -0"
