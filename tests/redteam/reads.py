"""Section A: reading what submitted code must not read."""

from __future__ import annotations

from .case import Case

_GPU = "tests/gpu/test_on_a_gpu.py::"
_SEEN = "Seen on one NVIDIA H200 in bubblewrap; the test is skipped where there is no GPU."

CASES = [
    Case(
        number="A1",
        title="open the vault, the validation labels and the dataset folder by path",
        expected="absent",
        probe="""
return absent(FACTS["secret_paths"] + ["/data/../val_truth.csv", "/workspace/../data/val_truth.csv", "/session/../data/val_truth.csv",
    "/out/../data/val_truth.csv", "/data/images/../../vault/cases.csv"])
""",
    ),
    Case(
        number="A2",
        title="walk the whole tree for names of test images, label files and the store",
        expected="absent",
        probe="""
wanted = set(FACTS["secret_names"])
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys")]
    if found := wanted.intersection(files + folders):
        return f"REACHED {folder} {sorted(found)[:3]}"
return "absent"
""",
    ),
    Case(
        number="A3",
        title="leave by /proc/*/root, /proc/*/cwd and /proc/*/fd",
        expected="absent",
        probe="""
ways = [f"/proc/{pid}/{door}{path}" for pid in [*pids(), "self", "thread-self"] for door in ("root", "cwd") for path in FACTS["secret_paths"]]
links = [link for pid in pids() for link in glob.glob(f"/proc/{pid}/fd/*")]
for link in links:
    try:
        target = os.readlink(link)
    except OSError:
        continue
    if FACTS["state"] in target:
        return f"REACHED {link} -> {target}"
return absent(ways)
""",
    ),
    Case(
        number="A4",
        title="find the server's environment in /proc/*/environ",
        expected="absent",
        probe="""
canary = FACTS["canary"].encode()
found = [pid for pid in pids() if canary in read(f"/proc/{pid}/environ")]
return f"REACHED {found}" if found or FACTS["canary"] in json.dumps(dict(os.environ)) else "absent"
""",
    ),
    Case(
        number="A5",
        title="learn the path of the vault from command lines and mount tables",
        expected="absent",
        probe="""
seen = b"".join(read(f"/proc/{pid}/{name}") for pid in pids() for name in ("cmdline", "mountinfo", "mounts", "mountstats"))
return f"REACHED {[word for word in (FACTS['vault'], 'val_truth') if word.encode() in seen]}" if FACTS["vault"].encode() in seen or b"val_truth" in seen else "absent"
""",
    ),
    Case(
        number="A6",
        title="use a descriptor that was inherited",
        expected="absent",
        probe="return f'REACHED {STARTED[\"descriptors\"]}' if STARTED['descriptors'] else 'absent'",
    ),
    Case(
        number="A7",
        title="open files by handle instead of by name",
        expected="refused",
        probe="""
mount = os.open("/data/cases.csv", os.O_RDONLY)
handles = [struct.pack("IiII", 8, 1, inode, 0) for inode in range(2, 40)]
return refused(*(lambda handle=handle: syscall(304, 265, mount, handle, os.O_RDONLY) for handle in handles))
""",
    ),
    Case(
        number="A8",
        title="make and open block and memory devices",
        expected="refused",
        probe="""
devices = ["/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/loop0", "/dev/loop-control", "/dev/mem", "/dev/kmsg", "/dev/port", "/dev/fuse", "/dev/kvm"]
acts = [lambda path=path: open(path, "rb") for path in devices]
for major, minor in ((8, 0), (7, 0), (253, 0), (1, 1)):
    kind = stat.S_IFCHR if major == 1 else stat.S_IFBLK
    acts += [lambda folder=folder, kind=kind, device=os.makedev(major, minor): os.mknod(folder + "/device", 0o600 | kind, device) for folder in ("/tmp", "/out", "/dev/shm")]
return refused(*acts)
""",
    ),
    Case(
        number="A9",
        title="mount, move mounts, change the root, make a user namespace",
        expected="refused",
        probe="""
os.makedirs("/tmp/m", exist_ok=True)
return refused(
    lambda: call("mount", b"/", b"/tmp/m", None, 4096, None), lambda: call("mount", b"proc", b"/tmp/m", b"proc", 0, None),
    lambda: call("mount", b"tmpfs", b"/tmp/m", b"tmpfs", 0, None), lambda: call("mount", None, b"/data/images", None, 32 | 4096, None),
    lambda: call("umount2", b"/data/images", 2), lambda: syscall(155, 41, b"/tmp/m", b"/tmp/m"), lambda: call("chroot", b"/tmp/m"),
    lambda: call("unshare", 0x10000000), lambda: call("unshare", 0x20000), lambda: call("setns", os.open("/proc/1/ns/mnt", os.O_RDONLY), 0),
    lambda: syscall(428, 428, -100, b"/", 1), lambda: syscall(430, 430, b"ext4", 0), lambda: syscall(442, 442, -100, b"/data", 0, b"\\0" * 32, 32),
)
""",
    ),
    Case(
        number="A10",
        title="trace or read the memory of the supervisor, the server and another run",
        expected="refused",
        probe="""
buffer = ctypes.create_string_buffer(8)
acts = []
for pid in FACTS["host_pids"]:
    acts += [lambda pid=pid: call("ptrace", 16, pid, 0, 0), lambda pid=pid: os.kill(pid, 0), lambda pid=pid: open(f"/proc/{pid}/mem", "rb"),
        lambda pid=pid: syscall(310, 270, pid, struct.pack("QQ", ctypes.addressof(buffer), 8), 1, struct.pack("QQ", 4096, 8), 1, 0),
        lambda pid=pid: syscall(434, 434, pid, 0)]
return refused(*acts)
""",
    ),
    Case(
        number="A11",
        title="see the store, the key of the instance and the ledger",
        expected="absent",
        probe="return absent(FACTS['store_paths'])",
    ),
    Case(
        number="A12",
        title="see the workspace and the runs of another task",
        expected="absent",
        probe="""
return absent([*FACTS["other_task_paths"], "/inputs", "/workspace/../../run0", "/workspace/../runs"])
""",
    ),
    Case(
        number="A13",
        title="find what an earlier run left in /tmp, /dev/shm and /out",
        expected="absent",
        probe="return f'REACHED {STARTED[\"tmp\"]}' if STARTED['tmp'] else absent(['/out/left-behind', '/data/left-behind'])",
    ),
    Case(
        number="A14",
        title="find a canary of the previous run in GPU memory",
        expected="absent",
        tests=(_GPU + "test_nothing_of_a_jobs_gpu_memory_is_found_by_the_next_one",),
        note=_SEEN,
    ),
    Case(
        number="A15",
        title="see a GPU that was not leased",
        expected="absent",
        tests=(
            _GPU + "test_a_job_without_a_lease_sees_no_gpu",
            _GPU + "test_a_job_sees_the_leased_gpu_and_no_other",
        ),
        note=_SEEN,
    ),
]
