"""Checks of a job's life: how it starts, what it says, how it ends, what it leaves."""

from __future__ import annotations

import os
import secrets
import stat
import time

from clinloop.sandbox.base import Exit, Mount, basic_environment
from clinloop.sandbox.checks.bench import Bench, expect, find_processes, is_gone

_DAEMONS = """
import os, signal, sys, time
def spawn(kind):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        if kind != "plain":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)" if kind != "stopped"
            else "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", WORD])
for kind in ("plain", "ignores", "stopped"):
    spawn(kind)
time.sleep(0.5)
print("ready")
"""


def exit_status_is_reported(bench: Bench) -> None:
    for code in (0, 3, 255):
        ended = bench.run(f"raise SystemExit({code})")
        expect(ended.exit == Exit(code), f"exit status {code} came back as {ended.exit}: {ended.log}")


def death_by_signal_is_128_plus_n(bench: Bench) -> None:
    for number in (6, 11):
        ended = bench.run(f"import os; os.kill(os.getpid(), {number}); import time; time.sleep(9)")
        expect(ended.exit == Exit(128 + number), f"signal {number} came back as {ended.exit}")


def status_137_is_no_evidence_of_lack_of_memory(bench: Bench) -> None:
    for code in ("import os; os._exit(137)", "import os; os.kill(os.getpid(), 9)"):
        expect(bench.run(code).exit == Exit(137), "a job that faked 137 was judged otherwise")


def missing_command_is_a_failing_exit(bench: Bench) -> None:
    ended = bench.run(argv=("no-such-command",))
    expect(ended.exit.code in {126, 127}, f"a missing command ended as {ended.exit}")
    expect("no-such-command" in ended.log, "the log does not name the missing command")


def output_and_errors_are_logged_in_order(bench: Bench) -> None:
    ended = bench.run("import sys\nfor n in range(3):\n print('out', n)\n print('err', n, file=sys.stderr)")
    expect(ended.log == "out 0\nerr 0\nout 1\nerr 1\nout 2\nerr 2\n", f"the log is {ended.log!r}")


def log_flood_keeps_head_and_tail_below_the_cap(bench: Bench) -> None:
    ended = bench.run(
        "import sys\nprint('first')\nfor _ in range(1600): sys.stdout.write('x' * 62 * 1024 + '\\n')\nprint('last')"
    )
    _check_flood(ended.log)


def flood_without_newline_keeps_head_and_tail_below_the_cap(bench: Bench) -> None:
    ended = bench.run("import sys\nprint('first')\nfor _ in range(400): sys.stdout.write('x' * 250_000)\nprint('last')")
    _check_flood(ended.log)


def _check_flood(log: str) -> None:
    expect(len(log.encode()) <= (64 << 10) + 100, f"the log has {len(log)} bytes")
    expect(log.startswith("first\n") and log.endswith("last\n"), "the first or the last line is missing")
    expect("bytes dropped" in log, "the log does not say that bytes are missing")


def head_of_the_log_is_there_while_the_job_runs(bench: Bench) -> None:
    with bench.running(bench.job("import time; print('early'); time.sleep(60)")) as job:
        bench.wait_for_log(job, "early\n")


def wait_returns_nothing_while_the_job_runs(bench: Bench) -> None:
    with bench.running(bench.job("import time; time.sleep(60)")) as job:
        began = time.monotonic()
        expect(bench.sandbox.wait(job.name, 0.3) is None, "wait returned an exit for a running job")
        expect(0.2 < time.monotonic() - began < 1.5, "wait did not keep its time")


def wait_returns_as_soon_as_the_job_ends(bench: Bench) -> None:
    ended = bench.run("import time; time.sleep(0.3)")
    expect(ended.seconds < 3, f"a job of 0.3 s took {ended.seconds:.1f} s")


def wait_may_be_repeated_after_the_end(bench: Bench) -> None:
    job = bench.job("raise SystemExit(4)")
    bench.sandbox.start(job)
    try:
        first, second = bench.sandbox.wait(job.name, 20), bench.sandbox.wait(job.name, 20)
    finally:
        bench.sandbox.stop(job.name)
    expect(first == second == Exit(4), f"two waits returned {first} and {second}")


def stop_ends_daemons_and_who_ignores_signals(bench: Bench) -> None:
    word = f"word-{secrets.token_hex(6)}"
    with bench.running(bench.job(f"WORD = {word!r}\n{_DAEMONS}\ntime.sleep(600)")) as job:
        bench.wait_for_log(job, "ready\n")
        expect(len(find_processes(word)) == 3, "the daemons of the check did not start")
        began = time.monotonic()
        bench.sandbox.stop(job.name)
        expect(time.monotonic() - began < 2, "stop took more than 2 s")
    expect(is_gone(word, within_s=0.5), "a process outlived stop")


