"""What holds for bubblewrap beyond the suite: who cleans up after a killed caller, and where caps come from."""

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from clinloop.errors import SandboxUnavailable
from clinloop.sandbox import cgroups
from clinloop.sandbox.base import Exit, Job, Mount
from clinloop.sandbox.bubblewrap import Bubblewrap
from clinloop.sandbox.checks.bench import SMALL, Bench, is_gone
from clinloop.sandbox.seccomp import ARCHITECTURES, DENIED, build_filter
from clinloop.sandbox.unisolated import Unisolated
from clinloop.settings import Settings

_CALLER = """
import sys, time
from pathlib import Path
from clinloop.sandbox.backends import load_backend
from clinloop.sandbox.checks.bench import Bench
from clinloop.settings import Settings
backend, folder, word = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
bench = Bench(load_backend(backend, Settings(state=folder / "state", cache=folder / "cache")), folder)
code = "import time; open('kept', 'w').write('kept'); print('ready'); time.sleep(600)"
job = bench.job(argv=(bench.job().argv[0], "-u", "-c", code, word))
bench.sandbox.start(job)
bench.wait_for_log(job, "ready")
print(job.name, job.mounts[-1].source, flush=True)
time.sleep(600)
"""


def _settings(folder: Path) -> Settings:
    return Settings(state=folder / "state", cache=folder / "cache")


@pytest.fixture
def bubblewrap(tmp_path: Path) -> Bubblewrap:
    sandbox = Bubblewrap(_settings(tmp_path))
    if not (probe := sandbox.probe()).usable:
        pytest.skip(f"bubblewrap cannot run here: {probe.problem} {probe.fix}")
    return sandbox


@pytest.mark.sandbox
@pytest.mark.parametrize("backend", [Bubblewrap, Unisolated])
def test_another_process_cleans_up_after_a_killed_caller(
    backend: type[Bubblewrap | Unisolated], tmp_path: Path, bubblewrap: Bubblewrap
) -> None:
    word = f"word-{tmp_path.name}-{os.getpid()}"
    caller = subprocess.Popen(
        [sys.executable, "-c", _CALLER, backend.name, str(tmp_path), word], stdout=subprocess.PIPE, text=True
    )
    with caller:
        assert caller.stdout is not None
        name, out = caller.stdout.readline().split()
        sandbox = backend(_settings(tmp_path))
        assert sandbox.wait(name, 0.05) is None
        assert set(sandbox.tiers(name)) == {"memory", "pids", "cpu", "disk", "uid", "network"}
        caller.send_signal(signal.SIGKILL)
    assert sandbox.wait(name, 5) == Exit(137)
    for _ in range(2):
        sandbox.stop(name)
    assert is_gone(word, within_s=0.5)
    assert [path.name for path in Path(out).iterdir()] == ["kept"]
    assert not Path(out).is_mount()
    assert not list((tmp_path / "state" / "sandboxes").iterdir())
    groups = {place.parent for place in cgroups.find_places().values()}
    assert not [path for parent in groups for path in parent.glob(f"clinloop-{name}*")]


