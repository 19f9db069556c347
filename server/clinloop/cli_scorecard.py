"""`clinloop task score`: how a task was worked on, for people and as JSON."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from clinloop.terminal import StateOption, out, services_of, table


def task_score(
    task_id: str,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scorecard as JSON.")] = False,
    state: StateOption = None,
) -> None:
    """Score how a task was worked on, S1 Plan to S5 Submit: each item by a rule from the ledger, no language model."""
    from clinloop.report.scorecard import STAGES
    from clinloop.scorecards import scorecard_of

    card = scorecard_of(services_of(state), task_id)
    if as_json:
        out().print_json(json.dumps(card.model_dump(mode="json")))
        return
    rows = table("item", "what should be so", "points", "what the rule found", "error")
    for item in card.items:
        rows.add_row(item.code, item.title, f"{item.points:g} / {item.weight}", item.evidence, item.error)
    out().print(rows)
    points = card.stage_points()
    stages = ", ".join(f"{name} {title} {points[name]:g}/{weight}" for name, (title, weight) in STAGES.items())
    tier = f", tier {card.tier}" if card.tier else ""
    out().print(f"{card.total:g} of {card.of}{tier}: {stages}", highlight=False)
