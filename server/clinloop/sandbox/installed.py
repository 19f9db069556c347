"""What agents may know of a sandbox image: its Python and packages, whichever backend runs it, read from files alone."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from clinloop.sandbox.environment import find_environment
from clinloop.sandbox.images import known_contents
from clinloop.sandbox.recipes import find_recipe, folders
from clinloop.settings import Settings

_KEPT_S = 2.0
"""Seconds for which an answer is kept: every inspection of a dataset asks for all images, and a build takes minutes."""


class Installed(NamedTuple):
    """What code in a sandbox can import."""

    image: str
    title: str
    python: str
    """Version; empty while the image is not built."""
    main: dict[str, str]
    """Version by name of what was asked for by name."""
    packages: dict[str, str]
    """Version by name of everything; empty while the image is not built."""
    notice: str
    """What to know of licences; empty = nothing."""


def installed(image: str, settings: Settings) -> Installed:
    """Return what is installed in an image; the record of a run says which one it really had.

    Raises:
        Unknown: there is no such image.
    """
    return _installed(image, folders(settings), settings.cache, settings.sandbox, int(time.monotonic() / _KEPT_S))


@lru_cache(maxsize=64)
def _installed(image: str, images: tuple[Path, ...], cache: Path, sandbox: str, _period: int) -> Installed:
    recipe = find_recipe(image, images)
    python, packages = "", dict[str, str]()
    if sandbox in ("auto", "docker") and (contents := known_contents(recipe, cache)):
        python, packages = contents
    elif sandbox != "docker" and (environment := find_environment(recipe, cache)):
        python, packages = environment.python_version, environment.packages
    return Installed(image, recipe.title, python, recipe.main_packages, packages, recipe.notice)