@pytest.mark.sandbox
def test_stop_by_another_process_ends_a_live_job_for_its_caller(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    job = Bench(bubblewrap, tmp_path).job("import time; time.sleep(600)")
    bubblewrap.start(job)
    Bubblewrap(_settings(tmp_path)).stop(job.name)
    assert bubblewrap.wait(job.name, 5) == Exit(137)
    bubblewrap.stop(job.name)


@pytest.mark.sandbox
def test_start_replaces_what_a_dead_caller_left_under_the_name(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    bench = Bench(bubblewrap, tmp_path)
    first = bench.job("import time; time.sleep(600)")
    bubblewrap.start(first)
    again = Bubblewrap(_settings(tmp_path))
    second = Job(**{**bench.job("raise SystemExit(5)").__dict__, "name": first.name})
    again.start(second)
    assert again.wait(second.name, 20) == Exit(5)
    again.stop(second.name)
    bubblewrap.stop(first.name)


@pytest.mark.sandbox
@pytest.mark.parametrize("kind", ["link", "missing", "device"])
def test_mount_source_that_is_no_plain_file_or_folder_is_refused(
    kind: str, bubblewrap: Bubblewrap, tmp_path: Path
) -> None:
    source = {"link": tmp_path / "link", "missing": tmp_path / "missing", "device": Path("/dev/null")}[kind]
    if kind == "link":
        source.symlink_to("/etc")
    job = Bench(bubblewrap, tmp_path).job("pass", mounts=(Mount(source, "/view"),))
    with pytest.raises(SandboxUnavailable, match="/view") as caught:
        bubblewrap.start(job)
    assert str(tmp_path) not in str(caught.value)
    assert not list((tmp_path / "state" / "sandboxes").iterdir())


@pytest.mark.sandbox
def test_a_folder_that_is_swapped_for_a_link_after_start_changes_nothing(
    bubblewrap: Bubblewrap, tmp_path: Path
) -> None:
    view = tmp_path / "view"
    view.mkdir()
    (view / "file").write_text("mine")
    job = Bench(bubblewrap, tmp_path).job(
        "import time; time.sleep(0.3); print(open('/view/file').read())", mounts=(Mount(view, "/view"),)
    )
    bubblewrap.start(job)
    view.rename(tmp_path / "other")
    view.symlink_to("/etc")
    assert bubblewrap.wait(job.name, 20) == Exit(0)
    bubblewrap.stop(job.name)
    assert job.log.read_text() == "mine\n"


@pytest.mark.sandbox
def test_a_job_that_fills_its_log_and_is_stopped_leaves_head_and_tail(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    job = Bench(bubblewrap, tmp_path).job(
        "n = 0\nwhile True: print(n := n + 1)", limits=SMALL.model_copy(update={"log_bytes": 4096})
    )
    bubblewrap.start(job)
    assert bubblewrap.wait(job.name, 0.5) is None
    bubblewrap.stop(job.name)
    lines = job.log.read_text().splitlines()
    assert lines[:2] == ["1", "2"]
    assert int(lines[-2]) > 4096
    assert job.log.stat().st_size < 4300


@pytest.mark.sandbox
def test_a_sandbox_that_cannot_be_set_up_is_no_exit_of_the_job(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    job = Job(**{**Bench(bubblewrap, tmp_path).job("pass").__dict__, "workdir": "/no-such-folder"})
    bubblewrap.start(job)
    with pytest.raises(SandboxUnavailable, match="the log of the job says why"):
        bubblewrap.wait(job.name, 20)
    bubblewrap.stop(job.name)
    assert "/no-such-folder" in job.log.read_text()


@pytest.mark.parametrize("backend", [Bubblewrap, Unisolated])
def test_a_writable_folder_that_is_not_empty_is_refused(backend: type[Bubblewrap | Unisolated], tmp_path: Path) -> None:
    sandbox = backend(_settings(tmp_path))
    job = Bench(sandbox, tmp_path).job("pass")
    (job.mounts[-1].source / "earlier").touch()
    if backend is Bubblewrap and not sandbox.probe().usable:
        pytest.skip("bubblewrap cannot run here")
    with pytest.raises(SandboxUnavailable, match="must be empty"):
        sandbox.start(job)
    assert (job.mounts[-1].source / "earlier").exists()


def test_waiting_for_a_job_that_nobody_knows_says_that_it_was_killed(tmp_path: Path) -> None:
    assert Bubblewrap(_settings(tmp_path)).wait("never-started", 0) == Exit(137)


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "x" * 200])
def test_a_job_name_that_is_no_file_name_is_a_bug_of_the_caller(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="job name"):
        Bubblewrap(_settings(tmp_path)).stop(name)


def _run_filter(program: bytes, machine: str, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Interpret classic BPF over one struct seccomp_data; return the verdict. Written from the BPF instruction set, apart from the assembler."""
    padded = (*arguments, *([0] * (6 - len(arguments))))
    data = struct.pack("=IIQ6Q", number, ARCHITECTURES.get(machine, 0x40000003), 0, *padded)
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, value)[0]
            case 0x06:
                return value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x45:
                at += if_true if accumulator & value else if_false
            case _:
                raise AssertionError(hex(code))


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_filter_decides_as_its_tables_say_on_every_architecture(machine: str) -> None:
    program = build_filter(machine)
    column = list(ARCHITECTURES).index(machine)
    allow, eperm, enosys = 0x7FFF0000, 0x50001, 0x50026
    for numbers in DENIED.values():
        if numbers[column] is not None:
            assert _run_filter(program, machine, numbers[column]) == eperm
    clone, socket, ioctl, read = ((56, 41, 16, 0), (220, 198, 29, 63))[column]
    assert _run_filter(program, machine, read) == allow
    assert _run_filter(program, machine, 435) == enosys
    assert _run_filter(program, machine, clone, (0x11,)) == allow
    assert _run_filter(program, machine, clone, (0x11 | 0x10000000,)) == eperm
    assert _run_filter(program, machine, ioctl, (0, 0x5401)) == allow
    assert _run_filter(program, machine, ioctl, (0, 0x5412)) == eperm
    assert _run_filter(program, machine, ioctl, (0, 0x541C)) == eperm
    verdicts = {family: _run_filter(program, machine, socket, (family, 1, 0)) for family in range(46)}
    assert [family for family, verdict in verdicts.items() if verdict == allow] == [1, 2, 10]
    assert _run_filter(program, machine, socket, (2, 1, 132)) == 0x50000 | 93
    assert _run_filter(program, "other", read) == 0x80000000
    if machine == "x86_64":
        assert _run_filter(program, machine, 0x40000000 | 101) == enosys


def _write_v2_tree(
    folder: Path, *, controllers: str, enabled: str, kinds: tuple[str, str] = ("domain", ""), members: str = ""
) -> Path:
    """Write what the kernel shows of our own group and of the top; kinds and members: cgroup.type of both, processes of our own."""
    proc, own = folder / "proc", folder / "cgroup" / "session"
    own.mkdir(parents=True)
    proc.mkdir()
    (proc / "cgroup").write_text("0::/session\n")
    (proc / "mountinfo").write_text(f"30 23 0:26 / {folder / 'cgroup'} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n")
    for place, kind in zip((own, own.parent), kinds, strict=True):
        (place / "cgroup.controllers").write_text(controllers)
        (place / "cgroup.subtree_control").write_text(enabled)
        (place / "cgroup.procs").write_text(members if place == own else "")
        if kind:
            (place / "cgroup.type").write_text(f"{kind}\n")
    return proc


def test_cgroup_v2_caps_are_set_where_controllers_are_delegated(tmp_path: Path) -> None:
    proc = _write_v2_tree(tmp_path, controllers="cpuset cpu memory pids", enabled="cpu memory pids")
    places = cgroups.find_places(proc)
    groups = cgroups.create("job", places, SMALL)
    folder = tmp_path / "cgroup" / "session" / "clinloop-job"
    assert {name: place.version for name, place in places.items()} == {"memory": 2, "pids": 2, "cpu": 2}
    assert cgroups.plan("job", places) == [str(folder)]
    assert groups == dict.fromkeys(("memory", "pids", "cpu"), folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "memory.max": str(256 << 20),
        "memory.swap.max": "0",
        "pids.max": "64",
        "cpu.max": "100000 100000",
    }


def test_cgroup_controller_that_is_not_delegated_is_left_to_the_fallback(tmp_path: Path) -> None:
    proc = _write_v2_tree(tmp_path, controllers="memory pids", enabled="memory pids")
    assert sorted(cgroups.find_places(proc)) == ["memory", "pids"]


@pytest.mark.parametrize(("kind", "members"), [("domain", "4242\n"), ("domain threaded", ""), ("threaded", "")])
def test_cgroup_v2_groups_are_not_made_below_one_that_holds_processes_or_is_threaded(
    tmp_path: Path, kind: str, members: str
) -> None:
    proc = _write_v2_tree(tmp_path, controllers="cpu memory pids", enabled="", kinds=(kind, ""), members=members)
    assert {place.parent for place in cgroups.find_places(proc).values()} == {tmp_path / "cgroup"}
    assert (tmp_path / "cgroup" / "session" / "cgroup.subtree_control").read_text() == ""


def test_cgroup_v2_processes_of_a_delegated_group_move_below_it_to_make_room_for_jobs(tmp_path: Path) -> None:
    proc = _write_v2_tree(
        tmp_path, controllers="cpu memory pids", enabled="", kinds=("domain", "domain threaded"), members="4242\n"
    )
    assert cgroups.find_places(proc) == {}  # files do not lose a process that moves, as the kernel's do
    assert (tmp_path / "cgroup" / "session" / cgroups.SERVER / "cgroup.procs").read_text() == "4242"


def test_oom_kills_are_counted_from_either_cgroup_version(tmp_path: Path) -> None:
    assert cgroups.count_oom_kills(tmp_path) == 0
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert cgroups.count_oom_kills(tmp_path) == 2
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 1\noom_kill 3\noom_group_kill 0\n")
    assert cgroups.count_oom_kills(tmp_path) == 3
