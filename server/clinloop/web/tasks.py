"""The pages of tasks, one module each."""

from __future__ import annotations

from clinloop.web import (
    queue_page,
    task_choose,
    task_confirm,
    task_decide,
    task_list,
    task_page,
    task_report,
    task_run,
    task_steer,
)

PAGES = [
    *queue_page.PAGES,
    *task_list.PAGES,
    *task_page.PAGES,
    *task_confirm.PAGES,
    *task_choose.PAGES,
    *task_decide.PAGES,
    *task_steer.PAGES,
    *task_run.PAGES,
    *task_report.PAGES,
]
