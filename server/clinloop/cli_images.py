"""`clinloop images …`: build and list what the agent's code runs in, as container images or as environments for bubblewrap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinloop.errors import BadInput, SandboxUnavailable
from clinloop.settings import Settings
from clinloop.terminal import SandboxOption, StateOption, out, services_of, table

if TYPE_CHECKING:
    from clinloop.sandbox.recipes import Recipe

images_app = typer.Typer(
    no_args_is_help=True,
    help="Sandbox images: build, list.",
    epilog="Example: clinloop images build cpu",
)


@images_app.command("build", epilog="Example: clinloop images build cpu --with monai==1.5.0")
def images_build(
    names: Annotated[list[str] | None, typer.Argument(help="Images; see `clinloop images list`. Default: cpu.")] = None,
    base_image: Annotated[
        str, typer.Option(help="Docker: image with Debian, Python 3.11 and its venv module to start from.")
    ] = "",
    with_: Annotated[
        list[str] | None,
        typer.Option("--with", help="NAME==VERSION of a package to add, for this state folder. Repeatable."),
    ] = None,
    state: StateOption = None,
    sandbox: SandboxOption = None,
) -> None:
    """Build images: for Docker where an engine answers, else environments for bubblewrap. Nothing happens to those that are built."""
    from clinloop.sandbox import recipes, variants

    settings = services_of(state, sandbox).settings
    chosen = names or [settings.image or "cpu"]
    folders = recipes.folders(settings)
    for name in chosen:
        recipes.find_recipe(name, folders)
    if with_ and len(chosen) > 1:
        raise BadInput("--with adds packages to one image; name one.")
    if with_:
        variants.add_packages(chosen[0], with_, settings, report=_say)
    for name in chosen:
        recipe = recipes.find_recipe(name, folders)
        where, digest, count = _build(recipe, settings, base_image)
        out().print(f"[bold]{name}[/bold]: {where} {digest[:12]}, {count} packages.", highlight=False, soft_wrap=True)
        if recipe.notice:
            out().print(f"Licence: {recipe.notice}", highlight=False, markup=False, soft_wrap=True)


@images_app.command("list", epilog="Example: clinloop images list")
def images_list(state: StateOption = None) -> None:
    """List images: what each is for, and what is built of it, for Docker and for bubblewrap."""
    from clinloop.sandbox import environment, images, recipes

    settings = services_of(state).settings
    known = recipes.all_recipes(recipes.folders(settings))
    rows = table("image", "backend", "digest", "size", "packages", "licence notice")
    notes: list[str] = []
    try:
        with images.connect(settings) as client:
            built = {recipe.name: images.find_image(client, recipe.name, settings) for recipe in known}
    except SandboxUnavailable as refusal:
        built = None
        notes.append(str(refusal))
    for recipe in known:
        notice = recipe.notice.partition(":")[0]
        if built is not None:
            found = built[recipe.name]
            facts = (
                (found.id.removeprefix("sha256:")[:12], _gigabytes(found.size), str(len(found.packages)))
                if found
                else ("not built", "", "")
            )
            rows.add_row(recipe.name, "docker", *facts, notice)
        place = environment.find_environment(recipe, settings.cache)
        facts = (
            (place.digest[:12], _gigabytes(_tree_bytes(place.mounts[0].source)), str(len(place.packages)))
            if place
            else ("not built", "", "")
        )
        rows.add_row(recipe.name, "bubblewrap", *facts, notice)
    out().print(rows)
    for recipe in known:
        added = f" With {', '.join(recipe.added)}." if recipe.added else ""
        out().print(f"{recipe.name}: {recipe.title}.{added}", highlight=False, markup=False, soft_wrap=True)
    for note in notes:
        out().print(note, highlight=False, markup=False, soft_wrap=True)


def _build(recipe: Recipe, settings: Settings, base: str) -> tuple[str, str, int]:
    """Build one image and return (what it is, its digest, its number of packages)."""
    from clinloop.sandbox import environment, images

    if settings.sandbox in ("auto", "docker"):
        try:
            with images.connect(settings) as client:
                image = images.build_image(client, recipe.name, settings, base=base, report=_say)
                return "container image", image.id.removeprefix("sha256:"), len(image.packages)
        except images.NoEngine:
            if settings.sandbox == "docker" or base:
                raise
            _say("No container engine answers, so an environment for bubblewrap is installed.")
    place = environment.ensure_environment(recipe, settings.cache, report=_say)
    return "environment", place.digest, len(place.packages)


def _say(line: str) -> None:
    out().print(f"[dim]{line.replace('[', chr(92) + '[')}[/dim]", highlight=False, soft_wrap=True)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _tree_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))
