"""`clinloop service …`: install, run and uninstall the service."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from clinloop import installation
from clinloop.connect import SOCKET
from clinloop.errors import BadInput
from clinloop.terminal import AcceptOption, SandboxOption, out, services_of

service_app = typer.Typer(
    no_args_is_help=True,
    help="The server as a service with a user of its own: install, run, uninstall.",
    epilog="Example: sudo clinloop service install --group clinloop-users",
)
STATE, CACHE = Path("/var/lib/clinloop"), Path("/var/cache/clinloop")
UserOption = Annotated[str, typer.Option("--user", help="System user of the service.")]
ServiceStateOption = Annotated[Path, typer.Option("--state", help="State folder of the service.")]
CacheOption = Annotated[Path, typer.Option(help="Folder of sandbox environments.")]
SocketOption = Annotated[Path, typer.Option("--socket", help="Where the service listens.")]
GroupOption = Annotated[
    str | None, typer.Option("--group", help="Group whose members may use the socket; it is made when it is missing.")
]
HttpOption = Annotated[
    str | None,
    typer.Option("--http", help="Serve agents and the page over HTTP too, e.g. 127.0.0.1:8765.", metavar="HOST:PORT"),
]
OpenOption = Annotated[bool, typer.Option("--open", help="Every user of this machine may use the socket.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Print everything and change nothing.")]


@service_app.command("install", epilog="Example: sudo clinloop service install --group clinloop-users")
def install(
    user: UserOption = "clinloop",
    state: ServiceStateOption = STATE,
    cache: CacheOption = CACHE,
    socket: SocketOption = SOCKET,
    group: GroupOption = None,
    is_open: OpenOption = False,
    docker: Annotated[
        bool,
        typer.Option(
            "--docker", help="Let the service use Docker: its user joins the group docker, in which no agent may be."
        ),
    ] = False,
    http: HttpOption = None,
    dry_run: DryOption = False,
) -> None:
    """Make user, folders and systemd unit of the service; what is there is left alone, so it can be repeated."""
    plan = installation.Plan(user, _absolute(state), _absolute(cache), _absolute(socket), group, is_open, docker, http)
    problems = installation.code_problems(user)
    for problem in problems:
        _say(f"This installation of clinloop does not do for a service: {problem}", style="red")
    if problems:
        advice = "Install it as root where everybody can read and only root can write: python3 -m venv /opt/clinloop && /opt/clinloop/bin/pip install clinloop"
        if not dry_run:
            raise BadInput(advice)
        _say(advice)
    _make(installation.install_steps(plan), dry_run=dry_run)
    _say(f"\n{installation.UNIT}:\n")
    _say(installation.unit_text(plan))
    if not installation.systemd_runs():
        _say("systemd does not run here; start the service in the foreground, as root, who becomes the service's user:")
        _say(f"  {' '.join(installation.command())}{_options(plan)}")
    _say(
        "Agents are configured with the command: clinloop connect" + ("" if socket == SOCKET else f" --socket {socket}")
    )
    if plan.http:
        token = f"clinloop token create --state {plan.state} --role custodian --name NAME"
        _say(
            f"Over HTTP: http://{plan.http}/mcp and the page http://{plan.http}; the first sign-in needs a token: sudo {token}"
        )
    _say("Then check what an agent's user reaches: clinloop doctor --state " + f"{plan.state} --as USER")


@service_app.command("uninstall", epilog="Example: sudo clinloop service uninstall")
def uninstall(
    user: UserOption = "clinloop",
    state: ServiceStateOption = STATE,
    cache: CacheOption = CACHE,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove all datasets, tasks, reports, the cache and the user.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: DryOption = False,
) -> None:
    """Remove the unit; datasets, tasks and reports stay unless --purge is given."""
    plan = installation.Plan(user, _absolute(state), _absolute(cache))
    if purge and not yes and not dry_run:
        typer.confirm(f"Remove {plan.state} with all datasets, tasks and reports?", abort=True)
    _make(installation.uninstall_steps(plan, purge=purge), dry_run=dry_run)


@service_app.command("run", epilog="Example: sudo clinloop service run")
def run(
    user: UserOption = "clinloop",
    state: ServiceStateOption = STATE,
    socket: SocketOption = SOCKET,
    group: GroupOption = None,
    is_open: OpenOption = False,
    http: HttpOption = None,
    sandbox: SandboxOption = None,
    accept: AcceptOption = False,
) -> None:
    """Serve on the socket, and over HTTP where --http says so, in the foreground; root becomes the service's user first. This is what the unit calls."""
    from clinloop.listen import serve_socket
    from clinloop.web.serve import beside

    if os.geteuid() == 0:
        installation.make_runtime_folder(_absolute(socket), user)
        installation.become(user)
    services = services_of(_absolute(state), sandbox, accept)
    with beside(services, http) if http else nullcontext():
        serve_socket(services, _absolute(socket), group=group, is_open=is_open)


def _make(steps: Iterable[installation.Step], *, dry_run: bool) -> None:
    if not dry_run and os.geteuid() != 0:
        raise BadInput("This changes users and system folders, so it needs root; see what it would do with --dry-run.")
    count = 0
    for step in steps:
        count += 1
        _say(("would " if dry_run else "") + step.text)
        if not dry_run:
            step.make()
    if not count:
        _say("Nothing is to be done.")


def _options(plan: installation.Plan) -> str:
    given = {
        "--user": plan.user,
        "--state": plan.state,
        "--socket": plan.socket,
        "--group": plan.group,
        "--http": plan.http,
    }
    defaults = {"--user": "clinloop", "--state": STATE, "--socket": SOCKET, "--group": None, "--http": None}
    said = [f" {name} {value}" for name, value in given.items() if value != defaults[name]]
    return "".join(said) + (" --open" if plan.is_open else "")


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _say(text: str, style: str | None = None) -> None:
    out().print(text, style=style, markup=False, highlight=False, soft_wrap=True)
