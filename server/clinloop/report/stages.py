"""The rules of the workflow scorecard: each decides one item from the ledger and the runs that a report holds, and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from clinloop.errors import Refusal
from clinloop.report.chain import Check, outcome
from clinloop.report.conduct import Charged, Facts, charged, count, facts_of, listed, tested
from clinloop.report.data import ReportData, RunSummary
from clinloop.report.scorecard import NOT_REACHED, STAGES, Item, Scorecard, Stage, Tier
from clinloop.scoring.metrics import is_higher_better

CANDIDATES: Final = 3
"""Charged runs after the baseline that count as a search, as in AutoMedBench's plan rubric; fewer where the budget grants fewer."""
EARLY_S: Final = 30.0
"""A training that failed within so many seconds failed at an import or at its first batch, which a smoke test shows."""
SUBSTANCE: Final = 40, 6
"""Least characters and different words of a hypothesis that says why a change should help."""
CLAIM_TOLERANCE: Final = 0.02
"""How far the score of predict.py may lie from the best that training saw; the default margin of a guard."""


class Verdict(NamedTuple):
    """What a rule found."""

    share: float | None
    """Of the item's weight, 0 to 1; None where the task never got that far."""
    evidence: str


class Rule(NamedTuple):
    """How one item is decided."""

    code: str
    title: str
    weight: int
    error: str
    """Error code when not all points were reached."""
    judge: Callable[[Facts], Verdict]


def score(facts: Facts) -> Scorecard:
    """Return the scorecard of a task as far as it has come."""
    items = tuple(_item(rule, rule.judge(facts)) for rule in RULES)
    contract = next((row.detail for row in facts.ledger if row.event == "contract"), {})
    tier: Tier = "lite" if contract.get("tier") == "lite" else "standard" if contract.get("tier") == "standard" else ""
    return Scorecard(items=items, total=round(sum(item.points for item in items), 2), tier=tier)


def _item(rule: Rule, found: Verdict) -> Item:
    stage: Stage = next(name for name in STAGES if rule.code.startswith(name))
    share = found.share or 0.0
    return Item(
        stage=stage,
        code=rule.code,
        title=rule.title,
        weight=rule.weight,
        points=round(rule.weight * share, 2),
        passed=share == 1,
        evidence=found.evidence,
        error="" if share == 1 else NOT_REACHED if found.share is None else rule.error,
    )


def _share(good: int, of: int, what: str) -> Verdict:
    return (
        Verdict(good / of, f"{good} of {of} {what}.") if of else Verdict(None, f"Nothing to judge on: 0 of 0 {what}.")
    )


# S1 Plan ---------------------------------------------------------------------------------------------------------


def _assumptions(facts: Facts) -> Verdict:
    n = len(listed(facts, "assumptions"))
    return Verdict(float(n > 0), f"The contract names {n} assumptions.")


def _questions(facts: Facts) -> Verdict:
    n, answered = (len(listed(facts, key)) for key in ("open_questions", "answers"))
    also = f", {answered} of which the clinician answered" if answered else ""
    return Verdict(float(n + answered > 0), f"The contract names {n + answered} open questions{also}.")


def _emphasis(facts: Facts) -> Verdict:
    rule = str(facts.spec.get("operating_point") or "")
    named = [
        *(["an emphasised class"] if listed(facts, "emphasised_classes") else []),
        *(["which error is worse"] if facts.spec.get("risk_preference", "balanced") != "balanced" else []),
        *([f"the operating point {rule}"] if rule.startswith(("sensitivity", "specificity")) else []),
    ]
    return Verdict(float(bool(named)), f"The contract says {' and '.join(named) or 'nothing of what matters most'}.")


def suspects(warnings: Sequence[str]) -> list[str]:
    """Return the attributes that the audit's warnings name as predictors of the class."""
    found: list[str] = []
    for text in warnings:
        if several := re.match(r"Attributes that alone predict the class \(macro AUC\): (.*?)\. Each may be", text):
            found += [entry.rpartition(" ")[0] for entry in several[1].split(", ")]
        elif one := re.match(r"Attribute (.+?) alone predicts the class", text):
            found.append(one[1])
    return list(dict.fromkeys(found))


def _shortcuts(facts: Facts) -> Verdict:
    named = suspects(facts.warnings)
    if not named:
        return Verdict(1.0, "The audit names no attribute that alone predicts the class.")
    parts = [facts.spec.get(key) for key in ("confounders", "guards", "assumptions", "open_questions", "answers")]
    words = str(parts).casefold()
    seen = [name for name in named if name.casefold() in words]
    return _share(len(seen), len(named), f"attributes that the audit suspects ({', '.join(named)}) are in the contract")


