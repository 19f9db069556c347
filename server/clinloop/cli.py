"""`clinloop …`: the command line for the custodian, the clinician and the demo."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from clinloop import __version__
from clinloop.cli_annotate import annotate
from clinloop.cli_clinician import COMMANDS as CLINICIAN
from clinloop.cli_data import LAYOUT_HELP, data_app
from clinloop.cli_disk import disk_app, task_remove
from clinloop.cli_export import export
from clinloop.cli_images import images_app
from clinloop.cli_install import install
from clinloop.cli_queue import task_queue
from clinloop.cli_reproduce import reproduce
from clinloop.cli_scorecard import task_score
from clinloop.cli_seal import key_app, read_identity, unseal
from clinloop.cli_service import GroupOption, OpenOption, service_app
from clinloop.cli_token import token_app
from clinloop.connect import SOCKET
from clinloop.errors import BadInput, Refusal, unknown
from clinloop.terminal import (
    AcceptOption,
    SandboxOption,
    StateOption,
    become_owner,
    open_page,
    out,
    progress_bars,
    services_of,
    table,
)

app = typer.Typer(
    name="clinloop",
    help="A training server for coding agents whose test score you can believe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Example: clinloop demo",
)
task_app = typer.Typer(
    no_args_is_help=True,
    help="Tasks: list, show, queue, score, and what a clinician says to them.",
    epilog="Example: clinloop task list",
)
app.add_typer(data_app, name="data")
app.add_typer(disk_app, name="disk")
app.add_typer(images_app, name="images")
app.add_typer(service_app, name="service")
app.add_typer(task_app, name="task")
app.add_typer(key_app, name="key")
app.add_typer(token_app, name="token")
app.command(epilog="Example: clinloop reproduce isic8 mel-nv --data ~/isic2019")(reproduce)
data_app.command("annotate", epilog="Example: clinloop data annotate siim --model neatx-3f9a2c --column drain")(
    annotate
)
task_app.command("queue", epilog="Example: clinloop task queue")(task_queue)
task_app.command("score", epilog="Example: clinloop task score isic-3f9a2c")(task_score)
for command, example in CLINICIAN.items():
    task_app.command(epilog=example)(command)
task_app.command("remove", epilog="Example: clinloop task remove isic-3f9a2c --dry-run")(task_remove)
app.command(epilog="Example: clinloop export isic-3f9a2c --format onnx --out ./onnx")(export)
app.command(epilog="Example: clinloop install codex --data-root ~/images")(install)
app.command(epilog="Example: clinloop unseal isic-3f9a2c --identity /media/stick/clinician.key")(unseal)


def main() -> None:
    """Run the command line; refusals end in one sentence and exit status 1."""
    try:
        app()
    except Refusal as refusal:
        errors = out(errors=True)
        errors.print(f"clinloop: {refusal}", highlight=False, markup=False, soft_wrap=True)
        for note in getattr(refusal, "__notes__", []):  # details that only the custodian may read
            errors.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        out(errors=True).print(
            f"clinloop: {error.strerror or error} ({error.filename or 'no file'}).",
            style="red",
            highlight=False,
            soft_wrap=True,
        )
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out().print(f"clinloop {__version__}", highlight=False)
        raise typer.Exit


@app.command(epilog="Example: clinloop serve --stdio --data-root ~/images")
def serve(
    stdio: Annotated[bool, typer.Option("--stdio", help="Serve one client on standard input and output.")] = False,
    data_root: Annotated[
        list[Path] | None,
        typer.Option("--data-root", help="Folder below which inspect_dataset may ingest. Repeatable."),
    ] = None,
    socket: Annotated[
        Path | None, typer.Option(help="Serve many clients on this local socket (what `clinloop service run` does).")
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(
            help="Serve agents and the page over HTTP at HOST:PORT, e.g. 127.0.0.1:8765.", metavar="HOST:PORT"
        ),
    ] = None,
    group: GroupOption = None,
    is_open: OpenOption = False,
    state: StateOption = None,
    sandbox: SandboxOption = None,
    accept: AcceptOption = False,
) -> None:
    """Serve the six tools to an MCP client, to many on a socket, or over HTTP together with the page for people."""
    if [stdio, socket is not None, http is not None].count(True) != 1:
        raise BadInput(
            "Say how to serve: clinloop serve --stdio, clinloop serve --socket PATH, or clinloop serve --http 127.0.0.1:8765."
        )
    gc.disable()  # imports make no garbage, but the collector would walk through them again and again: a tenth of the start
    roots = tuple(root.expanduser().absolute() for root in data_root or [])
    if missing := [str(root) for root in roots if not root.is_dir()]:
        raise BadInput(f"--data-root: {', '.join(missing)} is no folder.")
    services = services_of(state, sandbox, accept, roots)
    if socket is not None:
        from clinloop.listen import serve_socket

        serve_socket(services, socket.expanduser().absolute(), group=group, is_open=is_open)
        return
    if http is not None:
        from clinloop.web.serve import serve_http

        serve_http(services, http, out(errors=True))
        return
    from clinloop.app import serve_stdio

    serve_stdio(services)


@app.command(epilog="Example: clinloop connect")
def connect(
    socket: Annotated[Path, typer.Option("--socket", help="Where the service listens.")] = SOCKET,
) -> None:
    """Connect standard input and output to the service: the command that agents are configured with."""
    from clinloop.connect import connect as copy

    raise typer.Exit(copy(socket))


@app.command(epilog="Example: clinloop standin isic2019 ./isic2019 --images 2000 --seed 1")
def standin(
    name: Annotated[
        str, typer.Argument(help="Public data set to imitate: isic2019, grazpedwri, siim_acr, neatx, nih_chestxray14.")
    ],
    target: Annotated[Path, typer.Argument(help="Folder to write; must not exist or be empty.")],
    images: Annotated[
        int,
        typer.Option(
            help="Images; of isic2019 training images, and the test set gets a third more.", min=200, max=100_000
        ),
    ] = 2000,
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 0,
) -> None:
    """Write drawn images in exactly the files and headers of a public data set."""
    from clinloop.standin import STANDINS

    if name not in STANDINS:
        raise unknown("stand-in", name, STANDINS)
    if target.exists() and any(target.iterdir()):
        raise BadInput(f"{target} is not empty; name a new folder.")
    with progress_bars() as progress:
        bar = progress.add_task("drawing", total=None)
        STANDINS[name](
            target,
            images=images,
            seed=seed,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    out().print(
        f"Wrote a stand-in of {name} to {target}. Add it: clinloop data add {target} --name {name}", highlight=False
    )


@task_app.command("list", epilog="Example: clinloop task list")
def task_list(state: StateOption = None) -> None:
    """List the tasks, newest first."""
    services = services_of(state)
    rows = table("task", "dataset", "status", "runs left", "incumbent", "score", "created")
    waits: list[str] = []
    for task in services.store.tasks():
        incumbent = services.store.incumbent(task.id)
        score = f"{incumbent.score:.4f}" if incumbent and incumbent.score is not None else ""
        left = f"{services.store.balance(task.id).get('run', 0)} of {services.store.granted_runs(task.id)}"
        waits += filter(None, [services.store.waits_for_person(task.id)])
        rows.add_row(
            task.id, task.dataset, task.status, left, incumbent.name if incumbent else "", score, task.created_at[:19]
        )
    out().print(rows)
    for text in waits:
        out().print(text, markup=False, highlight=False, soft_wrap=True)


@task_app.command("show", epilog="Example: clinloop task show isic-3f9a2c")
def task_show(task_id: str, state: StateOption = None) -> None:
    """Show a task: request, contract, runs with decisions."""
    services = services_of(state)
    task = services.store.task(task_id)
    out().print(f"[bold]{task.id}[/bold] on {task.dataset}: {task.status} {task.phase}", highlight=False)
    out().print(
        f"ledger {services.store.head(f'task:{task.id}')} signed by {services.store.key_fingerprint}",
        highlight=False,
        soft_wrap=True,
    )
    if waits := services.store.waits_for_person(task_id):
        out().print(waits, markup=False, highlight=False, soft_wrap=True)
    out().print(task.request, markup=False, highlight=False)
    out().print_json(json.dumps(task.spec.model_dump(mode="json")))
    rows = table("run", "status", "revision", task.spec.primary_metric, "decision", "reason", "hypothesis")
    for run in services.store.runs(task_id):
        score = "" if run.score is None else f"{run.score:.4f}"
        rows.add_row(
            run.name, run.status, run.revision, score, run.decision, run.reason or run.end_reason, run.hypothesis[:80]
        )
    out().print(rows)
    for note in services.store.notes(task_id):
        out().print(f"{note.written_at[:16]} {note.line}", markup=False, highlight=False, soft_wrap=True)
    if task.result:
        out().print_json(json.dumps(task.result))


@app.command(epilog="Example: clinloop report isic-3f9a2c --open")
def report(
    task_id: str,
    opens: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    state: StateOption = None,
) -> None:
    """Say where the report of a finished task lies, and open it."""
    services = services_of(state)
    task = services.store.task(task_id)
    folder = services.state.task(task_id)
    page = folder.report / "report.html"
    if task.status != "evaluated" or not page.is_file():
        done = [other.id for other in services.store.tasks() if other.status == "evaluated"]
        others = f" Tasks with a report: {', '.join(done[:10])}." if done else ""
        raise BadInput(
            f"Task {task_id} is {task.status} and has no report yet; the agent calls finalize, then it is written.{others}"
        )
    for name, path in (
        ("page", page),
        ("numbers", folder.report / "report.json"),
        ("model card", folder.report / "model_card.md"),
        ("model", folder.model),
    ):
        out().print(f"{name:<11}{path}", highlight=False, markup=False, soft_wrap=True)
    out().print(f"{'check it':<11}clinloop verify {folder.report}", highlight=False, markup=False, soft_wrap=True)
    if opens and not open_page(page):
        raise BadInput(f"No browser could be started here; open {page} yourself, it is one file and needs no network.")


@app.command(epilog="Example: clinloop verify ./report --head 5e0c…")
def verify(
    what: Annotated[str, typer.Argument(help="A report folder, its report.json, or a task of this server.")],
    head: Annotated[
        list[str] | None,
        typer.Option(help="Ledger head that you noted during the task; the ledger must contain it. Repeatable."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Fingerprint of the server's key (clinloop doctor); it must be the signer.")
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(
            help="age identity that opens the evidence of a sealed test set: a file, or - for standard input."
        ),
    ] = None,
    state: StateOption = None,
) -> None:
    """Check a report offline: ledger chain, signatures, hashes, and every score computed again from the evidence.

    With the name of a task: check its ledger as it is now.
    """
    from clinloop.report.data import LedgerRow
    from clinloop.report.verify import verify as verify_report
    from clinloop.report.verify import verify_ledger

    if Path(what).exists() or "/" in what:
        identities = read_identity(identity) if identity else []
        verification = verify_report(Path(what), heads=head or [], key=key, identities=identities)
    else:
        store = services_of(state).store
        dataset, own = (
            [LedgerRow(**row._asdict()) for row in store.ledger(scope)]
            for scope in (f"dataset:{store.task(what).dataset}", f"task:{what}")
        )
        verification = verify_ledger(dataset, own, store.public_key, heads=head or [], key=key)
    for check in verification.checks:
        mark = "[green]ok[/green]  " if check.ok else "[red]FAIL[/red]"
        out().print(f"{mark} {check.name}: ", end="", highlight=False)
        out().print(check.detail, markup=False, highlight=False, soft_wrap=True)
    if not verification.ok:
        raise BadInput("It does not verify.")


@app.command(epilog="Example: clinloop doctor")
def doctor(
    state: StateOption = None,
    sandbox: SandboxOption = None,
    accept: AcceptOption = False,
    user: Annotated[
        str | None,
        typer.Option(
            "--as", help="User (name or number) of the agent: as root, become that user and try what it reaches."
        ),
    ] = None,
    socket: Annotated[Path, typer.Option(help="Socket of the service, whose memory --as tries to read.")] = SOCKET,
) -> None:
    """Say what is installed, which sandbox will be used with what enforced how, and what may be claimed about the test set."""
    from clinloop.access import named_client
    from clinloop.doctor import attempt, examine

    if user is not None and os.geteuid() != 0:
        raise BadInput("--as becomes another user, so it needs root: sudo clinloop doctor --as USER.")
    services = services_of(state, sandbox, accept, keeps_root=user is not None)
    tried = attempt(services, None if user is None else named_client(user), socket)
    become_owner(services.settings.state)
    if not examine(services, tried, out()):
        raise typer.Exit(1)


@app.command(epilog="Example: clinloop demo --json outcome.json")
def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="Your own folder of images instead of the drawn stand-in.", exists=True, file_okay=False),
    ] = None,
    layout: Annotated[str, typer.Option(help=f"Layout of --data: {LAYOUT_HELP}")] = "auto",
    images: Annotated[int, typer.Option(help="Training images of the stand-in.", min=200)] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of stand-in, split and task.")] = 0,
    target: Annotated[
        Path, typer.Option("--out", help="Folder for data, state and report; a second demo goes beside the first.")
    ] = Path("demo"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole outcome to this file.")] = None,
    sandbox: SandboxOption = None,
    accept: AcceptOption = False,
) -> None:
    """Play the whole loop with a scripted agent over MCP: from a folder of images to a report, in about five minutes on two cores."""
    from clinloop.demo import play

    play(
        data=data,
        layout=layout,
        images=images,
        seed=seed,
        target=target,
        json_file=json_file,
        sandbox=sandbox,
        accept=accept,
        console=out(),
    )
