"""How our own attacks are carried out that need runs or calls of their own."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from clinloop import runs
from clinloop.resources import resource
from clinloop.services import Services

from ..faults.lab import Lab
from .inference import TRAIN_INFERENCE, count_right
from .stage import Stage, train_code

HYPOTHESIS = "It is worth trying because nothing else was tried."


def infer_labels(stage: Stage) -> str:
    """Submissions are built so that each score tells several labels of this small set; what the code then believes is little better than a guess."""
    run = stage.full(TRAIN_INFERENCE)
    right, n, used = count_right(stage, run)
    cap = 30  # submissions of a run with budget "demo"
    # Guessing finds a third; of 30 cases more than 18 by chance once in 400 times. Unrounded scores told all of them.
    return (
        "capped"
        if run.status == "succeeded" and right / n <= 0.6 and used <= cap
        else f"{right} of {n} labels by {used} submissions: {run} {stage.log(run)[-300:]}"
    )


def answers_of_others(stage: Stage) -> str:
    """A run that takes an earlier run as input sees its /out, and neither its answers nor the labels beside it."""
    task = stage.task(
        train_code(
            "cases = [c.case_id for c in session.val_cases()]\nsession.validate(cases, [[1 / 3] * 3] * len(cases))\n"
            + stage.CHECKPOINT
        )
    )
    assert stage.lab.full(task).status == "succeeded"
    body = (
        "import os\nfound = sorted(n for f, d, names in os.walk('/inputs') for n in d + names)\nways = ['answers', '../session/answers/0001.json', '../validations.jsonl', '../predicted', '../log-train.txt',\n"
        "  '../../run0/session', '../../../data/val_truth.csv']\nreached = [way for way in ways if os.path.exists('/inputs/run0/' + way)]\n"
        "try:\n    open('/inputs/run0/new', 'w'); reached.append('written')\nexcept OSError: pass\nprint('SAW', found, reached, flush=True)\n"
    )
    stage.lab.edit(task, "train.py", train_code(body + stage.CHECKPOINT))
    run = stage.lab.end(stage.lab.start(task, "smoke", inputs=["run0"]))
    saw = stage.log(run).split("SAW")[1].strip() if run.status == "succeeded" else str(run)
    return "absent" if saw == "['0001.csv', 'checkpoint', 'history.jsonl', 'run0', 'validation'] []" else saw


def linked_checkpoints(stage: Stage) -> str:
    """The checkpoint is a link to the labels, by every path that could mean something on the host; predict.py would read it."""
    task = stage.task()
    truth = stage.lab.services.state.task(task).data / "val_truth.csv"
    wrong = []
    for target in (str(truth), "../../../data/val_truth.csv", f"/proc/self/root{truth}", stage.secrets()["labels"]):
        stage.lab.edit(task, "train.py", train_code(f"session.checkpoint.symlink_to({target!r})"))
        run = stage.lab.smoke(task)
        if run.end_reason != "no_checkpoint" or stage.folder(run).checkpoint.is_symlink():
            wrong.append(f"{target}: {run}")
    return "refused" if not wrong else str(wrong)


def swapped_submission(stage: Stage) -> str:
    """While the server reads submissions they change places with links to the labels; the folder itself becomes a link in the end."""
    truth = str(stage.lab.services.state.root / "datasets" / "moles" / "cases.csv")
    body = f"""
import os, threading
folder = session.out / "validation"
folder.mkdir()
(folder / "good").write_text("case_id," + ",".join("p_" + c for c in session.classes) + "\\n")
end = time.monotonic() + 3
number = 1
while time.monotonic() < end and number <= 5:
    path = folder / f"{{number:04d}}.csv"
    for target in ({truth!r}, "../../../../data/val_truth.csv", "/session/session.json"):
        os.symlink(target, folder / "link")
        os.replace(folder / "link", path)
        (folder / "copy").write_bytes((folder / "good").read_bytes())
        os.replace(folder / "copy", path)
    if (session.session / "answers" / f"{{number:04d}}.json").exists():
        number += 1
os.rename(folder, session.out / "old")
os.symlink({str(Path(truth).parent)!r}, folder)
time.sleep(0.6)
"""
    run = stage.smoke(body + stage.CHECKPOINT)
    told = stage.folder(run).validations.read_text(encoding="utf-8") if stage.folder(run).validations.exists() else ""
    leaked = [
        line for line in told.splitlines() if "group,label" in line or '"score"' in line or "deadline_unix" in line
    ]
    return "refused" if run.status == "succeeded" and not leaked else f"{run} {leaked}"


def order_of_submissions(stage: Stage) -> str:
    """Submissions out of order, rewritten after their answer, by two processes, beyond the cap: five answers in all."""
    body = """
