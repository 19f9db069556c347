"""A folder below a data root is ingested when it is first inspected; what is wrong with it reaches the agent, and nothing outside does."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.types import Implementation

from clinloop.app import build
from clinloop.services import Services
from clinloop.settings import load_settings

from ..conftest import draw_class_folders
from .conftest import ERAS, REQUEST, SPEC, Agent

pytestmark = pytest.mark.anyio

PATIENT = Implementation(name="claude-code", version="1")


def serving(tmp_path: Path, *roots: Path) -> Services:
    return Services(load_settings(tmp_path / "state", sandbox="none", data_roots=roots), accept_no_isolation=True)


async def inspected(agent: Agent, name: str) -> Any:
    """Inspect until the ingest has ended, and return the result."""
    for _ in range(20):
        result = await agent.raw("inspect_dataset", dataset=name)
        if result.is_error or result.structured_content["status"] != "ingesting":  # type: ignore[index]
            return result
    raise AssertionError(result.structured_content)


@pytest.mark.parametrize("era", ERAS)
async def test_a_folder_is_ingested_on_first_use_with_progress(tmp_path: Path, era: str) -> None:
    draw_class_folders(tmp_path / "images" / "moles", per_class=20)
    services = serving(tmp_path, tmp_path / "images")
    told: list[str] = []

    async def tell(done: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    impatient = services.settings.model_copy(update={"wait_cap_s": 0.0})
    async with Client(build(Services(impatient, accept_no_isolation=True)), mode=era) as client:
        early = await Agent(client).refused("init_task", dataset="moles", request=REQUEST, spec=SPEC)
        assert "inspect it first" in early
        first = await Agent(client).call("inspect_dataset", dataset="moles")
        assert first["status"] == "ingesting" and set(first["facts"]["progress"]) == {"phase", "done", "total"}
    async with Client(build(services), mode=era, client_info=PATIENT) as client:
        agent = Agent(client)
        result = await client.call_tool("inspect_dataset", {"dataset": "moles"}, progress_callback=tell)
        facts = (await inspected(agent, "moles")).structured_content
        assert result.structured_content is not None
        assert facts["facts"]["classes"] == ["keratosis", "melanoma", "nevus"]
        listed = await agent.call("inspect_dataset")
        assert (listed["datasets"], listed["folders"]) == (["moles"], [])


def empty(folder: Path) -> None:
    folder.mkdir(parents=True)


def one_class(folder: Path) -> None:
    draw_class_folders(folder, per_class=9)
    for name in ("melanoma", "nevus"):
        shutil.rmtree(folder / name)


def duplicate_ids(folder: Path) -> None:
    draw_class_folders(folder / "images", per_class=9)
    rows = [f"images/nevus/nevus-00{n % 9}.png,{'nevus' if n < 9 else 'melanoma'}" for n in range(18)]
    (folder / "cases.csv").write_text("image,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    shutil.rmtree(folder / "images" / "melanoma")
    shutil.rmtree(folder / "images" / "keratosis")


def only_broken_images(folder: Path) -> None:
    draw_class_folders(folder, per_class=9)
    for path in folder.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (empty, "image"),
        (one_class, "class"),
        (duplicate_ids, "nevus-00"),
        (only_broken_images, "read"),
    ],
)
async def test_a_refused_ingest_is_told_once_and_works_after_the_folder_is_repaired(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = tmp_path / "images" / "moles"
    spoil(folder)
    services = serving(tmp_path, tmp_path / "images")
    async with Client(build(services), mode=ERAS[0], client_info=PATIENT) as client:
        agent = Agent(client)
        refused = await inspected(agent, "moles")
        assert refused.is_error
        text = refused.content[0].text
        assert said in text, text
        assert str(tmp_path) not in text and "Traceback" not in text
        assert (await agent.call("inspect_dataset"))["datasets"] == []
        shutil.rmtree(folder)
        draw_class_folders(folder, per_class=20)
        repaired = await inspected(agent, "moles")
        assert not repaired.is_error, repaired.content
        assert repaired.structured_content["status"] == "ok"


def png_of_a_gigapixel() -> bytes:
    """A PNG of 40,000 x 40,000 pixels in 200 bytes, of which only the header is real."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


async def test_images_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = draw_class_folders(tmp_path / "images" / "moles", per_class=20)
    (folder / "nevus" / "huge.png").write_bytes(png_of_a_gigapixel())
    (folder / "nevus" / "noise.png").write_bytes(b"this is no image")
    whole = (folder / "nevus" / "nevus-000.png").read_bytes()
    (folder / "nevus" / "cut.png").write_bytes(whole[: len(whole) // 2])
    async with Client(build(serving(tmp_path, tmp_path / "images")), mode=ERAS[0], client_info=PATIENT) as client:
        agent = Agent(client)
        assert not (await inspected(agent, "moles")).is_error
        audit = await agent.call("inspect_dataset", dataset="moles", view="audit")
        lines = [line for line in audit["facts"]["audit"] if "unreadable" in line or "read" in line]
        assert lines, audit["facts"]["audit"]
        assert "huge.png" not in str(audit) and str(tmp_path) not in str(audit)


@pytest.mark.parametrize(
    "name", ["../private", "/etc", "~", "link", "link/private", "moles/../../private", ".", "", "a\0b", "..", "images"]
)
async def test_no_name_leads_out_of_a_data_root(tmp_path: Path, name: str) -> None:
    draw_class_folders(tmp_path / "private", per_class=3)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link").symlink_to(tmp_path / "private")
    services = serving(tmp_path, tmp_path / "images")
    async with Client(build(services), mode=ERAS[0]) as client:
        agent = Agent(client)
        listed = await agent.call("inspect_dataset")
        assert (listed["datasets"], listed["folders"]) == ([], [])
        if name:
            text = await agent.refused("inspect_dataset", dataset=name)
            assert "Unknown dataset" in text and str(tmp_path) not in text
        text = await agent.refused("init_task", dataset=name, request=REQUEST, spec=SPEC)
        assert "Unknown dataset" in text
    assert not (tmp_path / "state" / "datasets").exists()
