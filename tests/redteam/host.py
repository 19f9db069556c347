"""Section I: the agent's own shell, users, records, and machines that are not set up as they should be."""

from __future__ import annotations

import os
from pathlib import Path

from .case import SERVER, Case
from .stage import Stage


def _read_vault(stage: Stage) -> str:
    """The agent's shell runs under the server's user: it reads the test labels, and every reply says L0."""
    vault = Path(stage.secrets()["vault"])
    labels = (vault / "cases.csv").read_text(encoding="utf-8").splitlines()
    is_same_user = vault.stat().st_uid == os.geteuid()
    reply = stage.call("inspect_dataset", dataset="moles")
    return (
        "succeeds" if is_same_user and len(labels) > 30 and reply.content["guarantee"].startswith("L0") else f"{reply}"
    )


_SERVICE = "tests/service/test_separate_user.py::"
_LEVEL = "tests/unit/test_guarantee.py::"
_VERIFY = "tests/unit/report/test_verify.py::"
_SIGNED = "tests/unit/store/test_signatures.py::"

CASES = [
    Case(
        number="I93",
        title="read the vault with the agent's own shell, at L0",
        expected="succeeds",
        attack=_read_vault,
        where=SERVER,
        note="Level L0 promises nothing against it, and says so in every reply and report.",
    ),
    Case(
        number="I94",
        title="the same as another user, at L2",
        expected="refused",
        tests=(_SERVICE + "test_the_agents_user_reaches_neither_files_nor_memory_nor_code",),
        where=SERVER,
    ),
    Case(
        number="I95",
        title="claim L2 while the agent's user may use the container engine or become root",
        expected="refused",
        tests=(
            _SERVICE + "test_access_to_a_container_engine_takes_the_level_away",
            _SERVICE + "test_an_administrators_group_takes_the_level_away",
        ),
        where=SERVER,
    ),
    Case(
        number="I96",
        title="find plaintext of a sealed test set on the disk",
        expected="absent",
        tests=(
            "tests/unit/datasets/test_sealed.py::test_nothing_of_a_sealed_test_part_is_readable_on_the_disk_at_any_moment",
            "tests/faults/test_unsealing.py::test_code_that_copies_and_prints_the_test_images_leaves_nothing_of_them_on_the_disk",
        ),
        where=SERVER,
    ),
    Case(
        number="I97",
        title="edit the ledger",
        expected="refused",
        tests=(
            _SIGNED + "test_whoever_forges_an_entry_without_the_key_gets_no_run_no_evaluation_and_no_view",
            _VERIFY + "test_changed_report_fails_and_says_what_differs",
        ),
        where=SERVER,
    ),
    Case(
        number="I98",
        title="cut the end of the ledger off",
        expected="recorded",
        tests=(
            _SIGNED + "test_a_tail_cut_off_is_found_with_a_head_that_was_noted",
            _VERIFY + "test_truncated_tail_is_found_by_the_anchor",
        ),
        where=SERVER,
        note="Found with a ledger_head that was noted elsewhere; every reply carries one.",
    ),
    Case(
        number="I99",
        title="write the whole ledger anew, with the key",
        expected="recorded",
        tests=(
            _SIGNED + "test_a_full_rewrite_with_the_servers_own_key_is_found_with_a_head_that_was_noted",
            _VERIFY + "test_ledger_rewritten_as_a_whole_is_found_by_the_anchor_alone",
        ),
        where=SERVER,
        note="Found with a ledger_head that was noted elsewhere.",
    ),
    Case(
        number="I100",
        title="move a case to another split, change a label or an image after the commitment",
        expected="recorded",
        tests=("tests/unit/datasets/test_ingest.py::test_the_commitment_notices_a_moved_case_and_a_changed_image",),
        where=SERVER,
    ),
    Case(
        number="I101",
        title="change the server's own code, when that is in reach",
        expected="recorded",
        tests=(
            _SERVICE + "test_an_installation_that_others_can_change_or_not_read_is_refused",
            _LEVEL + "test_reaches_everything_below_a_folder_in_which_it_may_rename",
        ),
        where=SERVER,
        note="The level falls, and says why.",
    ),
    Case(
        number="I102",
        title="Slurm node without container support",
        expected="refused",
        reason="there is no Slurm backend",
    ),
    Case(
        number="I103",
        title="Slurm job that inherits the server's environment",
        expected="absent",
        reason="there is no Slurm backend",
    ),
    Case(number="I104", title="Slurm output that is a link", expected="refused", reason="there is no Slurm backend"),
    Case(
        number="I105",
        title="Podman that ignores the request for a GPU",
        expected="refused",
        tests=(
            "tests/sandbox/test_gpus.py::test_a_backend_that_ignores_the_request_for_gpus_is_found_out_before_any_code_starts",
        ),
        where=SERVER,
    ),
    Case(
        number="I106",
        title="a machine on which nothing isolates",
        expected="refused",
        tests=(
            "tests/sandbox/test_backends.py::test_auto_refuses_with_the_fix_when_nothing_isolates",
            "tests/e2e/test_cli.py::test_serving_without_isolation_must_be_accepted_by_flag",
        ),
        where=SERVER,
    ),
]
