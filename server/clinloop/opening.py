"""The opened test set: test images under random names -> predictions of both frozen models -> scores.

What the sandboxes see and write lies below one place: the task's folder, or a folder in memory when the test set was sealed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from clinloop import context, execution
from clinloop.context import TaskContext
from clinloop.datasets.dataset import CaseRow
from clinloop.datasets.pictures import prepare_predict_view
from clinloop.delivery import Frozen, Model, Outcome
from clinloop.failpoints import reach
from clinloop.files import remove_tree, write_atomic
from clinloop.paths import PREDICTIONS
from clinloop.report import data as report
from clinloop.scoring import service
from clinloop.scoring.analysis import Analysis, Undeclared
from clinloop.store.store import Store

CANARIES = 32
"""Validation images mixed into the test images: they must get the predictions that they got on validation."""
ORDER_AUDIT_CASES = 48
"""Cases that are predicted again under other names and in another order."""
ATTEMPTS = 2
"""How often the test predictions of one model are tried, the first included."""


class Invalid(Exception):
    """The evaluation cannot be completed after the test set was touched; the text is for the record, not for the agent."""


@contextmanager
def one_interruption(final: Path) -> Generator[None]:
    """Let a kill cut the prediction of the test images off once, not twice; a fault that is caught here does not count.

    Raises:
        Invalid: it was cut off twice.
    """
    marker, spent = final / "predicting", final / "interrupted"
    if marker.exists():
        if spent.exists():
            raise Invalid("interrupted twice while the test images were predicted")
        marker.rename(spent)
    write_atomic(marker, "")
    try:
        yield
    finally:
        marker.unlink(missing_ok=True)  # needs no room on a full disk


class View(NamedTuple):
    """The test images mixed with canaries, and a smaller view with other names for the order audit."""

    place: Path
    """Where views and predictions lie."""
    folder: Path
    audit_folder: Path
    names: dict[str, dict[str, str]]
    """{"test" | "canary" | "audit": {name in the view: case id}}; for "audit": {name in the audit view: name in the view}."""
    truth: list[service.TruthCase]
    """The test cases under their names in the view."""

    def out(self, model: Frozen) -> Path:
        """Return where the predictions of a model lie."""
        return self.place / model.model


def open_view(here: TaskContext, opened: Sequence[CaseRow], place: Path) -> View:
    """Write the test images under random names; the names are kept, so that a resumed evaluation finds the same ones."""
    names_file = place / "names.json"
    folder, audit_folder = place / "view" / "all", place / "view" / "audit"
    test = {case.case_id: case for case in opened if context.is_of_task(case, here.task.spec)}
    if names_file.exists():
        names = json.loads(names_file.read_text(encoding="utf-8"))
    else:
        canaries = [case.case_id for case in here.val_cases]
        canaries = sorted(canaries, key=lambda _: secrets.randbits(64))[:CANARIES]
        names = {
            "test": {secrets.token_hex(6): case_id for case_id in test},
            "canary": {secrets.token_hex(6): case_id for case_id in canaries},
        }
        everything = sorted([*names["test"], *names["canary"]], key=lambda _: secrets.randbits(64))
        names["audit"] = {secrets.token_hex(6): name for name in everything[:ORDER_AUDIT_CASES]}
        write_atomic(names_file, json.dumps(names))
    known = test | {case.case_id: case for case in here.dataset.cases("val")}
    case_ids = names["test"] | names["canary"]
    remove_tree(place / "view")
    (place / "view").mkdir(mode=0o700)
    new_ids = {case_id: name for name, case_id in case_ids.items()}
    prepare_predict_view([known[case_id] for case_id in new_ids], folder, new_ids=new_ids)
    audited = {case_ids[name]: other for other, name in names["audit"].items()}
    prepare_predict_view([known[case_id] for case_id in audited], audit_folder, new_ids=audited)
    truth = service.read_truth(
        context.truth_of(here.task.spec, [test[case_id] for case_id in names["test"].values()]).encode()
    )
    truth = [case._replace(case_id=name) for name, case in zip(names["test"], truth, strict=True)]
    return View(place, folder, audit_folder, names, truth)


def predict_test(here: TaskContext, model: Frozen, view: View) -> None:
    """Predict both views in fresh sandboxes, unless that was done before an interruption."""
    for folder, name in ((view.folder, "test"), (view.audit_folder, "audit")):
        failures: list[str] = []
        while not _done_file(view.out(model), name).exists():
            if len(failures) == ATTEMPTS:
                raise Invalid(f"predict.py of {model.run} failed on the test images: {'; '.join(failures)}")
            failure = predict(here, model, folder, name, view.out(model))
            if failure is None:
                _done_file(view.out(model), name).touch()
                reach("finalize:predicted")
            else:
                failures.append(failure)


def _done_file(out: Path, name: str) -> Path:
    """Return the file that says that a view was predicted to the end; predictions alone may be half of them."""
    return out / f"{name}.done"


def predict(here: TaskContext, model: Frozen, view: Path, name: str, place: Path) -> str | None:
    """Run predict.py of a frozen model on a view, with everything that it writes below a place; None when it completed, else how it failed. Of its /out only the predictions stay."""
    out = place / name
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    ending = execution.predict(
        here,
        name=job_name(here, model.model, name),
        code=model.folder / "code",
        checkpoint=model.folder / "checkpoint",
        view=view,
        out=out,
        session=place / f"session-{name}",
        log=place / f"log-{name}.txt",
    )
    for path in out.iterdir():  # whatever else it left may be copies of test images
        if path.name != PREDICTIONS:
            remove_tree(path)
    return None if ending.reason == "completed" else ending.message


def job_name(here: TaskContext, model: Model, name: str) -> str:
    """Return the name of a sandbox of the evaluation."""
    return f"{here.task.id}-final-{model}-{name}"


def score(here: TaskContext, store: Store, frozen: Sequence[Frozen], view: View) -> Outcome:
    """Return the scores of both models on the test cases, and what canaries and the order audit say."""
    truth, scheme = view.truth, here.scheme
    tolerance = service.TOLERANCES[scheme.task_type]
    issued = [*view.names["test"], *view.names["canary"]]
    val = [case.case_id for case in here.val_cases]
    tables: dict[Model, bytes] = {}
    canaries: dict[Model, report.CanaryCheck] = {}
    order: dict[Model, report.OrderAudit] = {}
    for model in frozen:
        everything = service.read_predictions(view.out(model) / "test" / PREDICTIONS, scheme=scheme, expected=issued)
        audited = service.read_predictions(
            view.out(model) / "audit" / PREDICTIONS, scheme=scheme, expected=list(view.names["audit"])
        )
        known = service.read_predictions(here.folder.run(model.run).predictions, scheme=scheme, expected=val)
        differences = [
            largest_difference(scheme, known, everything, {case_id: name})
            for name, case_id in view.names["canary"].items()
        ]
        canaries[model.model] = report.CanaryCheck(
            model=model.model,
            n=len(differences),
            agreeing=sum(value <= tolerance for value in differences),
            largest_difference=max(differences, default=0.0),
        )
        largest = largest_difference(
            scheme, everything, audited, {name: other for other, name in view.names["audit"].items()}
        )
        order[model.model] = report.OrderAudit(
            model=model.model,
            ok=largest <= tolerance,
            detail=f"{len(audited)} cases were predicted again under other names and in another order; largest difference {largest:.2g}.",
        )
        tables[model.model] = service.predictions_bytes({name: everything[name] for name in view.names["test"]}, scheme)
    spec = here.task.spec
    points = {
        model.model: (store.run(here.task.id, model.run).scores or {}).get("operating_points", {}) for model in frozen
    }
    final = service.final_scores(
        tables["initial"],
        tables["refined"],
        truth,
        scheme=scheme,
        metrics=list(spec.reported_metrics),
        operating_points_initial=points["initial"],
        operating_points_refined=points["refined"],
        seed=here.task.seed,
        unit=here.dataset.group_kind,
    )
    counts = {name: sum(case.label == name for case in truth) for name in here.classes}
    published = without_undeclared(truth, scheme)

    def analyse(cases: Sequence[service.TruthCase]) -> Analysis:
        return service.analyse(
            tables["initial"],
            tables["refined"],
            cases,
            scheme=scheme,
            primary=spec.primary_metric,
            p_values={metric.name: metric.p for metric in final},
            operating_points=(points["initial"], points["refined"]),
            seed=here.task.seed,
        )

    undeclared = undeclared_part(analyse(truth), scheme) if published != truth else None
    return Outcome(final, published, tables, canaries, order, counts, analyse(published), undeclared)


def without_undeclared(truth: Sequence[service.TruthCase], scheme: service.Scheme) -> list[service.TruthCase]:
    """Return the truth as evidence shows it: of the attributes only declared confounders.

    All attributes together tell a patient from others, and would let a later task's code look up the label of a test case by them.
    """
    return [
        case._replace(
            attributes={name: case.attributes[name] for name in scheme.confounders if name in case.attributes}
        )
        for case in truth
    ]


def undeclared_part(analysis: Analysis, scheme: service.Scheme) -> Undeclared:
    """Return what an analysis says of attributes that the spec does not declare."""
    return Undeclared(
        confounders=[audit for audit in analysis.confounders if not audit.is_declared],
        subgroups=[row for row in analysis.subgroups if row.attribute not in scheme.confounders],
    )


def largest_difference(
    scheme: service.Scheme,
    first: Mapping[str, service.Prediction],
    second: Mapping[str, service.Prediction],
    names: Mapping[str, str],
) -> float:
    """Return the largest difference between the predictions first[name] and second[names[name]]."""
    return max((service.difference(scheme, first[one], second[other]) for one, other in names.items()), default=0.0)
