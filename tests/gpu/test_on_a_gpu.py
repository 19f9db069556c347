"""What only a machine with an NVIDIA GPU can show; everything else about GPUs is tested with the fake driver of driver.py."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from mcp import Client

from clinloop import leases
from clinloop.app import build
from clinloop.resources import resource
from clinloop.sandbox import gpu_check, gpus
from clinloop.sandbox.backends import load_backend
from clinloop.sandbox.base import Exit, Mount, Sandbox
from clinloop.sandbox.checks.bench import Bench, Ended
from clinloop.services import Services
from clinloop.settings import Limits, Settings, load_settings

from ..mcp.conftest import ERAS, Agent

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1200)]

BACKENDS = ["none", "bubblewrap", "docker"]
ROOMY = Limits(memory_bytes=16 << 30, pids=2048)
SEE = "from torch import cuda; print(*(cuda.get_device_properties(i).uuid for i in range(cuda.device_count())))"
PATTERN = 0x5EEDC0DE
FILL = f"import torch; x = torch.full((1 << 29,), {PATTERN}, dtype=torch.int32, device='cuda'); print(int(x[-1]))"
SEARCH = (
    f"import torch; x = torch.empty((1 << 30,), dtype=torch.int32, device='cuda'); print(int((x == {PATTERN}).sum()))"
)


@pytest.fixture
def free() -> list[gpus.Gpu]:
    """The GPUs of this machine that nobody uses."""
    found = gpus.find(load_settings())
    unused = [gpu for gpu in found.gpus if not gpu.processes]
    if not unused:
        pytest.skip(found.problem or "every GPU of this machine is in use")
    return unused


class GpuBench(Bench):
    """Runs Python with torch as guarded jobs."""

    def see(self, code: str, *uuids: str) -> Ended:
        python = self.sandbox.environment("cpu", report=lambda _: None)
        runtime = Mount(resource("sandbox_images") / "runtime", "/runtime")
        job = self.job(argv=(python.python, "-c", code), mounts=(*python.mounts, runtime), limits=ROOMY)
        job = gpu_check.guard(replace(job, gpus=uuids, image=python.image), isolates=self.sandbox.isolates)
        began = time.monotonic()
        self.sandbox.start(job)
        return self.finish(job, began)


@pytest.fixture(params=BACKENDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> GpuBench:
    sandbox: Sandbox = load_backend(request.param, Settings(state=tmp_path / "state", cache=load_settings().cache))
    if not (probe := sandbox.probe()).usable:
        pytest.skip(f"{request.param} cannot run here: {probe.problem} {probe.fix}")
    return GpuBench(sandbox, tmp_path)


def test_a_job_sees_the_leased_gpu_and_no_other(free: list[gpus.Gpu], bench: GpuBench) -> None:
    ended = bench.see(SEE, free[-1].uuid)
    assert ended.exit == Exit(0), ended.log
    (seen,) = ended.log.split()
    assert seen in free[-1].uuid


def test_a_job_without_a_lease_sees_no_gpu(free: list[gpus.Gpu], bench: GpuBench) -> None:
    del free
    assert bench.see("import torch; print(torch.cuda.device_count())").log.split()[-1] == "0"


def test_nothing_of_a_jobs_gpu_memory_is_found_by_the_next_one(free: list[gpus.Gpu], bench: GpuBench) -> None:
    assert bench.see(FILL, free[0].uuid).exit.code == 0
    assert bench.see(SEARCH, free[0].uuid).log.split()[-1] == "0"


def test_no_process_is_left_on_a_gpu_after_its_job_was_ended(free: list[gpus.Gpu], tmp_path: Path) -> None:
    settings = Settings(state=tmp_path / "state", cache=load_settings().cache)
    bench = GpuBench(load_backend("bubblewrap", settings), tmp_path)
    hog = "import os, torch, time; os.fork(); x = torch.zeros(1 << 28, device='cuda'); print('holds', flush=True); time.sleep(5)"
    bench.see(hog, free[0].uuid)
    assert leases.find_left(settings, [free[0].uuid], lambda: ()) == []


@pytest.mark.anyio
@pytest.mark.parametrize("number", [1, 2])
async def test_the_classification_template_trains_on_gpus(number: int, free: list[gpus.Gpu], state: Path) -> None:
    if len(free) < number:
        pytest.skip(f"this machine has {len(free)} free GPU")
    settings = load_settings(state, sandbox="bubblewrap", limits=ROOMY, gpus_per_run_max=number)
    async with Client(build(Services(settings)), mode=ERAS[0]) as client:
        agent = Agent(client)
        spec = {"objective": "Tell three kinds of moles apart.", "budget": "quick"}
        task = await agent.call(
            "init_task", dataset="moles", request="Tell these moles apart for me, please.", spec=spec
        )
        run = await agent.run(task["task_id"], mode="smoke", gpus=number)
        log = await agent.call("read_validation", task_id=task["task_id"], run=run["run"], view="log")
    assert run["status"] == "succeeded", log["log"]
    assert f'"device": "cuda:0", "processes": {number}' in log["log"]
    facts = Services(settings).store.run(task["task_id"], run["run"]).facts
    assert len(facts["gpus"]) == number
