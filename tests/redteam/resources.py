"""Section C: taking more than was granted, and outliving the end."""

from __future__ import annotations

import time

from clinloop.store.rows import RunRow

from .case import Case
from .stage import Stage

_DISK = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
CAP = 64 << 20
def used():
    system = os.statvfs("/out")
    return (system.f_blocks - system.f_bfree) * system.f_frsize
def fill(act):
    try:
        act()
    except OSError as error:
        return error.errno
    return 0
report = {}
"""

_MEMORY = """
import os, signal, mmap
def child(act):
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except (OSError, MemoryError):
            os._exit(9)
        os._exit(0)
    return os.waitpid(pid, 0)[1]
def hoard(megabytes):
    block = mmap.mmap(-1, megabytes << 20)
    for at in range(0, len(block), 4096):
        block[at] = 1
    return block
"""


def _ended(run: RunRow) -> str:
    """Return how training ended, also of a smoke test that went on to its end."""
    return run.facts.get("train_end", run.end_reason)


def _fork_bomb(stage: Stage) -> str:
    run = stage.smoke(
        "import os\nsession.checkpoint.write_text('weights')\ncount = 0\nwhile count < 5000:\n    try:\n        if os.fork() == 0:\n            time.sleep(600)\n"
        "        count += 1\n    except OSError:\n        break\nprint('FORKED', count, flush=True)\n"
    )
    log = stage.log(run)
    forked = int(log.split("FORKED")[1].split()[0]) if "FORKED" in log else -1
    stage.check_nothing_is_left(run.task_id)  # no process is left
    return "capped" if 0 < forked <= 64 and run.status == "succeeded" else f"{forked} {run}"


def _memory_bomb(stage: Stage) -> str:
    run = stage.smoke("hoard = []\nwhile True:\n    hoard.append(bytearray(b'x' * (8 << 20)))\n")
    return "killed" if (run.status, run.end_reason) == ("failed", "out_of_memory") else str(run)


def _many_hoarders(stage: Stage) -> str:
    """Twenty processes of 40 MB: each is small, together they would be 800 MB of 256."""
    body = _MEMORY + (
        "children = []\nfor _ in range(20):\n    r, w = os.pipe()\n    children.append(os.fork())\n    if children[-1] == 0:\n        block = hoard(40)\n"
        "        os.write(w, b'x')\n        time.sleep(600)\n    os.close(w)\n    os.read(r, 1)\n"
        "alive = sum(os.waitpid(pid, os.WNOHANG)[0] == 0 for pid in children)\nprint('ALIVE', alive, flush=True)\nsession.checkpoint.write_text('weights')\n"
    )
    run = stage.smoke(body)
    log = stage.log(run)
    alive = int(log.split("ALIVE")[1].split()[0]) if "ALIVE" in log else 0
    return "capped" if _ended(run) == "out_of_memory" and alive * 40 <= 256 else f"{run} {log[-300:]}"


def _scratch(stage: Stage) -> str:
    """/tmp and /dev/shm are larger than the memory here: filling them must hit the memory cap."""
    body = (
        _MEMORY
        + (
            "def fill(path):\n    with open(path, 'wb') as file:\n        for _ in range(400):\n            file.write(b'x' * (1 << 20))\n"
            "for path in ('/tmp/fill', '/dev/shm/fill'):\n    print('ENDED', child(lambda: fill(path)), flush=True)\n    os.unlink(path)\n"
        )
        + stage.CHECKPOINT
    )
    run = stage.smoke(body)
    ends = [line.split()[1] for line in stage.log(run).splitlines() if line.startswith("ENDED")]
    return "capped" if _ended(run) == "out_of_memory" and "0" not in ends else f"{run} {ends}"


def _child_dies_parent_smiles(stage: Stage) -> str:
    """A child is killed for memory, train.py ends with status 0: the run says so."""
    run = stage.full(
        _MEMORY + "child(lambda: [hoard(50) for _ in range(20)])\n" + stage.CHECKPOINT + "raise SystemExit(0)\n"
    )
    return "recorded" if (run.status, run.end_reason) == ("succeeded", "out_of_memory") else str(run)


def _disk(stage: Stage, act: str) -> str:
    """Carry out one way to fill /out; the smallest cap is judged from inside by statvfs and from outside by what is kept."""
    body = (
        f"{_DISK}{act}\nprint('USED', used(), flush=True)\nimport glob\nfor path in glob.glob('/out/fill*'):\n    os.unlink(path)\n"
        + stage.CHECKPOINT
    )
    run = stage.smoke(body)
    log = stage.log(run)
    used = int(log.split("USED")[1].split()[0]) if "USED" in log else -1
    return "capped" if 0 <= used <= 64 << 20 and run.status == "succeeded" else f"{used} {run} {log[-500:]}"


def _sequential(stage: Stage) -> str:
    return _disk(
        stage,
        "def act():\n    with open('/out/fill', 'wb') as file:\n        for _ in range(300): file.write(b'x' * (1 << 20))\nassert fill(act) in (27, 28)",
    )


def _preallocated(stage: Stage) -> str:
    return _disk(
        stage,
        "file = os.open('/out/fill', os.O_RDWR | os.O_CREAT)\nassert fill(lambda: os.posix_fallocate(file, 0, 5 << 30)) in (27, 28)\nos.unlink('/out/fill')\n"
        "file = os.open('/out/fill2', os.O_RDWR | os.O_CREAT)\nassert fill(lambda: os.ftruncate(file, 1 << 40)) in (0, 27, 28)\nassert fill(lambda: os.pwrite(file, b'x', 1 << 39)) in (27, 28, 0)",
    )


def _deleted_open(stage: Stage) -> str:
    act = "def act():\n    files = []\n    for number in range(300):\n        file = open(f'/out/fill{number}', 'wb', buffering=0)\n        os.unlink(f'/out/fill{number}')\n        files.append(file)\n        file.write(b'x' * (1 << 20))\n        file.write(b'x' * (1 << 10))\n    raise SystemExit('not capped')\nassert fill(act) in (27, 28)"
    return _disk(stage, act)


def _many_files(stage: Stage) -> str:
    """A million empty files: the number is capped, and nothing is left on the host afterwards."""
    body = "import os\nos.mkdir('/out/many')\ncount = 0\ntry:\n    for count in range(1_000_000):\n        os.close(os.open(f'/out/many/{count}', os.O_CREAT | os.O_WRONLY))\nexcept OSError as error:\n    print('FILES', count, error.errno, flush=True)\nfor n in range(20): os.unlink(f'/out/many/{n}')\n"
    run = stage.smoke(body + stage.CHECKPOINT)
    log = stage.log(run)
    kept = sum(1 for _ in stage.folder(run).out.rglob("*"))
    files = int(log.split("FILES")[1].split()[0]) if "FILES" in log else -1
    stage.check_nothing_is_left(run.task_id)
    return "capped" if 0 < files <= 65_536 and kept <= 65_536 else f"{files} {kept} {run}"


def _hostile_tree(stage: Stage) -> str:
    """Folders 400 deep, names of 255 bytes, unreadable modes: the copy takes what it can, and all of it can be deleted."""
    body = (
        "import os\nos.makedirs('/out/' + '/'.join(['d' * 60] * 60), exist_ok=True)\nhere = '/out'\nos.chdir('/out')\nfor n in range(400):\n    os.mkdir('n')\n    os.chdir('n')\nos.chdir('/workspace')\n"
        "open('/out/' + 'x' * 255, 'w').close()\nopen(b'/out/\\xff\\xfe\\n\\x1b[31m', 'w').close()\nos.mkdir('/out/locked')\nopen('/out/locked/file', 'w').close()\nos.chmod('/out/locked', 0)\n"
    )
    run = stage.smoke(body + stage.CHECKPOINT)
    stage.check_nothing_is_left(run.task_id)
    return "ignored" if run.status == "succeeded" else f"{run} {stage.log(run)[-300:]}"


def _spinners(stage: Stage) -> str:
    """Four processes that spin on one granted core get one core's time."""
    body = (
        "import os\nbegun = time.monotonic()\nfor _ in range(4):\n    if os.fork() == 0:\n        while time.monotonic() < begun + 3: pass\n        os._exit(0)\nfor _ in range(4): os.wait()\n"
        "spent = sum(os.times()[2:4])\nprint('CORES', round(spent / (time.monotonic() - begun), 2), flush=True)\n"
    )
    run = stage.smoke(body + stage.CHECKPOINT)
    cores = float(stage.log(run).split("CORES")[1].split()[0])
    return "capped" if 0 < cores < 1.35 else f"{cores} cores"


