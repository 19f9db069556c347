"""`clinloop disk …` and `clinloop task remove`: what takes the disk, and clean-up that keeps all evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from clinloop.terminal import StateOption, out, services_of, table

if TYPE_CHECKING:
    from clinloop.cleanup import Plan

YesOption = Annotated[bool, typer.Option("--yes", help="Do it, without asking.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")]

disk_app = typer.Typer(
    help="Disk: what takes how much, and clean-up of ended tasks.", epilog="Example: clinloop disk clean --dry-run"
)


@disk_app.callback(invoke_without_command=True)
def disk(context: typer.Context, state: StateOption = None) -> None:
    """Show what datasets, tasks, environments and the store take."""
    if context.invoked_subcommand is not None:
        return
    from clinloop.disk import PARTS, measure, size_text

    services = services_of(state)
    use = measure(services)
    status = {task.id: task.status for task in services.store.tasks()}
    rows = table("what", "status", *PARTS, "in all")
    for task in sorted(use.tasks, key=lambda task: -task.bytes):
        rows.add_row(task.id, status[task.id], *(size_text(task.parts[part]) for part in PARTS), size_text(task.bytes))
    blank = [""] * (len(PARTS) + 1)
    for dataset in sorted(use.datasets, key=lambda dataset: -dataset.bytes):
        rows.add_row(f"dataset {dataset.name}", *blank, size_text(dataset.bytes))
    for what, size in (("store", use.store), ("environments, packages", use.cache), ("other", use.other)):
        rows.add_row(what, *blank, size_text(size))
    out().print(rows)
    out().print(f"{size_text(use.bytes)} in all; {size_text(use.free)} are free.", highlight=False)


@disk_app.command("clean", epilog="Example: clinloop disk clean --dry-run")
def disk_clean(
    tasks: Annotated[list[str] | None, typer.Argument(help="Ended tasks. Default: all of them.")] = None,
    dry_run: DryOption = False,
    yes: YesOption = False,
    state: StateOption = None,
) -> None:
    """Remove the outputs (checkpoints, /out, views) of runs of ended tasks that are neither baseline, incumbent nor final."""
    from clinloop import cleanup

    services = services_of(state)
    plans = [cleanup.plan(services, task, "runs") for task in tasks] if tasks else cleanup.plans(services, "runs")
    if not _agreed(plans, dry_run, yes):
        return
    done = [cleanup.clean(services, plan.task_id, "runs") for plan in plans]
    _say_removed(done)


def task_remove(
    task_id: Annotated[str, typer.Argument(help="An ended task.")],
    dry_run: DryOption = False,
    yes: YesOption = False,
    state: StateOption = None,
) -> None:
    """Remove the bulk of an ended task: outputs, views and logs. Ledger, report, evidence, models and code stay."""
    from clinloop import cleanup

    services = services_of(state)
    if _agreed([cleanup.plan(services, task_id, "task")], dry_run, yes):
        _say_removed([cleanup.clean(services, task_id, "task")])


def _agreed(plans: Sequence[Plan], dry_run: bool, yes: bool) -> bool:
    """Show what would go and tell whether it shall."""
    from clinloop.disk import size_text

    plans = [plan for plan in plans if plan.items]
    if not plans:
        out().print("There is nothing to remove.", highlight=False)
        return False
    rows = table("task", "goes", "size")
    for plan in plans:
        for item in plan.items:
            rows.add_row(plan.task_id, item.path, size_text(item.bytes))
    out().print(rows)
    total = size_text(sum(plan.bytes for plan in plans))
    if dry_run:
        out().print(f"{total} would be removed; nothing was.", highlight=False)
        return False
    return yes or typer.confirm(f"Remove {total}? It cannot be brought back; the ledger records it.", abort=True)


def _say_removed(plans: Sequence[Plan]) -> None:
    from clinloop.disk import size_text

    total = size_text(sum(plan.bytes for plan in plans))
    out().print(f"Removed {total} of {len(plans)} task(s); each ledger has an entry.", highlight=False)
