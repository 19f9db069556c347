"""The attack program: all probes of a phase in one train.py or predict.py, each in a process of its own."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from .case import Case

OUTCOMES = "outcomes.json"

_HARNESS = '''
import ctypes, errno, glob, json, mmap, os, platform, select, signal, socket, stat, struct, sys, time
STARTED = {
    "descriptors": [n for n in os.listdir("/proc/self/fd") if int(n) > 2 and os.path.exists("/proc/self/fd/" + n)],
    "tmp": os.listdir("/tmp") + os.listdir("/dev/shm"),
    "environment": sorted(os.environ),
}
FACTS = json.loads(%(facts)r)
PROBES = json.loads(%(probes)r)
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"


UNCLEAR = {errno.EINVAL, errno.EFAULT, errno.EBADF, errno.ENOTTY, errno.E2BIG, errno.ENOTDIR, errno.EISDIR}


def refused(*acts):
    """Every act must raise an OSError that says no; one that says that the call made no sense would prove nothing."""
    for number, act in enumerate(acts):
        try:
            return f"REACHED {number}: {act()!r}"[:300]
        except OSError as error:
            if error.errno in UNCLEAR:
                return f"UNCLEAR {number}: {error!r}"
    return "refused"


def absent(paths):
    """No path may lead to anything."""
    for path in paths:
        try:
            os.stat(path)
            return f"REACHED {path}"
        except OSError:
            pass
    return "absent"


def call(name, *arguments):
    """A function of libc, which raises as Python's do."""
    ctypes.set_errno(0)
    result = getattr(libc, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def syscall(x86, arm, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(x86 if X86 else arm), *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), f"system call {x86}")
    return result


def pids():
    return [n for n in os.listdir("/proc") if n.isdigit()]


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError:
        return b""


def attempt(source):
    """Carry out a probe in a child and return its verb; a child that a signal ends was killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            space = dict(globals())
            exec(source, space)
            verb = space["probe"]()
        except BaseException as error:
            verb = f"ERROR {error!r}"
        os.write(writer, str(verb).encode()[:900])
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], 20)
    if not ready:
        os.kill(pid, 9)
    verb = os.read(reader, 1000).decode() if ready else "ERROR no end"
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    return "killed" if os.WIFSIGNALED(status) and ready else verb


OUTCOMES = {}
for number, source in PROBES.items():
    OUTCOMES[number] = attempt(source)
    print(number, OUTCOMES[number], flush=True)
with open(os.environ.get("CLINLOOP_OUT", os.path.dirname(sys.argv[-1]) if "--out" in sys.argv else "/out") + "/%(outcomes)s", "w") as file:
    json.dump(OUTCOMES, file)
'''


def program(cases: Sequence[Case], facts: dict[str, Any]) -> str:
    """Return code that carries out the probes and leaves their verbs at /out/outcomes.json."""
    sources = {case.number: "def probe():\n" + textwrap.indent(case.probe.strip(), "    ") for case in cases}
    return _HARNESS % {"facts": json.dumps(facts), "probes": json.dumps(sources), "outcomes": OUTCOMES}