STUBBORN = """
import os, signal
for number in range(1, 32):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
session.checkpoint.write_text("weights")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        time.sleep(60)
for pid in [1, os.getppid(), *(int(n) for n in os.listdir("/proc") if n.isdigit() and int(n) != os.getpid())]:
    for number in (9, 19, 15):
        try:
            os.kill(pid, number)
        except OSError:
            pass
while True:
    time.sleep(60)
"""
"""Ignores every signal, stops a child, kills all it can see, then sleeps for ever: started with the stage, looked at near the end."""


def _deadline(stage: Stage) -> str:
    """The run is ended at its deadline (24 s, and 5 s of grace), and charged."""
    run = stage.finish("stubborn")
    stage.check_nothing_is_left(run.task_id)
    seconds = float(run.facts["train_seconds"])
    charged = stage.lab.charged(run.task_id)
    if (run.end_reason, run.status, charged) == ("deadline", "succeeded", 1) and 20 < seconds < 45:
        return "killed"
    return f"{run.status} {run.end_reason} {seconds} s, charged {charged}"


def _stubborn_stop(stage: Stage) -> str:
    """The same code is stopped on request."""
    from clinloop import runs

    run = stage.lab.reach(
        stage.lab.start(
            stage.task(f"import time\nfrom clinloop_runtime import open_session\nsession = open_session()\n{STUBBORN}"),
            "smoke",
        ),
        "training",
    )
    time.sleep(1)
    begun = time.monotonic()
    runs.stop(stage.lab.services, run.task_id, run.name)
    ended = stage.lab.end(run, within_s=30)
    stage.check_nothing_is_left(run.task_id)
    return (
        "killed"
        if ended.status == "stopped" and time.monotonic() - begun < 15
        else f"{ended} {time.monotonic() - begun:.1f} s"
    )