def daemons_end_with_the_main_process(bench: Bench) -> None:
    word = f"word-{secrets.token_hex(6)}"
    job = bench.job(f"WORD = {word!r}\n{_DAEMONS}")
    bench.sandbox.start(job)
    try:
        ended = bench.sandbox.wait(job.name, 20)
        expect(ended == Exit(0), f"the main process ended as {ended}")
        expect(is_gone(word, within_s=2), "a daemon outlived the main process")
    finally:
        bench.sandbox.stop(job.name)


def stop_is_idempotent(bench: Bench) -> None:
    job = bench.job("import time; time.sleep(60)")
    bench.sandbox.start(job)
    for _ in range(3):
        bench.sandbox.stop(job.name)
    bench.sandbox.stop("never-started")


def environment_is_exactly_what_the_job_gives(bench: Bench) -> None:
    os.environ["CLINLOOP_CANARY"] = "the server's"
    try:
        job = bench.job("import os\nfor key in os.environ: print(key)", environment={"GIVEN": "1"})
        began = time.monotonic()
        bench.sandbox.start(job)
        ended = bench.finish(job, began)
    finally:
        del os.environ["CLINLOOP_CANARY"]
    names = set(ended.log.split())
    allowed = {*basic_environment(job, home="/tmp"), "PWD", "OLDPWD", "_", "SHLVL", "LC_CTYPE"}  # noqa: S108 - a name, not a file
    if not bench.sandbox.isolates:
        allowed |= {"TMPDIR", "CLINLOOP_JOB", "CLINLOOP_OUT"}
    expect("GIVEN" in names, "the job's environment is missing")
    expect(names <= allowed, f"the job also sees {sorted(names - allowed)}")


def mounts_are_readable_whatever_their_mode(bench: Bench) -> None:
    closed = bench.folder / "closed" / "view"
    closed.mkdir(parents=True, mode=0o700)
    closed.parent.chmod(0o700)
    for name in ("file", "single"):
        (closed / name).write_text(name, encoding="utf-8")
        (closed / name).chmod(0o600)
    mounts = (Mount(closed, "/view"), Mount(closed / "single", "/table/single.csv"))
    argv = ("/bin/sh", "-c", 'cat "$1" "$2"', "sh", "/view/file", "/table/single.csv")
    ended = bench.run(argv=argv, mounts=mounts)
    expect(ended.log == "filesingle", f"the mounts read as {ended.log!r}")


def out_comes_back_as_a_plain_folder_of_ours(bench: Bench) -> None:
    job = bench.job(
        "import os; os.makedirs('a/b'); open('a/b/file', 'w').write('kept'); os.chmod('a/b/file', 0o777); print('written')\nimport time; time.sleep(60)"
    )
    out = job.mounts[-1].source
    with bench.running(job):
        bench.wait_for_log(job, "written\n")
        expect((out / "a/b/file").read_text(encoding="utf-8") == "kept", "the file is not visible while the job runs")
    expect((out / "a/b/file").read_text(encoding="utf-8") == "kept", "the file is gone after stop")
    expect(not out.is_mount(), "the folder is still a mount")
    facts = (out / "a/b/file").stat()
    expect(
        facts.st_uid == os.geteuid() and not facts.st_mode & (stat.S_IXUSR | stat.S_IWOTH),
        "the file is not simply ours",
    )
    expect(
        sorted(path.name for path in out.parent.iterdir()) == ["log", "out"],
        "something else was left beside the folder",
    )


def links_pipes_and_devices_do_not_come_back(bench: Bench) -> None:
    secret = bench.folder / "secret"
    secret.write_text("secret", encoding="utf-8")
    ended = bench.run(
        "import os, socket\n"
        f"open('file', 'w').write('kept'); os.symlink({str(secret)!r}, 'link'); os.symlink('/etc', 'folder')\n"
        "os.mkfifo('pipe'); os.link('file', 'twin'); open('lone', 'w').write('kept')\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('socket')"
    )
    expect(ended.exit.code == 0, ended.log)
    left = sorted(path.name for path in ended.out.iterdir())
    expect(left == ["lone"], f"came back: {left}")


def hostile_trees_come_back_or_are_deleted(bench: Bench) -> None:
    ended = bench.run(
        "import os\n"
        "open('ok', 'w').write('kept'); os.mkdir('closed'); open('closed/file', 'w').close(); os.chmod('closed', 0)\n"
        "open('line\\nbreak', 'w').close(); open(b'\\xff\\xfe', 'w').close(); os.mkdir('deep'); os.chdir('deep')\n"
        "for _ in range(1500):\n os.mkdir('d' * 50); os.chdir('d' * 50)"
    )
    expect(ended.exit.code == 0, ended.log)
    expect((ended.out / "ok").read_text(encoding="utf-8") == "kept", "the ordinary file is gone")
