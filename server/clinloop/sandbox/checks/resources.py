"""Checks of caps: memory, processes, disk, scratch space."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from clinloop.sandbox.checks.bench import SMALL, Bench, Ended, expect, is_gone

_FILL = """
import os
def fill(path, total, chunk=1 << 20):
    written = 0
    try:
        with open(path, "wb", buffering=0) as file:
            while written < total:
                written += file.write(b"x" * chunk)
    except OSError as error:
        print("refused", error.errno)
    return written
"""


def memory_bomb_is_ended_and_named(bench: Bench) -> None:
    ended = bench.run("import time; held = [b'x' * (32 << 20) for _ in range(20)]; time.sleep(20)")
    expect(ended.exit.oom_killed and ended.exit.code != 0, f"640 MB in 256 MB ended as {ended.exit}")


def memory_is_capped_over_all_processes(bench: Bench) -> None:
    ended = bench.run(
        "import os, time\nfor _ in range(8):\n if os.fork() == 0: break\nheld = b'x' * (60 << 20); time.sleep(5)"
    )
    expect(ended.exit.oom_killed, f"8 x 60 MB in 256 MB ended as {ended.exit}")


def memory_death_of_a_child_is_flagged(bench: Bench) -> None:
    ended = bench.run(
        "import os\nif os.fork() == 0:\n held = [b'x' * (32 << 20) for _ in range(20)]\nelse:\n os.wait()"
    )
    expect(ended.exit.oom_killed and ended.exit.code == 0, f"an OOM-killed child ended as {ended.exit}")


def scratch_space_is_charged_to_memory(bench: Bench) -> None:
    limits = SMALL.model_copy(update={"memory_bytes": 128 << 20, "shm_bytes": 512 << 20})
    ended = bench.run(f"{_FILL}\nfill('/dev/shm/file', 400 << 20)", limits=limits)
    expect(ended.exit.oom_killed, f"400 MB of shared memory in 128 MB ended as {ended.exit}: {ended.log}")


def scratch_space_is_capped(bench: Bench) -> None:
    for path in ("/tmp/file", "/dev/shm/file"):  # noqa: S108 - inside
        ended = bench.run(f"{_FILL}\nprint(fill({path!r}, 64 << 20))")
        expect(ended.log.startswith("refused 28\n"), f"64 MB into {path} of 16 MB: {ended.log!r}")


def scratch_space_is_fresh(bench: Bench) -> None:
    code = "import os\nprint(os.listdir('/tmp'), os.listdir('/dev/shm'))\nfor p in ('/tmp/x', '/dev/shm/x'): open(p, 'w').close()"
    for _ in range(2):
        ended = bench.run(code)
        expect(ended.log == "[] []\n", f"a new job found {ended.log!r}")


def nothing_else_is_writable(bench: Bench) -> None:
    ended = bench.run(
        "import os\nfor top, folders, files in os.walk('/'):\n"
        " folders[:] = [f for f in folders if top + f not in ('/proc', '/tmp', '/out') and os.path.join(top, f) not in ('/dev/shm', '/dev/pts', '/dev/mqueue')]\n"
        " if os.access(top, os.W_OK): print(top)"
    )
    expect(ended.exit.code == 0 and not ended.log.strip(), f"writable: {ended.log}")


def fork_bomb_is_bounded_and_ended_quickly(bench: Bench) -> None:
    word = f"word-{secrets.token_hex(6)}"
    code = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"
    job = bench.job(argv=(bench.job().argv[0], "-I", "-S", "-c", f"print('go', flush=True)\n{code}", word))
    with bench.running(job):
        bench.wait_for_log(job, "go\n")
        bench.sandbox.wait(job.name, 1.0)
        began = time.monotonic()
        bench.sandbox.stop(job.name)
        seconds = time.monotonic() - began
    # A stop that had to wait until processes end by themselves takes an engine's grace of 10 s; a busy machine needs a few.
    expect(seconds < 8, f"stop took {seconds:.1f} s")
    expect(is_gone(word, within_s=0.5), "processes of the bomb are left")


def processes_are_capped(bench: Bench) -> None:
    ended = bench.run(
        "import os, time\nn = 0\ntry:\n while n < 500:\n  if os.fork() == 0: time.sleep(9); os._exit(0)\n  n += 1\nexcept OSError: print(n)"
    )
    expect(
        ended.log.strip().isdigit() and int(ended.log) <= SMALL.pids,
        f"a limit of {SMALL.pids} let {ended.log.strip() or 500} processes start",
    )


def full_disk_is_capped_and_named(bench: Bench) -> None:
    ended = bench.run(f"{_FILL}\nfor n in range(16): fill('big%d' % n, 8 << 20)\nraise SystemExit(1)")
    expect(ended.exit.disk_full, f"a full /out ended as {ended.exit}: {ended.log}")
    _expect_small(ended)


def holes_and_preallocation_are_capped(bench: Bench) -> None:
    ended = bench.run(
        "import os\n"
        "def attempt(act):\n try: act()\n except OSError as error: print('refused', error.errno)\n"
        "a = open('hole', 'wb'); attempt(lambda: os.truncate(a.fileno(), 1 << 40)); a.close()\n"
        "b = open('block', 'wb'); attempt(lambda: os.posix_fallocate(b.fileno(), 0, 4 << 30)); b.close()"
    )
    expect(ended.exit.code in {0, 137}, f"{ended.exit} {ended.log}")
    _expect_small(ended)


def deleted_open_files_are_capped(bench: Bench) -> None:
    ended = bench.run(
        "import os\nheld = []\nfor n in range(16):\n held.append(open('gone', 'wb', buffering=0)); os.unlink('gone')\n"
        " for _ in range(8): held[-1].write(b'x' * (1 << 20))\nprint('all')"
    )
    expect(
        ended.exit.code != 0 and "No space left" in ended.log, f"128 MB into deleted files: {ended.exit} {ended.log}"
    )


def processor_time_is_capped(bench: Bench) -> None:
    limits = SMALL.model_copy(update={"cpus": 0.5})
    ended = bench.run(
        "import os, time\nend = time.monotonic() + 2\nfor _ in range(3):\n if os.fork() == 0: break\n"
        "while time.monotonic() < end: pass\nos.write(1, b'%f\\n' % time.process_time())\ntime.sleep(0.3)",
        limits=limits,
    )
    expect(sum(map(float, ended.log.split())) < 1.6, f"half a processor gave {ended.log.split()} s in 2 s")


def number_of_files_is_capped(bench: Bench) -> None:
    limits = SMALL.model_copy(update={"out_bytes": 16 << 20})
    ended = bench.run("import time\nfor n in range(100_000): open(str(n), 'w').close()\ntime.sleep(2)", limits=limits)
    expect(ended.exit.disk_full and ended.exit.code != 0, f"100,000 files in 16 MB ended as {ended.exit}")


def _expect_small(ended: Ended) -> None:
    size = sum(path.stat().st_size for path in _files(ended.out))
    expect(size <= SMALL.out_bytes, f"{size >> 20} MB came back of at most {SMALL.out_bytes >> 20} MB")


def _files(folder: Path) -> list[Path]:
    return [Path(top, name) for top, _, names in os.walk(folder) for name in names]
