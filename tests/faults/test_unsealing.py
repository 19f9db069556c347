"""A sealed test set: finalize waits for the clinician, whose key opens it in memory, once; nothing readable stays on the disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from pyrage.x25519 import Identity

from clinloop import ingestion, memory, runs
from clinloop.datasets import sealed
from clinloop.datasets.dataset import Dataset
from clinloop.failpoints import UNCOMMITTED
from clinloop.report.verify import verify
from clinloop.sandbox import backends
from clinloop.services import Services
from clinloop.settings import load_settings

from .conftest import SMALL, end_supervisors
from .killing import failpoints
from .lab import Lab, commands, predict_code, until

BY_PIXELS = """
from PIL import Image
rows = []
for case, image in predict_cases(args.images):
    with Image.open(image) as opened:
        value = sum(opened.convert("L").resize((1, 1)).getdata()) / 255
    rows.append([value, (1 - value) / 2, (1 - value) / 2])
"""
LEAKS = (
    BY_PIXELS
    + """
import shutil
shutil.copytree(args.images, args.out.parent / "copies")
print("the test images are", sorted(os.listdir(args.images)), flush=True)
"""
)


class Sealed:
    """A lab whose dataset `moles` is sealed, and the identity that opens it."""

    def __init__(self, lab: Lab, identity: Identity, arguments: list[str]) -> None:
        self.lab, self.identity, self._arguments = lab, identity, arguments

    @property
    def folder(self) -> Path:
        return Dataset.load(self.lab.services.settings.state, "moles").folder

    def awaiting(self, predict: str = BY_PIXELS) -> str:
        """Take a task to where it waits for the key."""
        task = self.lab.task(predict=predict_code(predict))
        self.lab.full(task)
        self.lab.finalize(task)
        until(lambda: self.lab.store.task(task).status != "evaluating", 60)
        assert self.lab.store.task(task).status == "awaiting_unseal", self.lab.store.task(task)
        return task

    def start(self, task: str, identity: Identity | None = None) -> subprocess.Popen[str]:
        """Start `clinloop unseal` with the key on standard input."""
        command = [sys.executable, "-m", "clinloop", "unseal", task, "--identity", "-", *self._arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
        assert process.stdin
        process.stdin.write(f"# mine\n{identity or self.identity}\n")
        process.stdin.close()
        process.stdin = None
        return process

    def unseal(self, task: str, identity: Identity | None = None) -> tuple[int, str]:
        """Run `clinloop unseal` to its end; exit status and everything that it said."""
        process = self.start(task, identity)
        said = "".join(process.communicate(timeout=120))
        return process.returncode, " ".join(said.split())

    def readable(self, *folders: Path) -> list[str]:
        """Return files in which an image or the truth of the test set can be read, or that hold the key."""
        facts = sealed.open_facts(self.folder, [self.identity])
        images = [data[40:-20] for _, data in sealed.open_images(self.folder, facts, [self.identity])]
        rows = [line.encode() for line in facts.table.splitlines()[1:]]
        ids = [row.split(b",")[0] for row in rows]
        secrets = [*images, *rows, *ids, str(self.identity).encode()]
        found: list[str] = []
        for file in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
            data = file.read_bytes()
            is_copy = file.suffix == ".png" and "final" in file.parts  # encoded afresh, so under other bytes
            found += [str(file)] if is_copy or any(secret in data for secret in secrets) else []
        return found


@pytest.fixture(scope="module")
def sealed_state(tmp_path_factory: pytest.TempPathFactory, class_folders: Path) -> tuple[Path, Identity]:
    """A state folder with the sealed dataset `moles`, to be copied, and the identity."""
    identity, state = Identity.generate(), tmp_path_factory.mktemp("sealed") / "state"
    ingestion.add(
        Services(load_settings(state)), class_folders, "moles", cache_px=(16,), seal=(str(identity.to_public()),)
    )
    return state, identity


def copied(tmp_path: Path, sealed_state: tuple[Path, Identity], sandbox: str) -> Sealed:
    whence, identity = sealed_state
    state, accept = Path(shutil.copytree(whence, tmp_path / "sealed")), sandbox == "none"
    services = Services(load_settings(state, sandbox=sandbox, limits=SMALL), accept_no_isolation=accept)
    arguments = ["--state", str(state), "--sandbox", sandbox, *(["--i-accept-no-isolation"] if accept else [])]
    return Sealed(Lab(services), identity, arguments)


@pytest.fixture
def clinic(tmp_path: Path, sealed_state: tuple[Path, Identity]) -> Generator[Sealed]:
    yield copied(tmp_path, sealed_state, "none")
    end_supervisors(tmp_path / "sealed")


@pytest.fixture(params=["bubblewrap", pytest.param("docker", marks=pytest.mark.docker)])
def strict_clinic(
    request: pytest.FixtureRequest, tmp_path: Path, sealed_state: tuple[Path, Identity]
) -> Generator[Sealed]:
    if request.param == "docker":
        image = '{"image": "minimal"}'  # of the command line too
        (sealed_state[0] / "settings.json").write_text(image, encoding="utf-8")
    made = copied(tmp_path, sealed_state, request.param)
    backend = backends.load_backend(request.param, made.lab.services.settings)
    probe = backend.probe()
    if not probe.usable:
        pytest.skip(f"{request.param} cannot be used here: {probe.problem}")
    if request.param == "docker" and backend.find_environment("minimal") is None:
        pytest.skip("the engine has no image minimal")
    yield made
    end_supervisors(tmp_path / "sealed")


def rooms(state: Path) -> list[str]:
    """Return what is left in memory of a state folder's unsealings."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    left = [str(path) for path in Path("/dev/shm").glob(f"clinloop-{os.geteuid()}-*")]
    return left + [point for point in mounts if point.startswith(str(state))]


