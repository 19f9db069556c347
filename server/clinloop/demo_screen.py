"""What the demo shows while it works: the phase, the run, seconds left and the best so far."""

from __future__ import annotations

from typing import Any, Self

from rich.console import Console
from rich.status import Status


class Screen:
    """A live line on a terminal, plain lines elsewhere; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._best = ""

    def __enter__(self) -> Self:
        self._status = self._console.status("starting")
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def phase(self, text: str) -> None:
        """Begin a phase."""
        self._console.print(f"[bold]•[/bold] {text}", highlight=False, soft_wrap=True)
        self._live(text)

    def note(self, text: str, *, transient: bool = False) -> None:
        """Say something about the phase."""
        if not transient:
            self._console.print(f"  {text}", style="dim", markup=False, highlight=False, soft_wrap=True)
        self._live(text)

    def count(self, done: int, total: int, what: str = "") -> None:
        """Show how far a countable phase is."""
        self._live(f"{what} {done} of {total}")

    def run(self, run: str, name: str, seen: dict[str, Any]) -> None:
        """Show a run that goes on."""
        left = "" if seen["seconds_left"] is None else f", {seen['seconds_left']:.0f} s left"
        best = "" if seen["best_so_far"] is None else f", best in this run {seen['best_so_far']:.3f}"
        self._live(f"{run} ({name}): {seen['run']['status']}{left}{best}{self._best}")

    def ended(self, run: str, name: str, seen: dict[str, Any]) -> None:
        """Report a run that has ended."""
        view = seen["run"]
        if seen["incumbent_score"] is not None:
            self._best = f", best accepted {seen['incumbent_score']:.3f}"
        colour = {"accepted": "green", "rejected": "yellow"}.get(
            view["decision"], "red" if view["status"] != "succeeded" else "white"
        )
        score = "" if view["score"] is None else f" {seen['primary_metric']} {view['score']:.3f}"
        self._console.print(
            f"  {run} ({name}): [{colour}]{view['decision'] if view['decision'] != 'none' else view['status']}[/{colour}]{score} ",
            end="",
            highlight=False,
        )
        self._console.print(view["message"], style="dim", markup=False, highlight=False, soft_wrap=True)

    def _live(self, text: str) -> None:
        if self._status:
            self._status.update(text.replace("[", r"\["))
