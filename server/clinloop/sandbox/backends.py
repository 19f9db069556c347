"""Which backends there are, and which one runs the jobs of this machine."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from clinloop.errors import SandboxUnavailable
from clinloop.sandbox.base import Sandbox
from clinloop.settings import Settings

BACKENDS = {
    "docker": "clinloop.sandbox.docker:Docker",
    "bubblewrap": "clinloop.sandbox.bubblewrap:Bubblewrap",
    "none": "clinloop.sandbox.unisolated:Unisolated",
}
"""Name to class; each class takes the settings. In the order in which `auto` tries those that isolate."""


def load_backend(name: str, settings: Settings) -> Sandbox:
    """Return a backend by name, usable or not.

    Raises:
        SandboxUnavailable: there is no such backend.
    """
    if name not in BACKENDS:
        raise SandboxUnavailable(f"Unknown sandbox backend {name[:40]!r}; known: auto, {', '.join(BACKENDS)}.")
    module, _, attribute = BACKENDS[name].partition(":")
    return getattr(import_module(module), attribute)(settings)


class Choice(NamedTuple):
    """The backend that runs the jobs, and why it is this one."""

    sandbox: Sandbox
    reason: str


def choose(settings: Settings, *, image: str = "", accept_no_isolation: bool = False) -> Choice:
    """Return the backend of `settings.sandbox`: for "auto" the first that isolates, works and has `image`; else, only where accepted, "none".

    Raises:
        SandboxUnavailable: none works or isolation was given up without the flag; the text holds the fix.
        Unknown: there is no such image.
    """
    if settings.sandbox == "none":
        if not accept_no_isolation:
            raise SandboxUnavailable(
                "Sandbox backend 'none' runs agent code with all that this user may do; give --i-accept-no-isolation to have it, or set sandbox to 'auto'."
            )
        return Choice(load_backend("none", settings), "isolation was given up by flag")
    is_free = settings.sandbox == "auto"
    problems: list[str] = []
    for name in BACKENDS if is_free else [settings.sandbox]:
        sandbox = load_backend(name, settings)
        if not sandbox.isolates:
            continue
        problem = _problem(sandbox, image)
        if not problem:
            first = f"the next after {'; '.join(problems)}" if problems else "the first choice, and it works here"
            return Choice(sandbox, first if is_free else "set by the custodian")
        problems.append(f"{name}: {problem}")
    if accept_no_isolation and is_free:
        return Choice(load_backend("none", settings), "; ".join(problems))
    raise SandboxUnavailable(f"No sandbox can run agent code here. {' · '.join(problems)}")


def _problem(sandbox: Sandbox, image: str) -> str:
    """Return why a backend cannot run jobs of an image here, or an empty text."""
    probe = sandbox.probe()
    if not probe.usable:
        return f"{probe.problem} {probe.fix}".strip()
    if image and sandbox.needs_built_image and sandbox.find_environment(image) is None:
        return f"the image '{image}' is not built (clinloop images build {image})."
    return ""
