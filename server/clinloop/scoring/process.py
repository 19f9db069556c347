"""Starting a scoring process: opens the predictions, hands over one job under caps, and turns the reply into values or refusals."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, TypeVar

from clinloop.errors import BadInput, BadPredictions, Refusal
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.truth import TruthCase, read_truth

Source = Path | bytes
"""Predictions: a plain file, or bytes that were read already."""
Truth = Path | Sequence[TruthCase]
"""A server-side truth file, or its cases."""


class ChildLimits(NamedTuple):
    """Caps of one scoring process."""

    memory_bytes: int = 4 << 30
    """Address space; numpy alone maps about 1 GiB."""
    seconds: int = 600
    """Wall-clock time."""


CHILD_LIMITS = ChildLimits()
_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def new_job(
    action: str,
    *,
    truth: Truth,
    scheme: Scheme,
    metrics: Sequence[str] = (),
    primary: str = "",
    rule: str = "youden",
    thresholds: list[dict[str, float]] | None = None,
    issued: list[str] | None = None,
    sizes: dict[str, tuple[int, int]] | None = None,
    p_values: dict[str, float | None] | None = None,
    resamples: int = 0,
    seed: int = 0,
    unit: str = "group",
) -> dict[str, object]:
    """Return a job as the process reads it; what an action does not need stays empty."""
    return {
        "action": action,
        "truth": _truth_rows(truth),
        "scheme": asdict(scheme),
        "metrics": list(metrics),
        "primary": primary,
        "rule": rule,
        "thresholds": thresholds,
        "issued": issued,
        "sizes": sizes,
        "p_values": p_values or {},
        "resamples": resamples,
        "seed": seed,
        "unit": unit,
    }


def _truth_rows(truth: Truth) -> list[list[object]]:
    cases = read_truth(truth) if isinstance(truth, Path) else truth
    return [[*case[:-1], dict(case.attributes)] for case in cases]


def run(job: dict[str, object], sources: Sequence[Source], limits: ChildLimits, kind: type[_Result]) -> _Result:
    """Do a job in a capped process and return its result as `kind`.

    Raises:
        BadPredictions, BadInput: as the process says.
        Refusal: it ended without an answer.
    """
    from pydantic import TypeAdapter  # late: servers that only resolve metric names need none of this

    with contextlib.ExitStack() as opened:
        files: list[int] = []
        for source in sources:
            files.append(_open(source))
            opened.callback(os.close, files[-1])
        reply = _ask({**job, "files": files}, files, limits)
    if "refused" not in reply:
        return TypeAdapter(kind).validate_python(reply["result"])
    text = str(reply["text"])
    match reply["refused"]:
        case "BadPredictions":
            raise BadPredictions(text)
        case "BadInput":
            raise BadInput(text)
        case _:
            raise Refusal(
                f"Scoring needed more than {limits.memory_bytes >> 20:,} MiB of memory and was stopped; no score was recorded."
            )


def _ask(job: dict[str, object], files: Sequence[int], limits: ChildLimits) -> dict[str, object]:
    """Start the scoring process, hand it the job, return its reply."""
    # The cap on processor time is behind the wall-clock limit: it ends a child whose parent was killed.
    caps = [str(limits.memory_bytes), str(limits.seconds + 5)]
    command = [sys.executable, "-I", "-m", "clinloop.scoring.child", *caps]
    try:
        ended = subprocess.run(
            command,
            input=json.dumps(job).encode(),
            capture_output=True,
            pass_fds=files,
            # One thread: the thread buffers of OpenBLAS alone would exceed the address space of a machine with many cores.
            env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            timeout=limits.seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Refusal(f"Scoring took longer than {limits.seconds} s and was stopped; no score was recorded.") from error
    if ended.returncode == 0:
        return json.loads(ended.stdout)
    _log.error("scoring process ended with %d: %s", ended.returncode, ended.stderr[-4000:].decode(errors="replace"))
    raise Refusal(
        f"The scoring process ended without an answer (exit {ended.returncode}); no score was recorded, the cause is in the server's log."
    )


def _open(source: Source) -> int:
    """Open predictions for the child; the caller closes the descriptor. Bytes get an anonymous file."""
    if isinstance(source, bytes):
        file = os.memfd_create("predictions", os.MFD_CLOEXEC)
        with io.FileIO(file, "wb", closefd=False) as writer:
            for start in range(0, len(source), 1 << 24):
                writer.write(source[start : start + (1 << 24)])
        return file
    try:
        file = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise BadPredictions(
            "There is no predictions file; write it to the path that was given, then end the program."
        ) from error
    except OSError as error:
        raise BadPredictions(
            "The predictions file cannot be opened: it must be a plain file, no link, pipe or device."
        ) from error
    facts = os.fstat(file)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
        os.close(file)
        raise BadPredictions("The predictions file must be a plain file with one name, no link, pipe or folder.")
    return file
