"""The pages of tasks, one module each."""

from __future__ import annotations

from clinloop.web import task_list, task_page

PAGES = [*task_list.PAGES, *task_page.PAGES]
