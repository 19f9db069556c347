"""Train and predict in sandboxes: what is mounted, what the session says, the deadline, and answers to validation submissions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clinloop.beneath import Beneath
from clinloop.context import Cases, TaskContext
from clinloop.datasets.dataset import Dataset
from clinloop.errors import Refusal
from clinloop.failpoints import reach
from clinloop.files import remove_tree, write_atomic
from clinloop.paths import PREDICTIONS, RunFolder
from clinloop.resources import resource
from clinloop.sandbox import gpu_check
from clinloop.sandbox.base import Exit, Job, Mount
from clinloop.scoring import service
from clinloop.scoring.results import error_bound, rounded, step_of
from clinloop.store.rows import RunRow

GRACE_S = 5.0
"""After its deadline a train.py gets this long to end by itself."""
PREDICTIONS_CAP = 256 << 20
"""Bytes of a predictions file that the server is willing to read."""
_POLL_S = 0.2

EndReason = Literal["completed", "deadline", "stopped", "crash", "out_of_memory", "disk_full", "no_checkpoint"]


class Ending(NamedTuple):
    """How a phase ended."""

    reason: EndReason
    message: str
    seconds: float


def train(
    context: TaskContext,
    run: RunRow,
    folder: RunFolder,
    cases: Cases,
    *,
    seed: int,
    started: Callable[[str, float], None],
    should_stop: Callable[[], bool],
) -> Ending:
    """Run train.py until it ends, its deadline passes or somebody stops it, scoring its validation submissions on the way.

    `started(ref, deadline_unix)` is called as soon as the sandbox runs. /out is harvested into `folder.out` before this returns.
    What an attempt of a dead supervisor left of this training is ended and removed first.
    """
    seconds = _train_seconds(context, run)
    deadline_unix = time.time() + seconds
    job = _training_job(context, run, folder, cases)
    _make_empty(context, job.name, folder.out)
    remove_tree(folder.session)
    folder.validations.unlink(missing_ok=True)
    _write_session(
        context,
        folder.session,
        run.mode,
        "train",
        seed=seed,
        train_seconds=seconds,
        deadline_unix=deadline_unix,
        validations_cap=_validations_cap(context, run),
    )
    begun = time.monotonic()
    context.sandbox.start(job)
    try:
        started(job.name, deadline_unix)
    except BaseException:
        context.sandbox.stop(job.name)
        raise
    return _watch_training(context, run, folder, cases, job, begun=begun, should_stop=should_stop)


def resume_training(
    context: TaskContext, run: RunRow, folder: RunFolder, cases: Cases, *, should_stop: Callable[[], bool]
) -> Ending | None:
    """Go on with the training of a dead supervisor, or harvest it if it has ended meanwhile; None when it died with its supervisor.

    The deadline stays the one that the code was told.
    """
    job = _training_job(context, run, folder, cases)
    if not context.sandbox.adopt(job):
        return None
    seconds = _train_seconds(context, run)
    left = min((run.deadline_unix or 0.0) - time.time(), seconds)  # the clock may have been set back
    begun = time.monotonic() - (seconds - left)
    return _watch_training(context, run, folder, cases, job, begun=begun, should_stop=should_stop)


def _train_seconds(context: TaskContext, run: RunRow) -> float:
    return context.preset.smoke_seconds if run.mode == "smoke" else context.preset.train_seconds


def _validations_cap(context: TaskContext, run: RunRow) -> int:
    return min(5, context.preset.validations) if run.mode == "smoke" else context.preset.validations


def _training_job(context: TaskContext, run: RunRow, folder: RunFolder, cases: Cases) -> Job:
    inputs = [Mount(context.folder.run(earlier).out, f"/inputs/{earlier}") for earlier in run.inputs]
    data = [Mount(cases.table, "/data/cases.csv"), *_data_mounts(context.dataset)]
    if cases.boxes.exists():
        data.append(Mount(cases.boxes, "/data/boxes.json"))
    weights = [Mount(context.settings.weights, "/weights")] if context.settings.weights else []
    return _job(
        context,
        name=job_name(run, "train"),
        argv=("python", "train.py"),
        code=folder.code,
        session=folder.session,
        mounts=(*data, *inputs, *weights, Mount(folder.out, "/out", writable=True)),
        wall_seconds=_train_seconds(context, run) + GRACE_S,
        log=folder.log("train"),
    )


def _watch_training(
    context: TaskContext,
    run: RunRow,
    folder: RunFolder,
    cases: Cases,
    job: Job,
    *,
    begun: float,
    should_stop: Callable[[], bool],
) -> Ending:
    answers = _Answers(context, folder, cases.truth, _validations_cap(context, run))
    deadline = begun + job.wall_seconds
    exit: Exit | None = None
    reason: EndReason | None = "deadline" if time.monotonic() > deadline else "stopped" if should_stop() else None
    try:
        while reason is None and (exit := context.sandbox.wait(job.name, _POLL_S)) is None:
            answers.serve(time.monotonic() - begun)
            if time.monotonic() > deadline:
                reason = "deadline"
            elif should_stop():
                reason = "stopped"
    finally:
        context.sandbox.stop(job.name)
    _confirm_gpus(context, job, exit)
    elapsed = min(time.monotonic() - begun, job.wall_seconds)
    return _judge_training(exit, reason, has_checkpoint=folder.checkpoint.is_file(), seconds=elapsed)


def _judge_training(exit: Exit | None, reason: EndReason | None, *, has_checkpoint: bool, seconds: float) -> Ending:
    """Name how training ended; a run that was cut off keeps its checkpoint, a crash does not count as a result."""
    if reason == "stopped":
        return Ending("stopped", "The run was stopped on request.", seconds)
    if reason is None and exit is not None:
        if exit.oom_killed:
            reason, message = "out_of_memory", "A process of train.py was killed because the sandbox ran out of memory."
        elif exit.code != 0 and exit.disk_full:
            reason, message = "disk_full", "train.py filled /out and ended."
        elif exit.code != 0:
            return Ending("crash", f"train.py ended with exit status {exit.code}; the log says why.", seconds)
        else:
            reason, message = "completed", "train.py ended by itself."
    else:
        reason, message = "deadline", "train.py was ended at its deadline."
    if not has_checkpoint:
        return Ending(
            "no_checkpoint" if reason == "completed" else reason, f"{message} It left no file /out/checkpoint.", seconds
        )
    return Ending(reason, message, seconds)


def predict(
    context: TaskContext,
    *,
    name: str,
    code: Path,
    checkpoint: Path,
    view: Path,
    out: Path,
    session: Path,
    log: Path,
    smoke: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Ending:
    """Run predict.py in a fresh sandbox on the images of a view; its predictions are at `out`/PREDICTIONS when it completed.

    What an earlier attempt left under this name is ended and removed first.
    """
    _make_empty(context, name, out)
    seconds = context.settings.limits.predict_seconds
    _write_session(
        context,
        session,
        "smoke" if smoke else "full",
        "predict",
        train_seconds=seconds,
        deadline_unix=time.time() + seconds,
    )
    job = _job(
        context,
        name=name,
        argv=(
            "python",
            "predict.py",
            "--images",
            "/predict/images",
            "--checkpoint",
            "/checkpoint",
            "--out",
            f"/out/{PREDICTIONS}",
        ),
        code=code,
        session=session,
        mounts=(Mount(view, "/predict"), Mount(checkpoint, "/checkpoint"), Mount(out, "/out", writable=True)),
        wall_seconds=seconds,
        log=log,
    )
    begun = time.monotonic()
    ref = context.sandbox.start(job)
    is_stopped = False
    try:
        reach("predict:started")
        while (exit := context.sandbox.wait(ref, _POLL_S)) is None and time.monotonic() - begun < seconds:
            if is_stopped := should_stop():
                break
    finally:
        context.sandbox.stop(ref)
    _confirm_gpus(context, job, exit)
    elapsed = time.monotonic() - begun
    if is_stopped:
        return Ending("stopped", "The run was stopped on request, while predict.py ran.", elapsed)
    if exit is None:
        return Ending("deadline", f"predict.py was ended after {seconds} s.", elapsed)
    if exit.oom_killed:
        return Ending("out_of_memory", "predict.py was killed because the sandbox ran out of memory.", elapsed)
    if exit.code != 0:
        return Ending("crash", f"predict.py ended with exit status {exit.code}; the log says why.", elapsed)
    return Ending("completed", "predict.py ended by itself.", elapsed)


def _job(
    context: TaskContext,
    *,
    name: str,
    argv: tuple[str, ...],
    code: Path,
    session: Path,
    mounts: Sequence[Mount],
    wall_seconds: float,
    log: Path,
) -> Job:
    job = Job(
        name=name,
        argv=(context.environment.python if argv[0] == "python" else argv[0], *argv[1:]),
        workdir="/workspace",
        mounts=(
            *_basic_mounts(context),
            Mount(code, "/workspace"),
            Mount(session, "/session"),
            *mounts,
        ),
        limits=context.settings.limits,
        wall_seconds=wall_seconds,
        log=log,
        environment={
            "PYTHONPATH": "/runtime",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
            "HF_HUB_OFFLINE": "1",
            **context.environment.variables,
        },
        image=context.environment.image,
        gpus=context.gpus,
    )
    return gpu_check.guard(job, isolates=context.sandbox.isolates)


def _basic_mounts(context: TaskContext) -> tuple[Mount, ...]:
    return *context.environment.mounts, Mount(resource("sandbox_images") / "runtime", "/runtime")


def _confirm_gpus(context: TaskContext, job: Job, exit: Exit | None) -> None:
    """End a phase as a fault of ours when it ended because its GPUs were not there."""
    if job.gpus and exit is not None and exit.code == gpu_check.MISMATCH:
        gpu_check.confirm(context.sandbox, job, mounts=_basic_mounts(context))


def job_name(run: RunRow, phase: Literal["train", "predict"]) -> str:
    """Return the name of a run's sandbox."""
    return f"{run.task_id}-{run.name}-{phase}"


