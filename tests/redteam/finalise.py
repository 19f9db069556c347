"""Section H: the evaluation."""

from __future__ import annotations

import json
import re

from .case import SERVER, Case
from .heist import MARK
from .stage import Stage

_F = "tests/faults/test_finalize.py::"


def _frozen(stage: Stage) -> str:
    """The workspace was changed while the evaluation ran: the frozen copies were used, and their hashes are in the report."""
    heist = stage.heist()
    return (
        "ignored"
        if heist.status == "evaluated" and heist.verified and "the workspace was used" not in heist.log
        else f"{heist}"
    )


def _baked_labels(stage: Stage) -> str:
    """A model that knows every validation label is accepted with 1.0; the report shows that nothing of it is left on the test set."""
    heist = stage.heist()
    drop = heist.data["validation_to_test"]
    assert isinstance(drop, dict)
    return "recorded" if heist.accepted_score == 1.0 and drop["drop"] > 0.3 else f"{heist.accepted_score} {drop}"


def _copies(stage: Stage) -> str:
    """Copies of test images that predict.py tried to leave in eight places: none is on the host afterwards, none in a later run."""
    heist = stage.heist()
    run = stage.smoke(
        f"import os\nfound = [f for where in ('/', ) for f, _, names in os.walk(where) for name in names if name.startswith('{MARK}-')]\nprint('FOUND', len(found), flush=True)\n"
        + stage.CHECKPOINT
    )
    is_gone = not heist.stolen and "FOUND 0" in stage.log(run)
    return (
        "absent" if is_gone and MARK in heist.log else f"{heist.stolen[:3]} {stage.log(run)[-200:]} {heist.log[:200]}"
    )


def _words(stage: Stage) -> str:
    """What the model printed about the test images is on the server, and in no reply and no report."""
    heist = stage.heist()
    folder = stage.lab.services.state.task(heist.task)
    delivered = [
        path
        for root in (folder.report, folder.model)
        for path in root.rglob("*")
        if path.is_file() and MARK.encode() + b" " in path.read_bytes()
    ]
    return (
        "absent"
        if MARK in heist.log
        and MARK + " " not in heist.replies
        and all(path.name == "predict.py" for path in delivered)
        else f"{delivered}"
    )


def _low_bits(stage: Stage) -> str:
    """Pixels hidden in the low bits of test probabilities: no probability is in any reply, and metrics have 4 decimals."""
    heist = stage.heist()
    predictions = stage.lab.services.state.task(heist.task).final / "refined" / "test" / "predictions"
    hidden = {
        value for line in predictions.read_text(encoding="utf-8").splitlines()[1:] for value in line.split(",")[1:]
    }
    told = [value for value in hidden if len(value) > 6 and value in heist.replies]
    result = json.loads(heist.replies.splitlines()[heist.final_reply])["result"]
    long_numbers = re.findall(r"\d\.\d{5,}", json.dumps(result["metrics"]))
    return "absent" if len(hidden) > 10 and not told and not long_numbers else f"{told} {long_numbers}"


def _duplicates(stage: Stage) -> str:
    """A checkpoint that holds every training image meets no copy of one among the test images: duplicates are split together."""
    heist = stage.heist()
    found = re.findall(r"duplicates (\d+)", heist.log)
    return "absent" if found and set(found) == {"0"} else f"{found}"


def _time_channel(stage: Stage) -> str:
    """predict.py sleeps when it sees images that it does not know: whoever polls finalize can measure that."""
    heist = stage.heist()
    return "succeeds" if heist.seconds > 2 and heist.status == "evaluated" else f"{heist.seconds}"


CASES = [
    Case(number="H83", title="edit the workspace between freeze and evaluation", expected="ignored", attack=_frozen),
    Case(
        number="H84",
        title="finalize while a run is active",
        expected="refused",
        tests=(_F + "test_finalize_needs_an_accepted_run_its_right_name_and_no_active_run",),
        where=SERVER,
    ),
    Case(
        number="H85",
        title="finalize eight times at once, and again",
        expected="ignored",
        tests=(_F + "test_finalize_called_by_eight_processes_at_once_makes_one_evaluation",),
        where=SERVER,
    ),
    Case(
        number="H86",
        title="a crash between unsealing and score, to look twice",
        expected="recorded",
        tests=(
            "tests/faults/test_failpoints_of_finalize.py::test_an_evaluation_that_is_killed_at_a_failpoint_touches_the_test_set_once_and_ends",
            _F + "test_an_evaluation_that_is_cut_off_twice_while_it_predicts_test_images_is_invalid",
        ),
        where=SERVER,
    ),
    Case(number="H87", title="leave copies of test images for a later run", expected="absent", attack=_copies),
    Case(number="H88", title="tell about test images by output and exceptions", expected="absent", attack=_words),
    Case(
        number="H88b",
        title="tell about test images by failing on some of them",
        expected="absent",
        tests=(_F + "test_a_predictor_that_fails_on_test_images_only_makes_the_task_invalid_and_tells_nothing",),
        where=SERVER,
        note="One bit passes: that the task became invalid, which is recorded.",
    ),
    Case(
        number="H88c",
        title="tell about test images by the duration of the evaluation",
        expected="succeeds",
        attack=_time_channel,
        note="A few bits about the test images, when the task is closed already.",
    ),
    Case(number="H89", title="hide pixels in the low bits of test probabilities", expected="absent", attack=_low_bits),
    Case(
        number="H90",
        title="behave otherwise on test images, by path, name or number",
        expected="recorded",
        tests=(
            _F + "test_a_predictor_that_goes_by_something_else_than_pixels_is_caught_in_the_rehearsal",
            _F + "test_a_predictor_that_answers_a_larger_set_of_images_differently_is_shown_by_the_canaries",
        ),
        where=SERVER,
    ),
    Case(
        number="H91",
        title="predict by order",
        expected="refused",
        tests=(_F + "test_a_predictor_that_goes_by_something_else_than_pixels_is_caught_in_the_rehearsal",),
        where=SERVER,
    ),
    Case(
        number="H92",
        title="find EXIF, ICC, comments, times or an order in the images of predict.py",
        expected="absent",
        phase="predict",
        probe="""
folder = "/predict/images"
times = {os.stat(f"{folder}/{name}").st_mtime for name in os.listdir(folder)}
for name in os.listdir(folder):
    data, at, chunks = open(f"{folder}/{name}", "rb").read(), 8, set()
    if not data.startswith(b"\\x89PNG\\r\\n\\x1a\\n"):
        return f"REACHED {name}, which is no PNG"
    while b"IEND" not in chunks and at < len(data):
        chunks.add(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    if at != len(data) or not chunks <= {b"IHDR", b"PLTE", b"IDAT", b"IEND"}:
        return f"REACHED {name} {sorted(chunks)}"
return "absent" if len(times) == 1 else f"REACHED {times}"
""",
    ),
    Case(number="D57", title="validation labels baked into the weights", expected="recorded", attack=_baked_labels),
    Case(
        number="X12",
        title="match test images with training images kept in the checkpoint",
        expected="absent",
        attack=_duplicates,
    ),
]