def _hypotheses(facts: Facts) -> Verdict:
    texts = [" ".join(str(run.reserved.get("hypothesis", "")).casefold().split()) for run in charged(facts)]
    characters, words = SUBSTANCE
    good = [
        text
        for place, text in enumerate(texts)
        if place and len(text) >= characters and len(set(text.split())) >= words and text not in texts[:place]
    ]
    what = (
        f"charged runs after the baseline with a new hypothesis of at least {characters} characters and {words} words"
    )
    return _share(len(good), len(texts[1:]), what)


def _errors_seen(facts: Facts) -> Verdict:
    later = charged(facts)[1:]
    if not later:
        return Verdict(None, "No charged run follows the baseline.")
    views = sum(row.event == "error_view" and row.seq < later[-1].seq for row in facts.ledger)
    return Verdict(float(views > 0), f"Validation errors were looked at {views} times before the last charged run.")


# S2 Setup --------------------------------------------------------------------------------------------------------


def _smoke(facts: Facts) -> Verdict:
    first = next(
        (row.seq for row in facts.ledger if row.event == "reserved" and (row.run or "").startswith("run")), None
    )
    passed = [seq for seq in tested(facts).values() if first is None or seq < first]
    if first is None and not passed:
        return Verdict(None, "Nothing was run.")
    return Verdict(
        float(bool(passed)), f"{'A' if passed else 'No'} smoke test had passed before the first charged run."
    )


def _baseline(facts: Facts) -> Verdict:
    first = next(iter(charged(facts)), None)
    if first is None:
        return Verdict(None, "No charged run has ended.")
    text = "got a score" if first.is_scored else f"got no score ({first.settled.get('end_reason')})"
    return Verdict(float(first.is_scored), f"The first charged run, {first.name}, {text}.")


def _tested_revisions(facts: Facts) -> Verdict:
    later, smoked = charged(facts)[1:], tested(facts)
    good = [run for run in later if smoked.get(str(run.reserved.get("tree_sha256")), run.seq) < run.seq]
    return _share(len(good), len(later), "charged runs after the baseline whose very code had passed a smoke test")


def _early_failures(facts: Facts) -> Verdict:
    runs = charged(facts)
    early = [run for run in runs if run.settled.get("status") == "failed" and _seconds(run) < EARLY_S]
    what = f"charged runs that did not fail within {EARLY_S:.0f} seconds of training"
    return _share(len(runs) - len(early), len(runs), what)


def _seconds(run: Charged) -> float:
    seconds = run.settled.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else EARLY_S  # it failed after training


# S3 Validate -----------------------------------------------------------------------------------------------------


def _scored(facts: Facts) -> Verdict:
    runs = charged(facts)
    return _share(sum(run.is_scored for run in runs), len(runs), "charged runs that got a score")


def _validated(facts: Facts) -> Verdict:
    scored = [run for run in facts.runs if run.mode == "full" and run.primary is not None]
    good = sum(bool(run.validations) for run in scored)
    return _share(good, len(scored), "scored runs that asked for validation scores while they trained")


def _accepted(facts: Facts) -> list[Charged]:
    return [run for run in charged(facts) if run.settled.get("decision") == "accepted"]


def _gain(facts: Facts) -> Verdict:
    accepted = _accepted(facts)
    if not accepted:
        return Verdict(None, "No run was accepted.")
    if not (later := accepted[1:]):
        return Verdict(0.0, "No run was accepted after the baseline.")
    names = ", ".join(run.name for run in later)
    if facts.spec.get("acceptance") == "paper":
        return Verdict(0.5, f"{names}: better than the model before; acceptance 'paper' does not test against noise.")
    return Verdict(1.0, f"{names}: better than the model before, beyond noise.")


def _guards(facts: Facts) -> Verdict:
    by_number = {run.number: run for run in facts.runs if run.mode == "full"}
    accepted = [by_number[n] for run in _accepted(facts) if (n := int(run.name.removeprefix("run"))) in by_number]
    if not accepted:
        return Verdict(None, "No run was accepted.")
    guards = [guard for guard in listed(facts, "guards") if isinstance(guard, dict)]
    margins = {str(guard.get("metric")): guard.get("margin") for guard in guards}
    broken = [
        f"{name} in run{after.number}"
        for before, after in pairwise(accepted)
        for name, margin in margins.items()
        if isinstance(margin, int | float) and _loss(name, before, after) > margin + 1e-9
    ]
    what = f"accepted runs against {len(margins)} guards" if margins else "the contract has no guard"
    return Verdict(float(not broken), f"Broken: {', '.join(broken)}." if broken else f"No guard was broken: {what}.")


