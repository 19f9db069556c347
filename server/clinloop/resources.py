"""Where task templates and sandbox images live: the checkout when there is one, else the installed wheel."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def resource(folder: str) -> Path:
    """Return the folder `task_templates` or `sandbox_images`; the checkout wins, so an editable install is never stale."""
    checkout = _HERE.parent.parent / folder
    return (
        checkout
        if (checkout.parent / "pyproject.toml").is_file() and checkout.is_dir()
        else _HERE / "_resources" / folder
    )
