"""A supervisor as it is, but for two things: its jobs and the supervisors that it starts find the fake driver of driver.py too.

Started by the wrapper of driver.py as `python -I supervise.py clinloop.supervisor STATE TASK WHAT FOLDER`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from clinloop import supervisor
from clinloop.sandbox import unisolated
from clinloop.sandbox.base import Job, basic_environment

LIBRARIES = os.environ["LD_LIBRARY_PATH"]


def environment_with_driver(job: Job, *, home: str) -> dict[str, str]:
    return basic_environment(job, home=home) | {"LD_LIBRARY_PATH": LIBRARIES}


unisolated.basic_environment = environment_with_driver
sys.executable = str(Path(LIBRARIES).parent / "python")
supervisor.main(sys.argv[2:])
