"""`clinloop reproduce`: the paper's tasks, each played to its end by the scripted agent, with its tables and figures beside the paper's.

What one folder holds: data/ (drawn stand-ins), state/ (datasets, tasks), one folder a task with tables.json and figures, and tables.json
of all tasks. A task that is done stays done, a dataset that is there is used again, and an interrupted call can be repeated.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

from clinloop import annotation, ingestion
from clinloop.agent import Plan, connected, read_trajectory
from clinloop.datasets.dataset import Dataset
from clinloop.demo_screen import Screen
from clinloop.errors import BadInput, SandboxUnavailable, unknown
from clinloop.files import write_atomic
from clinloop.report import paper_figures
from clinloop.report.comparison import Setup, compare, read_report, write_comparison
from clinloop.report.confounding import confounding
from clinloop.report.data import ReportData
from clinloop.report.text import number
from clinloop.sandbox import backends
from clinloop.services import Services
from clinloop.settings import load_settings
from clinloop.standin import STANDINS
from clinloop.store.rows import TaskRow
from clinloop.targets import TARGETS, TASK_NAMES, Source, Target, TaskName

PresetName = Literal["paper", "quick", "demo"]
CPU_PX = 64
"""Input side of the classification templates on a CPU."""


@dataclass(frozen=True)
class Request:
    """What `clinloop reproduce` was asked for."""

    tasks: tuple[TaskName, ...]
    folder: Path
    preset: PresetName
    data: Mapping[str, Path]
    """Folder of real data by public data set; the others are drawn."""
    images: int | None = None
    """Training images of a stand-in; None = what fits the task."""
    seed: int = 0


def parse_tasks(names: Sequence[str]) -> tuple[TaskName, ...]:
    """Return the tasks that were named, in the order in which they are played; "all" names all.

    Raises:
        Unknown: there is no such task.
    """
    for name in names:
        if name not in (*TASK_NAMES, "all"):
            raise unknown("task", name, [*TASK_NAMES, "all"])
    return tuple(name for name in TASK_NAMES if name in names or "all" in names)


def parse_data(given: Sequence[str], tasks: Sequence[TaskName]) -> dict[str, Path]:
    """Return the folder of each public data set from PATH or NAME=PATH.

    Raises:
        BadInput: no such folder or data set, or a PATH alone where the tasks need several.
    """
    needed = sorted({TARGETS[name].source.standin for name in tasks})
    possible = sorted({target.source.standin for target in TARGETS.values()})
    found: dict[str, Path] = {}
    for text in given:
        name, has_name, path = text.partition("=")
        if not has_name:
            name, path = needed[0], text
            if len(needed) > 1:
                raise BadInput(
                    f"--data {text}: these tasks need several data sets; say which one it is: "
                    + ", ".join(f"{each}=PATH" for each in needed)
                    + "."
                )
        if name not in possible:
            raise unknown("data set", name, possible)
        folder = Path(path).expanduser().absolute()
        if not folder.is_dir():
            raise BadInput(f"--data {text}: {path} is no folder; name the folder as it was unpacked.")
        found[name] = folder
    return found


def play(request: Request, *, sandbox: str | None, accept: bool, console: Console) -> dict[TaskName, dict[str, Any]]:
    """Play the tasks and return what tables.json says of each.

    Raises:
        PlayFailed, SandboxUnavailable, Refusal: one sentence on what went wrong; what was finished before stays.
    """
    request.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    services = Services(load_settings(request.folder / "state", sandbox=sandbox), accept_no_isolation=accept)
    services.settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    tables: dict[TaskName, dict[str, Any]] = {}
    with Screen(console) as screen:
        for name in _with_helpers(services, request):
            screen.phase(f"[bold]{name}[/bold] {TARGETS[name].title}")
            tables[name] = _Play(services, request, screen, name).run()
            _print(tables[name], console)
    everything = _all_tables(request.folder)
    write_comparison(request.folder, everything)
    reports: dict[TaskName, ReportData] = {
        name: read_report(Path(table["report"]).parent) for name, table in everything.items()
    }
    paper_figures.draw_bars(request.folder, reports)
    return tables


def _with_helpers(services: Services, request: Request) -> list[TaskName]:
    """Return the tasks with those whose models they need and that have none yet.

    Raises:
        BadInput: a model of drawn images would label real ones, or the other way round.
    """
    wanted = set(request.tasks)
    for name in request.tasks:
        helper = TARGETS[name].annotation
        if helper is None:
            continue
        own, other = TARGETS[name].source, TARGETS[helper.task].source
        if _final_task(services, _dataset_name(request, other)) is None:
            wanted.add(helper.task)
        if (own.standin in request.data) != (other.standin in request.data) and helper.task in wanted:
            raise BadInput(
                f"{name} labels its films with the model of {helper.task}, and a model of drawn films says nothing of real ones: give both, "
                f"--data {own.standin}=PATH --data {other.standin}=PATH, or neither."
            )
    return [name for name in TARGETS if name in wanted]


def _dataset_name(request: Request, source: Source) -> str:
    return source.dataset if source.standin in request.data else f"{source.dataset}-standin"


def _final_task(services: Services, dataset: str) -> TaskRow | None:
    """Return the newest task on a dataset that has a final model."""
    found = [task for task in services.store.tasks() if task.dataset == dataset and task.status == "evaluated"]
    return found[0] if found else None


class _Play:
    """One task, from its data to its tables."""

    def __init__(self, services: Services, request: Request, screen: Screen, name: TaskName) -> None:
        self._services, self._request, self._screen = services, request, screen
        self._name: TaskName = name
        self._target: Target = TARGETS[name]
        self._dataset = _dataset_name(request, self._target.source)
        self._is_drawn = self._target.source.standin not in request.data

    def run(self) -> dict[str, Any]:
        begun = time.monotonic()
        backend, reason = backends.choose(
            self._services.settings,
            image=self._services.settings.image or self._image(),
            accept_no_isolation=self._services.accept_no_isolation,
        )
        if problem := backend.probe().problem:
            raise SandboxUnavailable(problem)
        self._screen.note(f"Sandbox: {backend.name} ({reason}).")
        backend.environment(self._services.settings.image or self._image(), report=self._screen.note)
        self._add_dataset()
        self._annotate()
        outcome = asyncio.run(self._play())
        folder = self._request.folder / self._name
        folder.mkdir(exist_ok=True)
        outcome["seconds"] = self._seconds(folder, outcome["task_id"], time.monotonic() - begun)
        write_atomic(folder / "outcome.json", json.dumps(outcome, indent=1))
        report = Path(outcome["paths"]["report"])
        data = read_report(report.parent)
        table = {**compare(self._name, data, self._setup(outcome)), "report": str(report)}
        paper_figures.draw_bars(folder, {self._name: data})
        paper_figures.draw_evolution(folder, self._name, data)
        if (found := confounding(data, report.parent)) is not None:
            paper_figures.draw_confounding(folder, data, found)
        write_comparison(folder, {self._name: table})
        return table

    def _image(self) -> str:
        from clinloop import templates

        return templates.find(self._target.template, self._target.spec.get("task_type", "classification")).image

    def _add_dataset(self) -> None:
        """Add the dataset unless it is there; a stand-in is drawn first.

        Raises:
            BadInput: the dataset of this folder was made of something else.
        """
        source, state = self._target.source, self._services.settings.state
        made_of = self._made_of()
        record = state / "made-of" / f"{self._dataset}.json"
        if self._dataset in Dataset.list_names(state):
            before = json.loads(record.read_text(encoding="utf-8"))
            if before != made_of:
                raise BadInput(
                    f"{self._request.folder} holds the dataset {self._dataset} made of {before}, not of {made_of}; give the same again, or another "
                    "--target."
                )
            return
        folder = self._request.data.get(source.standin) or self._draw()
        self._screen.phase(f"reading {source.standin}: audit, split by group, test part into the vault")
        record.parent.mkdir(exist_ok=True, mode=0o700)
        write_atomic(record, json.dumps(made_of))
        ingestion.add(
            self._services,
            folder,
            self._dataset,
            layout=source.standin,
            seed=self._request.seed,
            on_leak="drop",  # training cases that are tied to an official test set; the audit counts them
            cache_px={"paper": (source.gpu_px,), "quick": (CPU_PX, source.gpu_px), "demo": (CPU_PX,)}[
                self._request.preset
            ],
            progress=lambda what, done, total: self._screen.count(done, total, what),
            **source.ingest,
        )

    def _made_of(self) -> dict[str, Any]:
        source = self._target.source
        if not self._is_drawn:
            return {"folder": str(self._request.data[source.standin]), "seed": self._request.seed}
        return {"stand-in": source.standin, "images": self._images, "seed": self._request.seed}

    @property
    def _images(self) -> int:
        return self._request.images or self._target.source.images

    def _draw(self) -> Path:
        source = self._target.source
        folder = self._request.folder / "data" / f"{source.standin}-{self._images}-{self._request.seed}"
        if not folder.exists():
            if source.standin not in STANDINS:
                raise BadInput(
                    f"There is no stand-in of {source.standin} yet; give the real one: --data {source.standin}=PATH."
                )
            self._screen.phase(f"drawing a stand-in of {source.standin} ({self._images} training images)")
            folder.parent.mkdir(exist_ok=True)
            STANDINS[source.standin](folder, images=self._images, seed=self._request.seed, progress=self._screen.count)
        return folder

    def _annotate(self) -> None:
        """Label the dataset with the final model of the helper task, unless it is labelled.

        Raises:
            BadInput: the model gives all images the same answer, so there is no confounder to look at.
        """
        helper = self._target.annotation
        if helper is None:
            return
        state = self._services.settings.state
        if helper.column not in Dataset.load(state, self._dataset).attributes:
            model = _final_task(self._services, _dataset_name(self._request, TARGETS[helper.task].source))
            assert model is not None  # it was played before
            self._screen.phase(f"labelling {self._dataset} with the model of {model.id}: {helper.column}")
            for line in annotation.annotate(
                self._services,
                self._dataset,
                model_task=model.id,
                column=helper.column,
                progress=lambda what, done, total: self._screen.count(done, total, what),
            ):
                self._screen.note(line)
        answers = {float(case.attributes[helper.column]) >= 0.5 for case in Dataset.load(state, self._dataset).cases()}
        if len(answers) < 2:
            raise BadInput(
                f"The model of {helper.task} says {'yes' if True in answers else 'no'} to every image of {self._dataset}: it has learned too little to "
                f"label them. Play {helper.task} with more time (--preset quick) into another --target, then {self._name}."
            )

    async def _play(self) -> dict[str, Any]:
        target, preset = self._target, self._request.preset
        spec = {**target.spec, "budget": preset}
        if not target.spec.get("confounders"):
            spec["acceptance"] = "paper"  # where there is a confounder, only guards let it have a say
        plan = Plan(
            dataset=self._dataset,
            request=target.request,
            spec=spec,
            steps=read_trajectory(target.template, target.trajectory),
            template=target.template,
            seed=self._request.seed,
        )
        async with connected(self._services, self._screen, "clinloop-reproduce") as agent:
            await agent.inspect(self._dataset)
            return await agent.play(plan)

    def _setup(self, outcome: dict[str, Any]) -> Setup:
        runs = self._services.store.runs(outcome["task_id"])
        return Setup(
            data=f"a drawn stand-in of {self._target.source.standin} with {self._images} training images"
            if self._is_drawn
            else f"{self._target.source.standin} from {self._request.data[self._target.source.standin].name}",
            gpus=max((run.gpus for run in runs), default=0),
            has_weights=self._services.settings.weights is not None,
            seconds=outcome["seconds"],
        )

    @staticmethod
    def _seconds(folder: Path, task_id: str, now: float) -> float:
        """Return how long the task took: of the call that finished it, not of one that found it finished."""
        try:
            before = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return round(now, 1)
        return before["seconds"] if before.get("task_id") == task_id else round(now, 1)


def _all_tables(folder: Path) -> dict[TaskName, dict[str, Any]]:
    """Return the tables of all tasks that were ever finished in a folder."""
    found: dict[TaskName, dict[str, Any]] = {}
    for name in TARGETS:
        try:
            text = (folder / name / "tables.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        found[name] = json.loads(text)["tasks"][name]
    return found


def _print(table: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    def shown(value: dict[str, float | None] | None, *, short: bool = False) -> str:
        if value is None or value["value"] is None:
            return "–"
        low, high = value["low"], value["high"]
        return number(value["value"]) + (
            "" if short or low is None or high is None else f" [{number(low)}, {number(high)}]"
        )

    rows = Table("metric", "initial", "refined", "p", "paper", title=f"Test set, {table['n_test']} cases")
    for metric in table["metrics"]:
        ours, paper = metric["ours"], metric["paper"] or {"initial": None, "refined": None}
        quoted = f"{shown(paper['initial'], short=True)} → {shown(paper['refined'], short=True)}"
        p = "" if ours["p"] is None else f"{ours['p']:.2g}"
        rows.add_row(
            metric["name"], shown(ours["initial"]), shown(ours["refined"]), p, "" if quoted == "– → –" else quoted
        )
    console.print(rows)
    for line in table["findings"]:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"  Report: {table['report']}; {table['seconds']:.0f} s.", highlight=False, soft_wrap=True)


PRESET_NAMES: tuple[PresetName, ...] = get_args(PresetName)