def _loss(metric: str, before: RunSummary, after: RunSummary) -> float:
    """Return how much worse a metric got; 0 where one of the two has no value."""
    old, new = before.scores.get(metric), after.scores.get(metric)
    if old is None or new is None:
        return 0.0
    return old - new if is_higher_better(metric) else new - old


def _repeated(facts: Facts) -> Verdict:
    seen: set[str] = set()
    repeated = 0
    for run in (runs := charged(facts)):
        what = f"{run.reserved.get('tree_sha256', run.name)} {run.reserved.get('inputs')}"
        repeated += what in seen
        if run.is_scored:
            seen.add(what)
    return _share(len(runs) - repeated, len(runs), "charged runs whose code and inputs had no score yet")


def _search(facts: Facts) -> Verdict:
    granted = sum(row.amount for row in facts.ledger if row.event == "granted" and row.resource == "run")
    wanted, tried = min(CANDIDATES, granted - 1), len(charged(facts)) - 1
    if tried < 0:
        return Verdict(None, "No charged run has ended.")
    return Verdict(min(1.0, tried / wanted) if wanted > 0 else 1.0, f"{tried} charged runs after the baseline.")


def _claims(facts: Facts) -> Verdict:
    pairs = [(run.claimed, run.primary) for run in facts.runs if run.claimed is not None and run.primary is not None]
    good = sum(abs(claimed - primary) <= CLAIM_TOLERANCE for claimed, primary in pairs)
    what = f"scored runs whose predict.py is within {CLAIM_TOLERANCE:g} of the best score that training saw"
    return _share(good, len(pairs), what)


# S4 Inference ----------------------------------------------------------------------------------------------------


def _trained(facts: Facts) -> list[str]:
    """Return how each run ended whose training left a model to predict with."""
    ends = [(run.settled.get("status"), str(run.settled.get("end_reason", ""))) for run in charged(facts)]
    later = [(status, end) for status, end in ends if end.startswith("predict_") or end == "invalid_predictions"]
    return ["" for status, _ in ends if status == "succeeded"] + [end for _, end in later]


def _predicted(facts: Facts) -> Verdict:
    ends = _trained(facts)
    good = sum(not end.startswith("predict_") for end in ends)
    return _share(good, len(ends), "trained runs whose predict.py went through the validation images")


def _valid(facts: Facts) -> Verdict:
    ends = [end for end in _trained(facts) if not end.startswith("predict_")]
    return _share(ends.count(""), len(ends), "predictions files that were valid")


def _rehearsal(facts: Facts) -> Verdict:
    failures = count(facts, "rehearsal_failed")
    is_over = count(facts, "frozen") + count(facts, "unsealing") > 0
    if not is_over:
        return Verdict(0.0 if failures else None, f"No rehearsal has passed; {failures} failed.")
    return Verdict(
        1 / (1 + failures), f"The rehearsal before the test set was opened passed after {failures} failures."
    )


def _canaries(facts: Facts) -> Verdict:
    n, good = (sum(getattr(check, key) for check in facts.canaries) for key in ("n", "agreeing"))
    return _share(good, n, "validation images mixed into the test images that were answered as before")


def _order(facts: Facts) -> Verdict:
    return _share(sum(c.ok for c in facts.order), len(facts.order), "models that do not depend on names and order")


# S5 Submit -------------------------------------------------------------------------------------------------------


def _finalized(facts: Facts) -> Verdict:
    is_done = count(facts, "evaluation_started") > 0 or count(facts, "unsealing") > 0
    return Verdict(float(is_done), f"finalize was {'' if is_done else 'not '}called.")


def _opened_once(facts: Facts) -> Verdict:
    n = count(facts, "unsealing")
    return Verdict(None if n == 0 else float(n == 1), f"The test set was opened {n} times.")


HANDED_OVER: Final = "checkpoint", "predict.py", "operating_points.json", "requirements.lock"
"""What a delivered model needs to be used."""