def test_finalize_waits_for_the_key_and_the_key_brings_the_task_to_a_report_that_verifies(clinic: Sealed) -> None:
    lab, task = clinic.lab, clinic.awaiting()
    other = clinic.awaiting()
    state = lab.services.settings.state
    assert lab.events(task)[-1] == "frozen" and "unsealing" not in lab.events(task)
    lab.finalize(task)  # repeated
    assert runs.recover(lab.services) == [] and lab.store.task(task).status == "awaiting_unseal"

    status, said = clinic.unseal(task)

    assert status == 0, said
    assert "still readable" in said  # the originals of this test are
    assert lab.store.task(task).status == "evaluated"
    assert lab.events(task).count("unsealing") == 1
    report = lab.services.state.task(task).report
    assert [file.name for file in sorted((report / "evidence").iterdir())] == [
        "initial.csv.age",
        "refined.csv.age",
        "truth.csv.age",
    ]
    opened = verify(report, identities=[clinic.identity])
    assert opened.ok, [check for check in opened.checks if not check.ok]
    assert any("computed again, equal" in check.detail for check in opened.checks)
    closed = verify(report)
    assert closed.ok
    assert "not computed again" in next(check.detail for check in closed.checks if check.name == "test scores")
    stranger = verify(report, identities=[Identity.generate()])
    assert {check.name for check in stranger.checks if not check.ok} == {"evidence", "test scores", "analysis"}
    assert clinic.readable(state) == [] and rooms(state) == []
    assert lab.store.task(other).status == "awaiting_unseal"
    integrity = json.loads((report / "report.json").read_text(encoding="utf-8"))["integrity"]
    assert integrity["sealed_to"] == [str(clinic.identity.to_public())] and integrity["originals_readable"] is True

    again, said = clinic.unseal(task)
    assert again == 1 and "opened once" in said


def test_a_wrong_key_is_refused_before_anything_is_recorded(clinic: Sealed) -> None:
    task = clinic.awaiting()
    before = clinic.lab.store.ledger(f"task:{task}")

    status, said = clinic.unseal(task, Identity.generate())

    assert status == 1 and "does not open the seal" in said
    assert clinic.lab.store.ledger(f"task:{task}") == before
    assert clinic.lab.store.task(task).status == "awaiting_unseal"
    assert clinic.unseal(task)[0] == 0


