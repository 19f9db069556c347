"""Container images of the sandbox: built from their recipes by the custodian, found by their content when a run needs one."""

from __future__ import annotations

import io
import json
import tarfile
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clinloop.errors import SandboxUnavailable
from clinloop.files import write_atomic
from clinloop.sandbox.base import Environment
from clinloop.sandbox.environment import alone
from clinloop.sandbox.recipes import Recipe, find_recipe, folders
from clinloop.settings import Settings, download_environment
from clinloop.untrusted import clean

if TYPE_CHECKING:
    from docker import APIClient

PYTHON = "/opt/venv/bin/python"
"""The interpreter, in every image."""
BASE_IMAGE = "python:3.11-slim-bookworm"
"""What images without a parent start from when nothing else is said."""
IMAGE, CONTENT, FROM, NOTICE = (f"org.clinloop.{word}" for word in ("image", "content", "from", "notice"))
"""Labels of an image: its name, the hash of its recipe, the id of the image that it starts from, and what to know of licences."""
_BUILD_S = 3600
_LIST_S = 120
_LIST = """
import json, platform
from importlib.metadata import distributions
found = {str(item.metadata["Name"]).lower(): item.version for item in distributions()}
print(json.dumps({"python": platform.python_version(), "packages": dict(sorted(found.items()))}))
"""
_NEWS = ("Step ", "Collecting ", "Downloading ", "Installing ", "Successfully installed", "ERROR")


class NoEngine(SandboxUnavailable):
    """No container engine answers."""


class Contents(NamedTuple):
    """What is installed in an image."""

    python: str
    """Version of Python."""
    packages: dict[str, str]
    """Version by name."""


class BuiltImage(NamedTuple):
    """A container image that is on the engine."""

    name: str
    id: str
    """Its digest as the engine knows it, "sha256:…"; what a job starts from and what a run records."""
    tag: str
    python_version: str
    packages: dict[str, str]
    """Version by name."""
    size: int
    """Bytes, those of its parents included."""


@contextmanager
def connect(settings: Settings) -> Generator[APIClient]:
    """Yield a client of the engine with time enough for a build.

    Raises:
        NoEngine: none answers.
    """
    import requests
    from docker import APIClient
    from docker.errors import DockerException

    socket = settings.engine.removeprefix("unix://")
    try:
        if socket != settings.engine and not Path(socket).is_socket():
            raise DockerException(socket)  # docker-py would leave its own socket open
        client = APIClient(base_url=settings.engine, timeout=_BUILD_S, version="auto")
    except (DockerException, requests.RequestException) as error:
        raise NoEngine(
            f"No container engine answers at {settings.engine}: start Docker, or set `engine` in settings.json."
        ) from error
    with closing(client):
        yield client


def find_image(client: APIClient, name: str, settings: Settings) -> BuiltImage | None:
    """Return the container image of a name if the engine has it as its recipe is now.

    Raises:
        Unknown: there is no such image.
        docker.errors.APIError: the engine refuses.
    """
    recipe = find_recipe(name, folders(settings))
    found = _inspect(client, _tag(recipe))
    return _built(client, recipe, found, settings) if found else None


def as_environment(image: BuiltImage, settings: Settings) -> Environment:
    """Return what jobs need to know of a container image."""
    return Environment(
        name=image.name,
        digest=image.id.removeprefix("sha256:"),
        python=PYTHON,
        python_version=image.python_version,
        mounts=(),
        packages=image.packages,
        image=image.id,
        variables=find_recipe(image.name, folders(settings)).variables,
    )


def build_image(
    client: APIClient, name: str, settings: Settings, *, base: str = "", report: Callable[[str], None]
) -> BuiltImage:
    """Build a container image and those that it starts from; nothing happens when the engine has them already.

    base: reference of the image with Debian and Python 3.11 that the first one starts from. Empty: what it was built on before, else BASE_IMAGE.

    Raises:
        Unknown: there is no such image.
        SandboxUnavailable: it cannot be built; the text says why and what to do.
    """
    from docker.errors import APIError

    recipe = find_recipe(name, folders(settings))
    lock = settings.cache / "images" / f"{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with alone(lock):
            found = _inspect(client, _tag(recipe))
            if found and not recipe.parent and not base:
                return _built(client, recipe, found, settings)
            start = _start(client, recipe, settings, base, report)
            start_id = _inspect(client, start, must=True)["Id"]
            if not found or found["Config"]["Labels"].get(FROM) != start_id:
                report(f"Building the container image '{name}' on {start}.")
                _build(client, recipe, start, start_id, report)
                found = _inspect(client, _tag(recipe), must=True)
                report(f"The container image '{name}' is built: {found['Size'] / 1e9:.1f} GB.")
            return _built(client, recipe, found, settings)
    except APIError as error:
        raise SandboxUnavailable(f"The container image '{name}' could not be built: {error.explanation}.") from error