def end_jobs(context: TaskContext, run: RunRow) -> None:
    """End whatever a run has left running or mounted; nothing happens when there is nothing."""
    context.sandbox.stop(job_name(run, "train"))
    context.sandbox.stop(job_name(run, "predict"))


def _make_empty(context: TaskContext, name: str, out: Path) -> None:
    """Make `out` an empty folder; a job of this name that outlived its supervisor is ended before, because it may still be mounted there."""
    context.sandbox.stop(name)
    remove_tree(out)
    out.mkdir(parents=True, mode=0o700)


def _data_mounts(dataset: Dataset) -> list[Mount]:
    view = dataset.view
    caches = sorted(path for path in view.iterdir() if path.name.startswith("cache_"))
    folders = [view / name for name in ("images", "masks") if (view / name).is_dir()]
    return [Mount(path, f"/data/{path.name}") for path in (*folders, *caches)]


def _write_session(context: TaskContext, session: Path, mode: str, phase: str, **facts: Any) -> None:
    (session / "answers").mkdir(parents=True, mode=0o755, exist_ok=True)
    session.chmod(0o755)
    content = {
        "mode": mode,
        "phase": phase,
        "task_type": context.task.spec.task_type,
        "classes": context.classes,
        "targets": list(context.scheme.targets),
        "seed": context.task.seed,
        "primary_metric": context.task.spec.primary_metric,
        "px_available": list(context.dataset.cache_px),
        "cpus": context.settings.limits.cpus,
        "gpus": len(context.gpus),
        **facts,
    }
    write_atomic(session / "session.json", json.dumps(content, indent=1))
    (session / "session.json").chmod(0o644)