TAMPERED: dict[str, tuple[Callable[[Sealed, Path], object], str]] = {
    "a sealed piece": (
        lambda clinic, _: (clinic.folder / "vault" / "images" / "000000.age").write_bytes(b"age"),
        "damaged",
    ),
    "a validation label": (
        lambda clinic, _: (clinic.folder / "cases.csv").write_text(
            (clinic.folder / "cases.csv").read_text(encoding="utf-8").replace(",nevus,", ",melanoma,", 1),
            encoding="utf-8",
        ),
        "committed to",
    ),
    "the frozen code": (
        lambda _, final: (final / "refined" / "code" / "predict.py").write_text("import os"),
        "code of refined",
    ),
    "another file beside the frozen code": (
        lambda _, final: (final / "initial" / "code" / "PIL.py").touch(),
        "code of initial",
    ),
    "the frozen weights": (
        lambda _, final: (final / "refined" / "checkpoint").write_text("x"),
        "checkpoint of refined",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_changed_while_the_task_waited_is_found_before_the_test_set_is_opened(
    clinic: Sealed, what: str
) -> None:
    change, words = TAMPERED[what]
    task = clinic.awaiting()
    change(clinic, clinic.lab.services.state.task(task).final)

    status, said = clinic.unseal(task)

    assert status == 1 and words in said and "Traceback" not in said, said
    assert "unsealing" not in clinic.lab.events(task)
    assert rooms(clinic.lab.services.settings.state) == []


def test_an_unsealing_that_is_killed_can_be_repeated_once_and_leaves_nothing_in_memory(clinic: Sealed) -> None:
    lab, task = clinic.lab, clinic.awaiting(BY_PIXELS + "time.sleep(1)")
    final = lab.services.state.task(task).final
    for begun in (["predicting"], ["predicting", "interrupted"]):
        process = clinic.start(task)
        until(lambda begun=begun: all((final / name).exists() for name in begun), 60)
        assert str(clinic.identity) not in " ".join(" ".join(words) for words in commands().values())
        time.sleep(0.3)
        process.kill()
        process.communicate()
        assert lab.store.task(task).status == "unsealed"
        runs.recover(lab.services, task)  # the agent's next call: it cannot carry on, but it clears the memory
        assert not lab.supervisors(task, "finalize") and rooms(lab.services.settings.state) == []

    status, said = clinic.unseal(task)

    assert status == 1, said
    assert lab.store.task(task).status == "invalid"
    assert "interrupted twice" in (final / "failure.txt").read_text(encoding="utf-8")
    assert clinic.readable(lab.services.settings.state) == []


def test_an_unsealing_that_was_killed_once_ends_with_one_opening_and_says_so(clinic: Sealed) -> None:
    lab, task = clinic.lab, clinic.awaiting(BY_PIXELS + "time.sleep(1)")
    process = clinic.start(task)
    until((lab.services.state.task(task).final / "predicting").exists, 60)
    time.sleep(0.3)
    process.kill()
    process.communicate()

    status, said = clinic.unseal(task)

    assert status == 0, said
    events = lab.events(task)
    assert events.count("unsealing") == events.count("evaluation_resumed") == events.count("evaluated") == 1
    report = lab.services.state.task(task).report
    assert verify(report, identities=[clinic.identity]).ok
    assert "resumed" in json.loads((report / "report.json").read_text(encoding="utf-8"))["integrity"]["touched"]


@pytest.mark.parametrize("name", failpoints("finalize:awaiting_unseal"))
def test_an_evaluation_that_is_killed_as_it_begins_to_wait_for_the_key_waits_and_is_opened_once(
    clinic: Sealed, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lab = clinic.lab
    task = lab.task(predict=predict_code(BY_PIXELS))
    lab.full(task)
    with monkeypatch.context() as armed:
        armed.setenv("CLINLOOP_FAILPOINT", name)
        lab.finalize(task)
    log = lab.services.state.task(task).final / "supervisor.log"
    until(lambda: f"killed at failpoint {name}" in log.read_text(), 60)
    until(lambda: not lab.supervisors(task, "finalize"), 10)
    runs.recover(lab.services, task)
    until(lambda: lab.store.task(task).status == "awaiting_unseal", 60)
    assert "unsealing" not in lab.events(task) and lab.events(task).count("frozen") == 1
    assert clinic.unseal(task)[0] == 0
    assert lab.events(task).count("unsealing") == lab.events(task).count("evaluated") == 1
    lab.check(task)


@pytest.mark.parametrize(
    "name", [*failpoints("finalize:unsealing"), "unseal:opened", *failpoints("finalize:evaluated")]
)
def test_an_unsealing_that_is_killed_at_a_failpoint_opens_the_test_set_once_and_each_touch_is_recorded(
    clinic: Sealed, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lab, task = clinic.lab, clinic.awaiting()
    with monkeypatch.context() as armed:
        armed.setenv("CLINLOOP_FAILPOINT", name)
        assert clinic.unseal(task)[0] == -9
    runs.recover(lab.services, task)

    if name != "finalize:evaluated":
        assert clinic.unseal(task)[0] == 0

    until(lambda: not runs.recover(lab.services, task) and not lab.supervisors(task, "finalize"), 30)
    events = lab.events(task)
    assert events.count("unsealing") == events.count("evaluated") == 1
    assert events.count("evaluation_resumed") == (
        name not in (f"finalize:unsealing{UNCOMMITTED}", "finalize:evaluated")
    )
    lab.check(task)


def test_two_unsealings_at_once_open_the_test_set_once(clinic: Sealed) -> None:
    task = clinic.awaiting(BY_PIXELS + "time.sleep(0.5)")
    processes = [clinic.start(task) for _ in range(3)]
    said = ["".join(process.communicate(timeout=120)) for process in processes]

    assert sorted(process.returncode for process in processes) == [0, 1, 1], said
    assert clinic.lab.events(task).count("unsealing") == 1
    assert clinic.lab.store.task(task).status == "evaluated"


@pytest.mark.sandbox
def test_code_that_copies_and_prints_the_test_images_leaves_nothing_of_them_on_the_disk(strict_clinic: Sealed) -> None:
    lab, task = strict_clinic.lab, strict_clinic.awaiting(LEAKS)
    state = lab.services.settings.state
    process = strict_clinic.start(task)
    room = lab.services.state.task(task).final / runs.ROOM
    seen: set[str] = set()
    while process.poll() is None:
        outside = [Path(folder) / name for folder, _, names in os.walk(state) for name in names]
        seen |= {
            str(path) for path in outside if path.suffix == ".img" and task in str(path) and room not in path.parents
        }
        time.sleep(0.02)
    said = "".join(process.communicate())

    assert process.returncode == 0, said
    assert "the test images are" not in said
    assert not seen  # image files of volumes would lie on the disk
    assert strict_clinic.readable(state) == [] and rooms(state) == []


def test_a_task_on_a_data_set_that_is_not_sealed_has_nothing_to_unseal(lab: Lab, clinic: Sealed) -> None:
    task = lab.task()
    command = [
        sys.executable,
        "-m",
        "clinloop",
        "unseal",
        task,
        "--identity",
        "-",
        "--state",
        str(lab.services.settings.state),
    ]
    ended = subprocess.run(
        command, input=str(clinic.identity), capture_output=True, text=True, encoding="utf-8", check=False, timeout=60
    )
    assert ended.returncode == 1 and "is not sealed" in ended.stderr


def test_a_task_that_is_open_does_not_wait_for_a_key(clinic: Sealed) -> None:
    status, said = clinic.unseal(clinic.lab.task())
    assert status == 1 and "the agent calls finalize first" in said


def test_a_place_in_memory_is_private_and_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for is_root in {os.geteuid() == 0, False}:
        if not is_root:
            monkeypatch.setattr(memory, "_run", _refuse)  # as where nothing may be mounted
        place = memory.make_room(tmp_path / "room")
        assert memory.is_in_memory(place) and place.stat().st_mode & 0o777 == 0o700
        (place / "secret").write_text("x")
        monkeypatch.undo()
        memory.clear_room(tmp_path / "room")
        memory.clear_room(tmp_path / "room")
        assert not place.exists() and not (tmp_path / "room").exists()
    assert not memory.is_in_memory(Path(__file__))


def _refuse(*_argv: str) -> Any:
    raise OSError("not permitted")
