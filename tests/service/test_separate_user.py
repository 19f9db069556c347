"""Level L2, with a real second user: the service's user has what the agent's user cannot reach, and the level says when that is not so."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import subprocess
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import stdio_client

from ..conftest import own_parents
from ..mcp.conftest import ERAS, REQUEST, SPEC, Agent
from .conftest import TEAM, A, B, Installed, Service, wait

pytestmark = pytest.mark.anyio

OPEN_ALL = """
import json, os, sys
opened = []
for path in sys.argv[1:]:
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(path, flags))
            opened.append(path)
        except OSError as error:
            pass
    try:
        os.listdir(path)
        opened.append(path)
    except OSError:
        pass
    try:
        os.rename(path, path + ".moved")
        opened.append(path)
    except OSError:
        pass
print(json.dumps(opened))
"""


@asynccontextmanager
async def connected(
    service: Service, era: str = ERAS[0], user: int = B, groups: tuple[int, ...] = ()
) -> AsyncGenerator[Agent]:
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        async with Client(stdio_client(service.client(user, groups), errlog=errors), mode=era) as client:
            yield Agent(client)


@pytest.mark.parametrize("era", ERAS)
async def test_an_agent_of_another_user_trains_through_the_socket_at_level_2(service: Service, era: str) -> None:
    service.start()
    async with connected(service, era) as agent:
        assert (await agent.call("inspect_dataset", dataset="moles"))["guarantee"] == "L2"
        task = await agent.call(
            "init_task",
            dataset="moles",
            request="Tell these three kinds of moles apart for me, please.",
            spec={"objective": "Tell three kinds of moles apart.", "budget": "demo", "acceptance": "paper"},
            template="linear",
        )
        assert task["guarantee"] == "L2"
        assert task["guarantee_meaning"].startswith("L2 separate user")
        assert task["workspace"] == ""
        assert str(service.folder) not in json.dumps(task)
        run = await agent.run(task["task_id"])
        assert (run["status"], run["decision"]) == ("succeeded", "accepted"), run
        final = await agent.finalize(task["task_id"], "run0")
        assert (final["status"], final["guarantee"]) == ("evaluated", "L2"), final
    report = json.loads(
        (service.state / "tasks" / task["task_id"] / "report" / "report.json").read_text(encoding="utf-8")
    )
    assert report["guarantee"]["level"] == "L2"
    assert report["environment"]["backend"] == "bubblewrap"
    owners = {path.lstat().st_uid for path in service.state.rglob("*")}
    assert owners == {A}
    assert f"uid {B}" in service.log.read_text(encoding="utf-8")


async def test_the_agents_user_reaches_neither_files_nor_memory_nor_code(service: Service) -> None:
    service.start()
    assert service.process is not None
    async with connected(service) as agent:
        await agent.begin()
        state, package = service.state, service.installed.folder / "venv"
        vault = state / "datasets" / "moles" / "vault"
        secrets = [vault, vault / "cases.csv", state / "key", state / "clinloop.sqlite", state, state / "tasks"]
        assert all(path.exists() for path in secrets)
        memory = [Path(f"/proc/{service.process.pid}/{name}") for name in ("mem", "environ", "maps", "fd")]
        assert service.as_user(OPEN_ALL, *secrets, *memory) == []
        site = sorted((package / "lib").glob("python*"))[0] / "site-packages"
        code = [
            site / "clinloop" / "guarantee.py",
            site / "clinloop_tools" / "finalize.py",
            site / "numpy" / "__init__.py",
        ]
        written = """
import json, os, sys
done = []
for path in sys.argv[1:]:
    for change in (lambda: os.close(os.open(path, os.O_WRONLY)), lambda: os.rename(path, path + ".x"), lambda: os.unlink(path),
                   lambda: os.close(os.open(os.path.dirname(path) + "/new.py", os.O_WRONLY | os.O_CREAT))):
        try:
            change()
            done.append(path)
        except OSError:
            pass