def _daemon(stage: Stage) -> str:
    daemon = "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.close(1); os.close(2)\n        time.sleep(600)\n    os._exit(0)\n"
    run = stage.smoke(daemon + stage.CHECKPOINT)
    stage.check_nothing_is_left(run.task_id)
    return "killed" if run.status == "succeeded" else str(run)


def _fake_oom(stage: Stage) -> str:
    faked = [stage.smoke(f"import os\n{act}\n") for act in ("os._exit(137)", "os.kill(os.getpid(), 9)")]
    return "ignored" if all(run.end_reason == "crash" for run in faked) else str(faked)


def _killed_supervisor(stage: Stage) -> str:
    """The supervisor dies in the middle of training: one end, at most one charge, no process left."""
    task = stage.task(
        f"import time\nfrom clinloop_runtime import open_session\nsession = open_session()\n(session.out / 'begun').touch()\ntime.sleep(4)\n{stage.CHECKPOINT}"
    )
    run = stage.lab.reach(stage.lab.start(task), "training")
    time.sleep(1)
    stage.lab.kill_supervisor(task, run.name)
    ended = stage.lab.end(run)
    stage.check_nothing_is_left(task)
    charged = stage.lab.charged(task)
    return "recorded" if (ended.status, charged) in {("lost", 0), ("succeeded", 1)} else f"{ended} charged {charged}"


CASES = [
    Case(number="C30", title="fork bomb", expected="capped", attack=_fork_bomb),
    Case(number="C31", title="memory bomb", expected="killed", attack=_memory_bomb),
    Case(number="C32", title="memory spread over many processes", expected="capped", attack=_many_hoarders),
    Case(number="C33", title="memory hidden in /tmp and /dev/shm", expected="capped", attack=_scratch),
    Case(number="C34", title="fill /out with one file", expected="capped", attack=_sequential),
    Case(number="C35", title="fill /out with preallocated and sparse files", expected="capped", attack=_preallocated),
    Case(number="C36", title="fill /out with files that are open and deleted", expected="capped", attack=_deleted_open),
    Case(number="C37", title="a million empty files", expected="capped", attack=_many_files),
    Case(
        number="C38",
        title="deep folders, long and unprintable names, modes of 0",
        expected="ignored",
        attack=_hostile_tree,
    ),
    Case(number="C39", title="spin in more processes than cores were granted", expected="capped", attack=_spinners),
    Case(
        number="C40",
        title="sleep past the deadline",
        expected="killed",
        attack=_deadline,
        note="C40, C41 and C43 are one program.",
    ),
    Case(number="C41", title="ignore every signal, stop children", expected="killed", attack=_stubborn_stop),
    Case(number="C42", title="leave a daemon behind", expected="killed", attack=_daemon),
    Case(
        number="C43", title="kill process 1 and all others to evade the deadline", expected="killed", attack=_deadline
    ),
    Case(number="C44", title="exit 137 to look like a lack of memory", expected="ignored", attack=_fake_oom),
    Case(
        number="C45",
        title="have a child killed for memory and end with 0",
        expected="recorded",
        attack=_child_dies_parent_smiles,
    ),
    Case(
        number="C46",
        title="the supervisor is killed while the code trains",
        expected="recorded",
        attack=_killed_supervisor,
    ),
    Case(number="C47", title="hoard GPU memory, idle on a lease", expected="killed", reason="needs a GPU"),
    Case(
        number="C48",
        title="change the clock, raise the priority",
        expected="refused",
        probe="""
blank = ctypes.create_string_buffer(64)
return refused(lambda: call("clock_settime", 0, struct.pack("qq", 0, 0)), lambda: call("settimeofday", struct.pack("qq", 0, 0), None), lambda: os.nice(-5),
    lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)), lambda: call("adjtimex", struct.pack("I", 1) + b"\\0" * 300))
""",
    ),
]
