"""The final report of a task: shown in a frame of its own, checked again, and its files to take away."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from clinloop.errors import NotNow, unknown
from clinloop.services import Services
from clinloop.web.pages import Page, in_thread, render
from clinloop.web.signing_in import services_of
from clinloop.web.task_page import SAID

FRAME: dict[str, str] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; sandbox",
}
"""A report is one file with its own styles and pictures, and without scripts; it gets an origin of its own."""


class File(NamedTuple):
    """A file that can be taken away."""

    name: str
    """Its path below the task: `report/report.json`."""
    path: Path
    size: int

    @property
    def said(self) -> str:
        """Its size for people."""
        return f"{self.size / 1e6:.1f} MB" if self.size >= 1e6 else f"{max(1, round(self.size / 1e3))} kB"


async def report(request: Request) -> Response:
    """Show the report."""
    services, task_id = services_of(request), request.path_params["task"]
    files = await in_thread(_files, services, task_id)
    task = await in_thread(services.task, task_id)
    return render(request, "task/report.html.j2", task=task, files=files, words=SAID)


async def page(request: Request) -> Response:
    """Send the report itself, for the frame."""
    files = await in_thread(_files, services_of(request), request.path_params["task"])
    found = next(file for file in files if file.name == "report/report.html")
    return FileResponse(found.path, media_type="text/html", headers=FRAME)


async def take(request: Request) -> Response:
    """Send one of the files to be saved."""
    name = request.path_params["name"]
    files = await in_thread(_files, services_of(request), request.path_params["task"])
    found = next((file for file in files if file.name == name), None)
    if found is None:
        raise unknown("file", name, [file.name for file in files])
    return FileResponse(
        found.path,
        media_type="application/octet-stream",
        filename=found.path.name,
        content_disposition_type="attachment",
    )


async def check(request: Request) -> Response:
    """Check the report again, as `clinloop verify` does, and say what was found."""
    services, task_id = services_of(request), request.path_params["task"]
    outcome = await in_thread(_verified, services, task_id)
    return render(request, "task/check.html.j2", outcome=outcome)


def _verified(services: Services, task_id: str) -> object:
    from clinloop.report.verify import verify  # late: it loads numpy

    _files(services, task_id)
    return verify(services.state.task(task_id).report)


def _files(services: Services, task_id: str) -> list[File]:
    """Return the files of report and model.

    Raises:
        Unknown: no such task.
        NotNow: it has no report.
    """
    task, folder = services.task(task_id), services.state.task(task_id)
    if task.status != "evaluated" or not (folder.report / "report.html").is_file():
        raise NotNow("This task has no report yet; there is one when the final test is done.")
    found = [
        File(f"{name}/{path.relative_to(root).as_posix()}", path, path.stat().st_size)
        for name, root in (("report", folder.report), ("model", folder.model))
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    ]
    return sorted(found, key=lambda file: (not file.name.startswith("report/report"), file.name))


PAGES = [
    Page("/tasks/{task}/report", report),
    Page("/tasks/{task}/report/page", page),
    Page("/tasks/{task}/report/check", check),
    Page("/tasks/{task}/files/{name:path}", take),
]
