"""A finished model labels another dataset: its probability becomes an attribute, with its source and a check of overlap."""

from __future__ import annotations

from collections.abc import Callable

from clinloop.services import Services


def annotate(
    services: Services, dataset: str, *, model_task: str, column: str, progress: Callable[[str, int, int], None]
) -> list[str]:
    raise NotImplementedError
