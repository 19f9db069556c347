"""Which backends there are, and which one runs the jobs of this machine."""

from __future__ import annotations

from importlib import import_module

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


def choose(settings: Settings, *, accept_no_isolation: bool = False) -> Sandbox:
    """Return the backend of `settings.sandbox`: for "auto" the first that isolates and works, else, only where accepted, "none".

    Raises:
        SandboxUnavailable: none works or isolation was given up without the flag; the text holds the fix.
    """
    if settings.sandbox == "none":
        if not accept_no_isolation:
            raise SandboxUnavailable(
                "Sandbox backend 'none' runs agent code with all that this user may do; give --i-accept-no-isolation to have it, or set sandbox to 'auto'."
            )
        return load_backend("none", settings)
    problems: list[str] = []
    for name in BACKENDS if settings.sandbox == "auto" else [settings.sandbox]:
        sandbox = load_backend(name, settings)
        if sandbox.isolates:
            probe = sandbox.probe()
            if probe.usable:
                return sandbox
            problems.append(f"{name}: {probe.problem} {probe.fix}")
    if accept_no_isolation and settings.sandbox == "auto":
        return load_backend("none", settings)
    raise SandboxUnavailable(f"No sandbox can run agent code here. {' · '.join(problems)}")
