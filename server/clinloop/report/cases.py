"""Validation cases in pictures: which ones the refined model gets right and the initial one wrong, and the other way round."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

JPEG_CAP = 40_000
"""Characters of one picture in base64."""


class GalleryItem(BaseModel):
    """One validation case that the two models answer differently, one of them wrongly."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    case_id: str
    """Opaque id of the case on this server."""
    outcome: Literal["gained", "lost"]
    """gained: the refined model is right and the initial one wrong; lost: the other way round."""
    truth: str
    """What is true."""
    initial: str
    """What the initial model said."""
    refined: str
    """What the refined model said."""
    picture: str = Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$", max_length=JPEG_CAP)
    """A small JPEG in base64."""


class Gallery(BaseModel):
    """Cases gained and lost on validation: how many, and some of them, those first that were got most wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    n: int
    """Validation cases."""
    gained: int
    """How many were gained."""
    lost: int
    """How many were lost."""
    items: tuple[GalleryItem, ...] = ()
    """Some of them; empty where pictures are switched off."""
    note: str = ""
    """Why there are no pictures, and what the colours mean."""