def _start(client: APIClient, recipe: Recipe, settings: Settings, base: str, report: Callable[[str], None]) -> str:
    """Return the reference of the image that this one starts from; the engine has it afterwards."""
    if recipe.parent:
        return build_image(client, recipe.parent.name, settings, base=base, report=report).tag
    if not base:  # what an earlier state of this image was built on
        earlier: list[dict[str, Any]] = client.images(filters={"label": f"{IMAGE}={recipe.name}"})
        for found in sorted(earlier, key=lambda image: image["Created"], reverse=True):
            if _inspect(client, found["Labels"][FROM]):
                return found["Labels"][FROM]
    return _pull(client, base or BASE_IMAGE, report)


def _tag(recipe: Recipe) -> str:
    return f"clinloop/{recipe.name}:{recipe.content[:12]}"


def _inspect(client: APIClient, reference: str, *, must: bool = False) -> dict[str, Any]:
    """Return what the engine knows of an image; empty when it is absent and need not be there."""
    from docker.errors import ImageNotFound

    try:
        return client.inspect_image(reference)
    except ImageNotFound:
        if must:
            raise
        return {}


def _pull(client: APIClient, reference: str, report: Callable[[str], None]) -> str:
    """Return the reference of a base image that the engine has, now at the latest."""
    from docker.errors import APIError
    from docker.utils import parse_repository_tag

    if _inspect(client, reference):
        return reference
    report(f"Pulling the base image {reference}.")
    name, tag = parse_repository_tag(reference)
    try:
        client.pull(name, tag=tag or "latest")
    except APIError as error:
        raise SandboxUnavailable(
            f"The base image {reference} is not on this machine and cannot be pulled ({error.explanation}); name one that the engine has "
            "(Debian with Python 3.11 and its venv module): clinloop images build --base-image REF."
        ) from error
    return reference


def _build(client: APIClient, recipe: Recipe, start: str, start_id: str, report: Callable[[str], None]) -> None:
    proxies = {key: value for key, value in download_environment().items() if key.lower().endswith("_proxy")}
    labels = {IMAGE: recipe.name, CONTENT: recipe.content, FROM: start_id, NOTICE: recipe.notice}
    lines, errors, problem = deque[str](maxlen=3), list[str](), ""
    for line in client.build(
        fileobj=_context(recipe),
        custom_context=True,
        tag=_tag(recipe),
        buildargs={"BASE_IMAGE": start, **proxies},  # proxies are known to engines and stay out of the image
        labels=labels,
        rm=True,
        forcerm=True,
        decode=True,
    ):
        for said in clean(str(line.get("stream", "")), cap=10_000).splitlines():
            if text := said.strip():
                lines.append(text)
                if errors or text.startswith("ERROR"):
                    errors.append(text)
                if text.startswith(_NEWS):
                    report(text[:200])
        problem = str(line.get("error", problem))
    if problem:  # after the end of the stream, which is closed by then
        reason = " ".join(errors or [*lines, problem])[:400]
        raise SandboxUnavailable(
            f"The container image '{recipe.name}' could not be built on {start} ({reason}). Check the network, the package index, and "
            "that the base image has Debian, Python 3.11 and its venv module."
        )


def _context(recipe: Recipe) -> io.BytesIO:
    """Return the build context, a tar of two files that is the same for the same recipe."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (("Dockerfile", recipe.dockerfile.encode()), ("requirements.lock", recipe.lock.read_bytes())):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    buffer.seek(0)
    return buffer


def _built(client: APIClient, recipe: Recipe, found: dict[str, Any], settings: Settings) -> BuiltImage:
    facts = _contents(client, recipe, found["Id"], settings.cache)
    return BuiltImage(recipe.name, found["Id"], _tag(recipe), facts.python, facts.packages, found["Size"])


def known_contents(recipe: Recipe, cache: Path) -> Contents | None:
    """Return what is installed in the image that was last built or found of a recipe, without asking the engine; None = never seen."""
    files = (cache / "images").glob(f"{recipe.content[:12]}-*.json")
    newest = max(files, key=lambda file: file.stat().st_mtime, default=None)
    return Contents(**json.loads(newest.read_text(encoding="utf-8"))) if newest else None


def _contents(client: APIClient, recipe: Recipe, image: str, cache: Path) -> Contents:
    """Return what is installed in an image; asked of a locked-down container once, then kept."""
    file = cache / "images" / f"{recipe.content[:12]}-{image.removeprefix('sha256:')}.json"
    with suppress(FileNotFoundError):
        return Contents(**json.loads(file.read_text(encoding="utf-8")))
    container: str = client.create_container(
        image,
        command=[PYTHON, "-I", "-c", _LIST],
        entrypoint=[],
        user="65532:65532",
        host_config=client.create_host_config(
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=64,
            mem_limit=512 << 20,
            memswap_limit=512 << 20,
        ),
    )["Id"]
    try:
        client.start(container)
        status: int = client.wait(container, timeout=_LIST_S)["StatusCode"]
        said = client.logs(container, stdout=True, stderr=status != 0, tail=20).decode(errors="replace")
    finally:
        client.remove_container(container, v=True, force=True)
    if status != 0:
        raise SandboxUnavailable(f"Python does not start in the container image {image[:19]}: {said.strip()[-300:]}")
    contents = Contents(**json.loads(said))
    write_atomic(file, json.dumps(contents._asdict(), indent=1), mode=0o644)
    return contents