class _Answers:
    """Scores the validation submissions of one training run and writes the answers that it reads."""

    def __init__(self, context: TaskContext, folder: RunFolder, truth: Path, cap: int) -> None:
        self._context, self._folder, self._truth, self._cap = context, folder, truth, cap
        earlier = folder.read_validations()  # of a supervisor that died
        scores = [line["score"] for line in earlier if "score" in line]
        self._suffix = ".csv" if context.scheme.task_type == "classification" else ".json"
        is_higher_better = service.is_higher_better(context.task.spec.primary_metric)
        self._next = len(earlier) + 1
        self._best = (max(scores) if is_higher_better else min(scores)) if scores else None

    def serve(self, seconds: float) -> None:
        """Answer the next submission if there is one."""
        if self._next > self._cap:
            return
        name = f"validation/{self._next:04d}{self._suffix}"
        try:
            with Beneath(self._folder.out) as out:
                if not out.exists(name):
                    return
                data = out.read(name, cap=PREDICTIONS_CAP)
            answer = self._score(data)
        except (
            Refusal
        ) as refusal:  # also of the scoring process: a file that it cannot take is no reason to end the run
            answer = {"error": str(refusal)}
        path = self._folder.session / "answers" / f"{self._next:04d}.json"
        write_atomic(path, json.dumps(answer | {"left": self._cap - self._next}))
        path.chmod(0o644)
        line = {"n": self._next, "seconds": round(seconds, 1), **answer}
        with self._folder.validations.open("a", encoding="utf-8") as history:
            history.write(json.dumps(line) + "\n")
        self._next += 1

    def _score(self, data: bytes) -> dict[str, Any]:
        spec = self._context.task.spec
        result = service.score_predictions(
            data,
            self._truth,
            scheme=self._context.scheme,
            metrics=[spec.primary_metric],
            primary=spec.primary_metric,
            intervals=False,
        )
        # Exact values are not compared either: whether one beats another would tell a label each time. Of equals the later one is the best,
        # because at the end of a schedule a network has usually not become worse.
        score = rounded(result.primary, step_of(error_bound(result.groups)))
        if score is None:
            return {"error": f"{spec.primary_metric} is undefined on these predictions"}
        best = self._best is None or (
            score >= self._best if service.is_higher_better(spec.primary_metric) else score <= self._best
        )
        if best:
            self._best = score
        return {"score": score, "best": best}


__all__ = ["GRACE_S", "PREDICTIONS_CAP", "Ending", "end_jobs", "job_name", "predict", "train"]
