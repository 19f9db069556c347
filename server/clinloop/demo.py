"""`clinloop demo`: the whole loop for real, with a scripted agent that talks to the server over stdio like any other client."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clinloop import ingestion
from clinloop.agent import Plan, connected, read_trajectory
from clinloop.demo_screen import Screen
from clinloop.errors import SandboxUnavailable
from clinloop.sandbox import backends
from clinloop.services import Services
from clinloop.settings import load_settings
from clinloop.standin import STANDINS
from clinloop.targets import TARGETS

CACHE_PX = (64,)
REQUEST = "Help me to sort these images into their classes, every class as good as it can be."


def play(
    *,
    data: Path | None,
    layout: str,
    images: int,
    seed: int,
    target: Path,
    json_file: Path | None,
    sandbox: str | None,
    accept: bool,
    console: Console,
) -> None:
    """Play the demo and print initial -> refined; see `clinloop demo --help` for the arguments.

    Raises:
        PlayFailed, SandboxUnavailable, Refusal: one sentence on what went wrong.
    """
    begun = time.monotonic()
    folder = _fresh(target)
    services = Services(load_settings(folder / "state", sandbox=sandbox), accept_no_isolation=accept)
    backend, reason = backends.choose(
        services.settings, image=services.settings.image or "cpu", accept_no_isolation=accept
    )
    if probe_problem := backend.probe().problem:
        raise SandboxUnavailable(probe_problem)
    with Screen(console) as screen:
        screen.note(f"Sandbox: {backend.name} ({reason}).")
        screen.phase("Python environment of the sandbox (built once, a few GB)")
        backend.environment(services.settings.image or "cpu", report=screen.note)
        name = _add_dataset(services, screen, data=data, layout=layout, images=images, seed=seed, folder=folder)
        outcome = asyncio.run(_loop(services, screen, name, seed))
    outcome["seconds"] = round(time.monotonic() - begun, 1)
    outcome["sandbox"] = backend.name
    _print(outcome, console)
    text = json.dumps(outcome, indent=1)
    (folder / "outcome.json").write_text(text, encoding="utf-8")
    if json_file is not None:
        json_file.write_text(text, encoding="utf-8")


def _fresh(target: Path) -> Path:
    """Return the target, or target-2, target-3 … when it is taken."""
    number, folder = 1, target
    while folder.exists() and any(folder.iterdir()):
        number += 1
        folder = target.with_name(f"{target.name}-{number}")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder.absolute()


def _add_dataset(
    services: Services, screen: Screen, *, data: Path | None, layout: str, images: int, seed: int, folder: Path
) -> str:
    if data is None:
        data, layout, name = folder / "isic2019", "isic2019", "isic2019"
        screen.phase(f"drawing a stand-in of ISIC 2019 ({images} training images)")
        STANDINS["isic2019"](data, images=images, seed=seed, progress=screen.count)
    else:
        name = "own-images"
    screen.phase(f"reading {data.name}: audit, split by group, test part into the vault")
    dataset = ingestion.add(
        services,
        data,
        name,
        layout=layout,
        seed=seed,
        cache_px=CACHE_PX,
        progress=lambda what, done, total: screen.count(done, total, what),
    )
    return dataset.name


async def _loop(services: Services, screen: Screen, dataset: str, seed: int) -> dict[str, Any]:
    """Let the agent look at the dataset, write its contract, and work."""
    async with connected(services, screen, "clinloop-demo") as agent:
        facts = await agent.inspect(dataset)
        contract = _contract(facts)
        return await agent.play(
            Plan(dataset=dataset, steps=read_trajectory("classification", "isic8"), seed=seed, **contract)
        )


def _contract(facts: dict[str, Any]) -> dict[str, Any]:
    """Translate the clinician's request, as an agent does after reading the facts."""
    if "MEL" in facts["classes"]:
        target = TARGETS["isic8"]
        return {"request": target.request, "spec": {**target.spec, "budget": "demo"}}
    spec = {
        "objective": f"Classify images into the {len(facts['classes'])} classes of the folder.",
        "budget": "demo",
        "assumptions": ["All classes and all errors matter equally."],
    }
    return {"request": REQUEST, "spec": spec}


def _print(outcome: dict[str, Any], console: Console) -> None:
    def shown(value: dict[str, float | None]) -> str:
        return (
            "undefined" if value["value"] is None else f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
        )

    table = Table(
        "metric",
        "initial (95 % CI)",
        "refined (95 % CI)",
        "p",
        title=f"Test set, {outcome['n_test']} cases, opened once",
    )
    for metric in outcome["final"]:
        p = "" if metric["p"] is None else f"{metric['p']:.2g}"
        table.add_row(metric["name"], shown(metric["initial"]), shown(metric["refined"]), p)
    console.print(table)
    console.print(f"Guarantee {outcome['guarantee']['meaning']}", highlight=False)
    console.print(f"Report: {outcome['paths']['report']}", highlight=False, soft_wrap=True)
    console.print(f"Check it: {outcome['verify']}", highlight=False, soft_wrap=True)
    console.print(f"{outcome['seconds']:.0f} s in all.", highlight=False)