print(json.dumps(done))
"""
        assert service.as_user(written, *code, service.installed.python, service.socket) == []


@pytest.mark.parametrize("argument", ["environ", "mem"])
async def test_even_a_process_of_the_services_own_user_cannot_read_its_memory(service: Service, argument: str) -> None:
    service.start()
    assert service.process is not None
    assert service.as_user(OPEN_ALL, f"/proc/{service.process.pid}/{argument}", user=A) == []


async def test_access_to_a_container_engine_takes_the_level_away(service: Service) -> None:
    service.start()
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(service.engine))
        engine.listen()
        os.chown(service.engine, 0, TEAM)
        service.engine.chmod(0o660)
        async with connected(service) as agent:
            assert (await agent.call("inspect_dataset"))["guarantee"] == "L2"
            task_id = await agent.begin()
        async with connected(service, groups=(TEAM,)) as agent:
            assert (await agent.call("inspect_dataset"))["guarantee"] == "L0"
            again = await agent.call("init_task", dataset="moles", **task_arguments())
            assert again["task_id"] == task_id
            assert "reaches container engine" in again["guarantee_meaning"]
    recorded = [row.detail["level"] for row in ledger(service, task_id)]
    assert recorded == ["L2", "L0"]  # the report will state the lowest


@pytest.mark.parametrize("group", ["sudo", "disk"])
async def test_an_administrators_group_takes_the_level_away(service: Service, group: str) -> None:
    import grp

    service.start()
    async with connected(service, groups=(grp.getgrnam(group).gr_gid,)) as agent:
        task = await agent.call("init_task", dataset="moles", **task_arguments())
        assert task["guarantee"] == "L0"
        assert "reaches administrator" in task["guarantee_meaning"]


async def test_the_services_own_user_gets_level_0_through_the_socket(service: Service) -> None:
    service.start()
    async with connected(service, user=A) as agent:
        task = await agent.call("init_task", dataset="moles", **task_arguments())
        assert task["guarantee"] == "L0"
        assert "same user" in task["guarantee_meaning"]


async def test_originals_that_the_agents_user_can_read_take_the_level_away(
    service: Service, class_folders: Path
) -> None:
    service.start()
    parents = own_parents(class_folders)
    modes = [parent.stat().st_mode for parent in parents]
    try:
        for parent in parents:
            parent.chmod(0o755)
        async with connected(service) as agent:
            task = await agent.call("init_task", dataset="moles", **task_arguments())
            assert task["guarantee"] == "L0"
            assert "reaches originals" in task["guarantee_meaning"]
            assert str(class_folders) not in json.dumps(task)
    finally:
        for parent, mode in zip(parents, modes, strict=True):
            parent.chmod(mode)


async def test_a_mode_that_opens_the_store_takes_the_level_away_within_seconds(service: Service) -> None:
    service.start()
    async with connected(service) as agent:
        await agent.begin()
        service.state.chmod(0o755)
        (service.state / "clinloop.sqlite").chmod(0o644)
    async with connected(service) as agent:
        assert (await agent.call("inspect_dataset"))["guarantee"] == "L0"


def doctor(service: Service, *arguments: str, user: int = 0) -> str:
    done = subprocess.run(
        [service.installed.clinloop, "doctor", "--state", service.state, "--socket", service.socket, *arguments],
        user=user,
        group=user,
        extra_groups=[],
        cwd="/",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def test_doctor_tries_as_the_agents_user_what_the_service_computes(service: Service) -> None:
    service.start()
    said = doctor(service, "--as", str(B))
    assert "Guarantee L2 separate user" in said
    assert "memory no memory and environment of the server cannot be opened" in said
    assert "Guarantee L0 honour" in doctor(service, "--as", str(A))
    assert "Guarantee L0 honour" in doctor(service, user=A)
    key = service.state / "key"
    key.write_bytes(b"secret")
    key.chmod(0o644)
    service.state.chmod(0o711)
    opened = doctor(service, "--as", str(B))
    assert "Guarantee L0 honour" in opened
    assert re.search("the client.s user reaches [a-z, ]*key", opened)


def test_bubblewrap_isolates_for_an_ordinary_user_without_any_capability(service: Service) -> None:
    command = [
        "setpriv",
        "--reuid",
        str(A),
        "--regid",
        str(A),
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set",
        "-all",
    ]
    done = subprocess.run(
        [*command, service.installed.clinloop, "doctor", "--state", service.state],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bubblewrap" in done.stdout


def test_root_that_looks_at_the_services_state_leaves_no_file_of_its_own(service: Service) -> None:
    done = subprocess.run(
        [service.installed.clinloop, "data", "list", "--state", service.state],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "moles" in done.stdout, done.stderr
    assert {path.lstat().st_uid for path in service.state.rglob("*")} == {A}


@pytest.fixture
def throwaway() -> str:
    """The name of a user that does not exist before and does not exist afterwards."""
    name = "clinloop-test"
    yield name
    subprocess.run(["userdel", name], check=False, capture_output=True)
    subprocess.run(["groupdel", f"{name}-users"], check=False, capture_output=True)


def test_the_service_is_installed_run_and_removed_with_a_user_of_its_own(installed: Installed, throwaway: str) -> None:
    with tempfile.TemporaryDirectory(prefix="clinloop-service-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        places = ["--state", folder / "state", "--cache", folder / "cache"]

        def run(*arguments: object) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [str(word) for word in (installed.clinloop, "service", *arguments)],
                cwd="/",
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )

        options = ["--user", throwaway, *places, "--group", f"{throwaway}-users", "--socket", folder / "run" / "s.sock"]
        dry = run("install", *options, "--dry-run")
        assert "would make the user" in dry.stdout and "NoNewPrivileges=yes" in dry.stdout, dry.stderr
        with pytest.raises(KeyError):
            pwd.getpwnam(throwaway)
        unit = Path("/etc/systemd/system/clinloop.service")
        had_unit = unit.exists()
        made = run("install", *options)
        try:
            assert made.returncode == 0, made.stderr
            user = pwd.getpwnam(throwaway)
            facts = (folder / "state").stat()
            assert (facts.st_uid, facts.st_mode & 0o7777) == (user.pw_uid, 0o700)
            assert "does not do for a service" not in made.stdout
            again = run("install", *options)
            assert "Nothing is to be done." in again.stdout
            process = subprocess.Popen(
                [str(word) for word in (installed.clinloop, "service", "run", *options[:4], *options[6:])],
                cwd="/",
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                stderr=subprocess.DEVNULL,
            )
            try:
                listening = folder / "run" / "s.sock"
                wait(listening.exists)
                assert f"Uid:\t{user.pw_uid}\t{user.pw_uid}" in Path(f"/proc/{process.pid}/status").read_text(
                    encoding="utf-8"
                )
                assert (listening.stat().st_mode & 0o777) == 0o660
            finally:
                process.terminate()
                assert process.wait(timeout=30) == 0
            assert not listening.exists()
        finally:
            removed = run("uninstall", "--user", throwaway, *places, "--purge", "--yes")
        assert removed.returncode == 0, removed.stderr
        assert not (folder / "state").exists()
        assert unit.exists() == had_unit
        with pytest.raises(KeyError):
            pwd.getpwnam(throwaway)


def test_an_installation_that_others_can_change_or_not_read_is_refused(installed: Installed) -> None:
    import shutil

    copy = installed.folder / "copy"
    shutil.copytree(installed.folder / "venv", copy, symlinks=True)
    command = [copy / "bin" / "python", "-I", "-m", "clinloop", "service", "install", "--dry-run"]
    for change, said in ((0o777, "Every user can change"), (0o700, "cannot read")):
        copy.chmod(change)
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=60)
        assert said in done.stdout, done.stdout
    shutil.rmtree(copy)


def task_arguments() -> dict[str, object]:
    return {"request": REQUEST, "spec": SPEC, "template": "linear"}


def ledger(service: Service, task_id: str) -> list:
    from clinloop.store.store import Store

    rows = Store(service.state).ledger(f"task:{task_id}")
    return [row for row in rows if row.event == "guarantee"]