def _handed_over(facts: Facts) -> Verdict:
    delivered = next((row.detail for row in reversed(facts.ledger) if row.event == "scored"), None)
    if delivered is None:
        return Verdict(None, "No model was delivered.")
    model = delivered.get("model")
    present = [name for name in HANDED_OVER if isinstance(model, dict) and name in model]
    return _share(len(present), len(HANDED_OVER), f"of {', '.join(HANDED_OVER)} are in the model folder")


def _test_values(facts: Facts) -> Verdict:
    delivered = next((row.detail for row in reversed(facts.ledger) if row.event == "scored"), None)
    if delivered is None:
        return Verdict(None, "No model was scored on the test set.")
    values = delivered.get("values")
    found = values.get(str(facts.spec.get("primary_metric"))) if isinstance(values, dict) else None
    n = sum(value is not None for value in found) if isinstance(found, list) else 0
    return _share(n, 2, "models with a value of the primary metric on the test set")


RULES: Final = (
    Rule("S1.1", "What was assumed is written down", 3, "E-NO-ASSUMPTION", _assumptions),
    Rule("S1.2", "What only the clinician can say is asked", 3, "E-NO-QUESTION", _questions),
    Rule("S1.3", "The contract says what matters most", 4, "E-NO-EMPHASIS", _emphasis),
    Rule("S1.4", "Shortcuts that the audit suspects are dealt with", 4, "E-SHORTCUT-IGNORED", _shortcuts),
    Rule("S1.5", "Every change has a reason", 8, "E-THIN-HYPOTHESIS", _hypotheses),
    Rule("S1.6", "Validation errors were looked at", 3, "E-NO-ERROR-VIEW", _errors_seen),
    Rule("S2.1", "A smoke test passed before the first charged run", 4, "E-NO-SMOKE", _smoke),
    Rule("S2.2", "The baseline got a score at once", 4, "E-NO-BASELINE", _baseline),
    Rule("S2.3", "Changed code was smoke-tested before it was charged", 4, "E-UNTESTED-CODE", _tested_revisions),
    Rule("S2.4", "No charged run failed as soon as it started", 3, "E-EARLY-FAILURE", _early_failures),
    Rule("S3.1", "Charged runs got a score", 8, "E-NO-SCORE", _scored),
    Rule("S3.2", "Training asked for validation scores", 6, "E-NO-VALIDATION", _validated),
    Rule("S3.3", "A run was accepted over the baseline, beyond noise", 7, "E-NO-GAIN", _gain),
    Rule("S3.4", "No accepted run broke a guard", 4, "E-GUARD-BROKEN", _guards),
    Rule("S3.5", "No run was spent on code that had a score", 3, "E-REPEATED-RUN", _repeated),
    Rule("S3.6", "Several candidates were tried", 3, "E-FEW-CANDIDATES", _search),
    Rule("S3.7", "predict.py reaches what training saw", 4, "E-CLAIM-OFF", _claims),
    Rule("S4.1", "predict.py went through", 5, "E-PREDICT-FAILED", _predicted),
    Rule("S4.2", "Predictions were valid", 3, "E-INVALID-PREDICTIONS", _valid),
    Rule("S4.3", "The rehearsal passed the first time", 3, "E-REHEARSAL-FAILED", _rehearsal),
    Rule("S4.4", "Canaries were answered as before", 2, "E-CANARY", _canaries),
    Rule("S4.5", "Names and order of the files do not matter", 2, "E-ORDER", _order),
    Rule("S5.1", "The task was finalized", 3, "E-NOT-FINALIZED", _finalized),
    Rule("S5.2", "The test set was opened once", 3, "E-OPENED-AGAIN", _opened_once),
    Rule("S5.3", "A usable model was handed over", 2, "E-NO-MODEL", _handed_over),
    Rule("S5.4", "The primary metric has its test values", 2, "E-NO-TEST-VALUE", _test_values),
)
"""All items; the weights of a stage add up to its own."""


def check_scorecard(data: ReportData) -> Check:
    """Decide every item of the scorecard again, from the ledger and the runs of the report."""
    if data.scorecard is None:
        return Check("scorecard", True, "the report has none")
    try:
        again = score(facts_of(data))
    except Refusal as refusal:
        return Check("scorecard", False, f"it cannot be computed again: {refusal}")
    stated = {item.code: item for item in data.scorecard.items}
    problems = [
        f"{item.code} has {item.points:g} points by the ledger, the report says something else"
        for item in again.items
        if stated.get(item.code) != item
    ]
    if not problems and again != data.scorecard:
        problems.append("its total, tier or items are not those of the ledger")
    return outcome("scorecard", problems, f"{again.total:g} of {again.of} points, each item decided again")
