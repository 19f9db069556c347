"""What every backend must keep: the suite that the tests run over all of them, and that a custodian can run on a machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from clinloop.sandbox.base import Sandbox
from clinloop.sandbox.checks import life, resources, secrets
from clinloop.sandbox.checks.bench import Bench


class Check(NamedTuple):
    """One promise of a backend."""

    run: Callable[[Bench], None]
    needs_isolation: bool
    """Whether a backend that isolates nothing may fail it."""
    needs_cap: str = ""
    """The resource of Probe.tiers that must be capped by the kernel, not by a watcher."""

    @property
    def name(self) -> str:
        """What is promised, in words."""
        return self.run.__name__.replace("_", " ")


CHECKS = [
    Check(life.exit_status_is_reported, needs_isolation=False),
    Check(life.death_by_signal_is_128_plus_n, needs_isolation=False),
    Check(life.status_137_is_no_evidence_of_lack_of_memory, needs_isolation=False),
    Check(life.missing_command_is_a_failing_exit, needs_isolation=False),
    Check(life.output_and_errors_are_logged_in_order, needs_isolation=False),
    Check(life.log_flood_keeps_head_and_tail_below_the_cap, needs_isolation=False),
    Check(life.flood_without_newline_keeps_head_and_tail_below_the_cap, needs_isolation=False),
    Check(life.head_of_the_log_is_there_while_the_job_runs, needs_isolation=False),
    Check(life.wait_returns_nothing_while_the_job_runs, needs_isolation=False),
    Check(life.wait_returns_as_soon_as_the_job_ends, needs_isolation=False),
    Check(life.wait_may_be_repeated_after_the_end, needs_isolation=False),
    Check(life.stop_ends_daemons_and_who_ignores_signals, needs_isolation=False),
    Check(life.daemons_end_with_the_main_process, needs_isolation=False),
    Check(life.stop_is_idempotent, needs_isolation=False),
    Check(life.environment_is_exactly_what_the_job_gives, needs_isolation=False),
    Check(life.mounts_are_readable_whatever_their_mode, needs_isolation=False),
    Check(life.out_comes_back_as_a_plain_folder_of_ours, needs_isolation=False),
    Check(life.links_pipes_and_devices_do_not_come_back, needs_isolation=False),
    Check(life.hostile_trees_come_back_or_are_deleted, needs_isolation=False),
    Check(resources.memory_bomb_is_ended_and_named, needs_isolation=False),
    Check(resources.memory_is_capped_over_all_processes, needs_isolation=False),
    Check(resources.full_disk_is_capped_and_named, needs_isolation=False),
    Check(resources.holes_and_preallocation_are_capped, needs_isolation=False),
    Check(resources.number_of_files_is_capped, needs_isolation=False),
    Check(resources.memory_death_of_a_child_is_flagged, needs_isolation=True, needs_cap="memory"),
    Check(resources.scratch_space_is_charged_to_memory, needs_isolation=True, needs_cap="memory"),
    Check(resources.scratch_space_is_capped, needs_isolation=True),
    Check(resources.scratch_space_is_fresh, needs_isolation=True),
    Check(resources.nothing_else_is_writable, needs_isolation=True),
    Check(resources.fork_bomb_is_bounded_and_ended_quickly, needs_isolation=True),
    Check(resources.processes_are_capped, needs_isolation=True),
    Check(resources.deleted_open_files_are_capped, needs_isolation=True, needs_cap="disk"),
    Check(resources.processor_time_is_capped, needs_isolation=True, needs_cap="cpu"),
    Check(secrets.network_is_unreachable, needs_isolation=True),
    Check(secrets.other_socket_families_are_refused, needs_isolation=True),
    Check(secrets.localhost_works_inside, needs_isolation=False),
    Check(secrets.own_name_leads_to_itself, needs_isolation=True),
    Check(secrets.sockets_of_the_host_are_unreachable, needs_isolation=True),
    Check(secrets.two_jobs_do_not_meet, needs_isolation=True),
    Check(secrets.processes_of_the_host_are_invisible, needs_isolation=True),
    Check(secrets.environment_of_the_server_is_nowhere, needs_isolation=True),
    Check(secrets.descriptors_are_not_inherited, needs_isolation=False),
    Check(secrets.files_outside_the_mounts_do_not_exist, needs_isolation=True),
    Check(secrets.mounts_are_read_only, needs_isolation=True),
    Check(secrets.privileges_are_gone, needs_isolation=True),
    Check(secrets.dangerous_system_calls_are_refused, needs_isolation=True),
    Check(secrets.new_namespaces_are_refused, needs_isolation=True),
    Check(secrets.calls_of_another_architecture_end_the_job, needs_isolation=True),
    Check(secrets.terminal_input_cannot_be_forged, needs_isolation=True),
    Check(secrets.deadline_cannot_be_evaded, needs_isolation=True),
]


def why_not(check: Check, sandbox: Sandbox) -> str:
    """Return why a check does not apply to a backend on this machine, or an empty text."""
    probe = sandbox.probe()
    if check.needs_isolation and not sandbox.isolates:
        return f"backend {sandbox.name!r} isolates nothing and does not promise that"
    if not probe.usable:
        return f"backend {sandbox.name!r} cannot run here: {probe.problem} {probe.fix}"
    if check.needs_cap and probe.tiers[check.needs_cap].startswith("best effort"):
        return f"{check.needs_cap} is enforced only by {probe.tiers[check.needs_cap]!r} here"
    return ""


def run_check(check: Check, sandbox: Sandbox, folder: Path) -> None:
    """Run one check below an empty folder.

    Raises:
        AssertionError: the backend does not keep the promise; the text says what happened instead.
    """
    check.run(Bench(sandbox, folder))