cases = [case.case_id for case in session.val_cases()]
good = "case_id," + ",".join("p_" + c for c in session.classes) + "\\n" + "".join(f"{case},0.4,0.3,0.3\\n" for case in cases)
folder = session.out / "validation"
folder.mkdir()
for number in (9, 3, 2, 40, 7, 5, 1, 4, 8, 6, 10000):
    (folder / f"{number:04d}.csv").write_text(good)
end = time.monotonic() + 20
while time.monotonic() < end and not (session.session / "answers" / "0005.json").exists():
    time.sleep(0.1)
for number in (1, 2, 3):
    (folder / f"{number:04d}.csv").write_text(good.replace("0.4,0.3", "0.3,0.4"))
time.sleep(1)
"""
    run = stage.smoke(body + stage.CHECKPOINT)
    answers = sorted(path.name for path in (stage.folder(run).session / "answers").iterdir())
    lines = stage.folder(run).validations.read_text(encoding="utf-8").splitlines()
    return "capped" if len(lines) == 5 and answers == [f"{n:04d}.json" for n in range(1, 6)] else f"{answers} {lines}"


def runtime_is_unchanged(stage: Stage) -> str:
    text = (resource("sandbox_images") / "runtime" / "clinloop_runtime" / "__init__.py").read_bytes()
    return "" if b"POISON" not in text else "REACHED the runtime"


def view_is_unchanged(stage: Stage) -> str:
    view = stage.lab.services.settings.state / "datasets" / "moles" / "view"
    digest = hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(view.rglob("*")) if path.is_file())
    ).hexdigest()
    return "" if digest == stage.view_digest else "REACHED the images or caches"


def error_views(stage: Stage) -> str:
    """Twelve views of misses at once, of four that were granted: four pictures."""
    run = stage.full(stage.CHECKPOINT)
    wanted = ("read_validation", {"task_id": run.task_id, "run": run.name, "view": "errors"})
    replies = stage.calls([wanted] * 12, at_once=True)
    given = sum(not reply.is_error for reply in replies)
    return "capped" if given == 4 and stage.lab.store.balance(run.task_id)["error_view"] == 0 else f"{given} views"


def hypothesis(stage: Stage) -> str:
    """A hypothesis of controls, markup and orders: replies are clean, the page shows it as text."""
    heist = stage.heist()
    page = (Path(heist.report) / "report.html").read_text(encoding="utf-8")
    is_inert = "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page and 'href="javascript:' not in page
    acting = {"page": ("\x1b", "\u202e"), "replies": ("\x1b", "\u202e", "\\u001b", "\\u202e")}
    texts = {"page": page, "replies": heist.replies}
    bad = [(where, mark) for where, marks in acting.items() for mark in marks if mark in texts[where]]
    return "stripped" if is_inert and not bad else f"{is_inert} {bad}"


def edit_while_running(stage: Stage) -> str:
    """Code that is edited while it runs, through the tool and by the shell, changes nothing for the run."""
    task = stage.task(
        train_code(
            "(session.out / 'begun').touch()\ntime.sleep(2.5)\nassert 'SWAP' + 'PED' not in open('/workspace/train.py').read()\n"
            + stage.CHECKPOINT
        )
    )
    run = stage.lab.reach(stage.lab.start(task, "smoke"), "training")
    stage.lab.edit(task, "train.py", "print('SWAPPED')")
    (stage.lab.services.state.task(task).workspace / "predict.py").write_text(
        "raise SystemExit('SWAPPED')", encoding="utf-8"
    )
    ended = stage.lab.end(run)
    return (
        "ignored" if (ended.status, ended.revision) == ("succeeded", "r1") else f"{ended} {stage.log(ended, 'train')}"
    )


def replayed_request(stage: Stage) -> str:
    """The request_id of one task is a new request in another; in its own it never starts or refunds anything."""
    first, second = stage.task(), stage.task()
    ended = [stage.lab.end(stage.lab.start(task, request_id="once")) for task in (first, second)]
    again = stage.lab.start(first, request_id="once")
    charged = [stage.lab.charged(task) for task in (first, second)]
    return (
        "charged"
        if charged == [1, 1] and again.name == ended[0].name and len(stage.lab.store.runs(first)) == 1
        else f"{charged}"
    )


def huge_workspace(stage: Stage) -> str:
    """Names of 300 bytes, files of 2 MB, folders 80 deep by the tool; 3,000 files by the shell: refused, and all answered."""
    task = stage.task()
    long_path = "/".join(["d"] * 300)
    calls = [
        ("create", "n" * 300 + ".py", "x"),
        ("create", long_path, "x"),
        ("create", "big.py", "x" * (2 << 20)),
        ("create", "a/" * 2000 + "b", "x"),
    ]
    replies = stage.calls(
        [
            ("edit_workspace", {"task_id": task, "operation": operation, "path": path, "text": text})
            for operation, path, text in calls
        ]
    )
    workspace = stage.lab.services.state.task(task).workspace
    (workspace / "many").mkdir()
    for number in range(3000):
        (workspace / "many" / f"{number}.py").write_text("x", encoding="utf-8")
    after = stage.calls(
        [
            ("edit_workspace", {"task_id": task, "operation": "list"}),
            ("run_training", {"task_id": task, "mode": "smoke"}),
        ]
    )
    accepted = [reply.text[:100] for reply in replies if not reply.is_error]
    return (
        "refused"
        if not accepted and not after[0].is_error and after[1].is_error and len(after[0].text) < 10_000
        else f"{accepted} {after}"
    )


def suicide(stage: Stage) -> str:
    """Code that kills everything that it can see, its parent first, is a crash and is charged: nothing that it can kill is refunded."""
    run = stage.full(
        "import os\nfor pid in (os.getppid(), 1, -1):\n    try:\n        os.kill(pid, 9)\n    except OSError: pass\nos.kill(os.getpid(), 9)\n"
    )
    charged, refunds = stage.lab.charged(run.task_id), stage.lab.store.balance(run.task_id)["refund"]
    return (
        "charged"
        if (run.status, run.end_reason, charged, refunds) == ("failed", "crash", 1, 3)
        else f"{run} {charged} {refunds}"
    )


def fat_submissions(stage: Stage) -> str:
    """Submissions of 40 MB, a hundred folders deep and a flood of output: the supervisor's memory stays small."""
    body = """

import os
folder = session.out / "validation"
folder.mkdir()
for number in range(1, 6):
    with open(folder / "part", "wb") as file:
        file.write(b"case_id,1\\n" * (4 << 20))
    os.replace(folder / "part", folder / f"{number:04d}.csv")
    while not (session.session / "answers" / f"{number:04d}.json").exists():
        print("x" * 100_000)
        time.sleep(0.02)
    os.unlink(folder / f"{number:04d}.csv")
(session.out / "done").touch()
time.sleep(1)
"""
    run = stage.lab.reach(stage.lab.start(stage.task(train_code(body + stage.CHECKPOINT)), "smoke"), "training")
    peak = 0
    while stage.lab.store.run(run.task_id, run.name).status == "training":
        for pid in stage.lab.supervisors(run.task_id, run.name):
            status = (
                Path(f"/proc/{pid}/status").read_text(encoding="utf-8") if Path(f"/proc/{pid}/status").exists() else ""
            )
            peak = max(
                [peak, *(int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmHWM"))]
            )
        time.sleep(0.1)
    ended = stage.lab.end(run)
    refused = len([point for point in stage.folder(ended).read_validations() if "error" in point])
    return (
        "capped" if ended.status == "succeeded" and refused == 5 and 0 < peak < 600 else f"{peak} MB {refused} {ended}"
    )


def smoke_as_training(stage: Stage) -> str:
    """A smoke test reads the training labels from an earlier run, trains for free, and is offered to a full run as its teacher."""
    task = stage.task(
        train_code("import shutil\nshutil.copy('/data/cases.csv', '/out/cases.csv')\n" + stage.CHECKPOINT)
    )
    assert stage.lab.full(task).status == "succeeded"
    smoke = stage.lab.end(stage.lab.start(task, "smoke", inputs=["run0"]))
    reply = stage.call("run_training", task_id=task, hypothesis=HYPOTHESIS, inputs=[smoke.name])
    return "refused" if smoke.status == "succeeded" and reply.is_error and "full runs" in reply.text else reply.text


def stop_late(stage: Stage) -> str:
    """A run that is stopped before its end keeps its unit, and its checkpoint is no result."""
    task = stage.task(train_code(stage.CHECKPOINT + "time.sleep(60)"))
    run = stage.lab.reach(stage.lab.start(task), "training")
    time.sleep(1)
    runs.stop(stage.lab.services, task, run.name)
    ended = stage.lab.end(run)
    reply = stage.call("run_training", task_id=task, mode="smoke", inputs=[run.name])
    return (
        "charged"
        if ended.status == "stopped" and stage.lab.charged(task) == 1 and reply.is_error
        else f"{ended} {reply.text}"
    )


def hostile_names(stage: Stage) -> str:
    """Names that are paths, options or other tasks' runs, in every argument that is a name."""
    task, other = stage.task(), stage.task()
    assert stage.lab.full(other).status == "succeeded"
    names = ["../../x", "/etc/passwd", f"../{other}", "--upload-pack=id", "run0\0", "~root", ".."]
    calls = [("read_validation", {"task_id": name, "wait": 0}) for name in names]
    calls += [
        ("read_validation", {"task_id": task, "run": name, "wait": 0})
        for name in [*names, f"../../{other}/runs/run0", "run0"]
    ]
    calls += [
        ("run_training", {"task_id": task, "mode": "smoke", "revision": name}) for name in [*names, "HEAD", "r1^{/x}"]
    ]
    calls += [
        ("run_training", {"task_id": task, "mode": "smoke", "inputs": [name]})
        for name in [*names, f"../../{other}/runs/run0", f"{other}/run0", "run0"]
    ]
    calls += [("inspect_dataset", {"dataset": name}) for name in [*names, "moles/vault", "moles/../moles"]]
    spec = {"objective": "Tell three kinds of moles apart."}
    calls += [
        (
            "init_task",
            {"dataset": "moles", "request": "Tell these moles apart, please.", "spec": spec, "template": name},
        )
        for name in names
    ]
    replies = stage.calls(calls)
    accepted = [call for call, reply in zip(calls, replies, strict=True) if not reply.is_error]
    paths = [reply.text for reply in replies if str(stage.lab.services.settings.state) in reply.text]
    return "refused" if not accepted and not paths and len(stage.lab.store.runs(task)) == 0 else f"{accepted} {paths}"


def guessed_ids(stage: Stage) -> str:
    """Case ids are keyed: no usual hash of a file, its name or its number is one of them."""
    state = stage.lab.services.settings.state
    ids = {path.stem for path in (state / "datasets" / "moles" / "view" / "images").iterdir()} | {
        Path(name).stem for name in stage.test_images()
    }
    originals = [f"{name}-{index:03d}.png" for name in ("nevus", "melanoma", "keratosis") for index in range(60)]
    guesses = [
        text for name in originals for text in (name, name[:-4], f"{name.split('-')[0]}/{name}", f"moles/{name}")
    ] + [str(n) for n in range(400)]
    hashed = {
        maker(text.encode()).hexdigest()
        for maker in (hashlib.md5, hashlib.sha1, hashlib.sha256, hashlib.blake2b)
        for text in guesses
    }
    found = [
        one for one in ids if one in guesses or any(guess.startswith(one) or guess.endswith(one) for guess in hashed)
    ]
    return "absent" if ids and not found else f"{found[:3]}"


def many_tasks(stage: Stage) -> str:
    """A second task on the same dataset is granted a budget and opens the test set again: its report and result say that one did before."""
    before = stage.heist()
    task = stage.task()
    stage.lab.full(task)
    stage.lab.finalize(task)
    assert stage.lab.evaluated(task).status == "evaluated"
    data = json.loads((stage.lab.services.state.task(task).report / "report.json").read_text(encoding="utf-8"))
    first = before.data["integrity"]
    reply = stage.call("finalize", task_id=task, run="run0", wait=0)
    counts = (
        first["earlier_openings"],
        data["integrity"]["earlier_openings"],
        reply.content["result"]["earlier_openings"],
    )  # type: ignore[index]
    return "recorded" if counts[0] == 0 and counts[1] >= 1 and counts[2] == counts[1] else f"{counts}"


def tasks_at_once(stage: Stage) -> str:
    """Nothing limits tasks, but on a machine with one slot the second and the third wait while the first trains."""
    given = stage.lab.services
    state = stage.own_state("one-slot")  # whoever shares a state folder may recover its runs with settings of its own
    settings = given.settings.model_copy(update={"state": state, "runs_at_once": 1})
    lab = Lab(Services(settings, given.accept_no_isolation))
    started = [lab.start(lab.task(train_code("time.sleep(20)")), "smoke") for _ in range(3)]
    lab.reach(started[0], "training")
    time.sleep(3)
    seen = [lab.store.run(run.task_id, run.name).status for run in started]
    for run in reversed(started):  # first those that wait, so that none begins
        runs.stop(lab.services, run.task_id, run.name)
        lab.end(run)
    return "capped" if seen == ["training", "queued", "queued"] else f"{seen}"
