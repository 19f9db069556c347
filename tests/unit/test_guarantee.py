"""The guarantee level follows from what the client's user can reach."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clinloop import exposure, guarantee
from clinloop.access import Client, own_client
from clinloop.guarantee import Finding, Seal
from clinloop.services import Services

from ..conftest import own_parents

SERVER, CLIENT, TEAM = 54_321, 54_322, 54_400
B = Client(CLIENT, CLIENT, frozenset([CLIENT]), "b")
OPEN = Finding("vault", True, "can be read", "close it", "/some/vault")
SHUT = Finding("vault", False, "cannot be read", "")
SEALED, SEALED_BUT_OPEN = Seal(True, False), Seal(True, True)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming a second user needs root")


@pytest.mark.parametrize(
    ("connection", "findings", "seal", "level", "reason"),
    [
        ("stdio", [OPEN], Seal(), "L0", "under the user of its client"),
        ("stdio", [SHUT], Seal(), "L0", "under the user of its client"),
        ("stdio", [OPEN], SEALED, "L1", "Not L2"),
        ("stdio", [OPEN], SEALED_BUT_OPEN, "L0", "can still be read"),
        ("socket", [SHUT], Seal(), "L2", "Not L3"),
        ("socket", [SHUT, OPEN], Seal(), "L0", "reaches vault"),
        ("socket", [SHUT, OPEN], SEALED, "L1", "reaches vault"),
        ("socket", [SHUT], SEALED, "L2", "sealed besides"),
        ("remote", [SHUT], Seal(), "L3", ""),
    ],
)
def test_the_level_follows_from_connection_findings_and_seal(
    connection: guarantee.Connection, findings: list[Finding], seal: Seal, level: str, reason: str
) -> None:
    standing = guarantee.standing(connection, findings, seal)
    assert standing.level.code == level
    assert reason in standing.reason
    assert "/some/vault" not in standing.text + str(standing.as_event(connection))


def test_the_lowest_level_counts_and_none_recorded_is_the_lowest() -> None:
    assert guarantee.lowest(["L2", "L0", "L1"]).code == "L0"
    assert guarantee.lowest(["L2", "L2"]).code == "L2"
    assert guarantee.lowest([]).code == "L0"


@pytest.fixture
def grounds(state: Path, tmp_path: Path) -> Iterator[exposure.Grounds]:
    """A state folder and a cache that belong to a server user, below folders that only root changes."""
    parents = own_parents(tmp_path)
    modes = [parent.stat().st_mode for parent in parents]
    for parent in parents:
        parent.chmod(0o711)
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    (state / "key").write_bytes(b"secret")
    for path in [state, cache, *state.rglob("*")]:
        os.chown(path, SERVER, SERVER)
    state.chmod(0o700)
    yield exposure.Grounds(
        state, cache, engine_sockets=(str(tmp_path / "engine.sock"),), administrators=(), server_uid=SERVER
    )
    for parent, mode in zip(parents, modes, strict=True):
        parent.chmod(mode)


def reached(findings: tuple[Finding, ...]) -> set[str]:
    return {finding.what for finding in findings if finding.is_reachable}


@needs_root
@pytest.mark.parametrize("how", [exposure.compute, exposure.attempt], ids=["computed", "tried"])
class TestAnotherUser:
    """Each finding, computed by the server and tried by a process of the client's user."""

    def test_reaches_nothing_of_a_closed_server(self, how: type, grounds: exposure.Grounds) -> None:
        assert reached(how(B, grounds)) - {"package"} == set()

    def test_reaches_what_an_open_mode_gives_away(self, how: type, grounds: exposure.Grounds) -> None:
        grounds.state.chmod(0o711)
        vault = grounds.state / "datasets" / "moles" / "vault"
        for folder in (vault.parent.parent, vault.parent, vault):
            folder.chmod(0o755)
        (vault / "cases.csv").chmod(0o644)
        (grounds.state / "key").chmod(0o604)
        (grounds.state / "clinloop.sqlite").chmod(0o606)
        assert reached(how(B, grounds)) - {"package"} == {"vault", "key", "store"}

    def test_reaches_everything_below_a_folder_in_which_it_may_rename(
        self, how: type, grounds: exposure.Grounds
    ) -> None:
        grounds.state.parent.chmod(0o777)
        assert reached(how(B, grounds)) >= {"vault", "store", "key", "state folder", "sandbox environments"}

    def test_reaches_an_engine_through_the_group_of_its_socket(self, how: type, grounds: exposure.Grounds) -> None:
        path = grounds.engine_sockets[0]
        with socket.socket(socket.AF_UNIX) as engine:
            engine.bind(path)
            engine.listen()
            os.chown(path, 0, TEAM)
            Path(path).chmod(0o660)
            assert "container engine" not in reached(how(B, grounds))
            member = B._replace(groups=B.groups | {TEAM})
            assert "container engine" in reached(how(member, grounds))

    def test_reaches_originals_that_it_can_read(self, how: type, grounds: exposure.Grounds, tmp_path: Path) -> None:
        originals = tmp_path / "originals"
        originals.mkdir(mode=0o755)
        known = grounds._replace(originals=(originals,))
        assert "originals" in reached(how(B, known))
        originals.chmod(0o700)
        assert "originals" not in reached(how(B, known))

    def test_is_an_administrator_by_its_groups(self, how: type, grounds: exposure.Grounds) -> None:
        member = B._replace(groups=B.groups | {0})
        assert "administrator" in reached(how(member, grounds._replace(administrators=("root",))))

    def test_reaches_everything_when_it_is_the_servers_user(self, how: type, grounds: exposure.Grounds) -> None:
        same = Client(SERVER, SERVER, frozenset([SERVER]), "a")
        assert reached(how(same, grounds)) >= {"same user", "vault", "store", "key", "state folder"}


@needs_root
@pytest.mark.parametrize("is_hidden", [False, True])
def test_memory_is_closed_to_a_sibling_of_the_same_user_once_it_is_hidden(tmp_path: Path, is_hidden: bool) -> None:
    ready, told = os.pipe()
    if (process := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setresgid(SERVER, SERVER, SERVER)
            os.setresuid(SERVER, SERVER, SERVER)
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as after an exec; the change of uid has closed it
            if is_hidden:
                exposure.hide_memory()
            os.write(told, b"x")
            time.sleep(60)
        finally:
            os._exit(1)
    try:
        assert os.read(ready, 1) == b"x"
        same = Client(SERVER, SERVER, frozenset([SERVER]), "a")
        grounds = exposure.Grounds(
            tmp_path, tmp_path, engine_sockets=(), administrators=(), server_uid=SERVER, server_pid=process
        )
        assert ("memory" in reached(exposure.attempt(same, grounds))) is not is_hidden
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(ready)
        os.close(told)


def test_the_level_of_a_connection_is_computed_once_in_a_while_and_quickly(services: Services) -> None:
    first = services.standing("moles")
    begun = time.perf_counter()
    for _ in range(100):
        assert services.standing("moles") is first
    assert time.perf_counter() - begun < 0.5
    assert first.level.code == "L0"


def test_another_client_of_the_same_server_gets_its_own_level(services: Services) -> None:
    other = services.for_client("socket", own_client())
    assert other.store is services.store
    assert other.standing() is not services.standing()
    assert "Not L2: the client's user reaches" in other.standing().reason
