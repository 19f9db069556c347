"""The six tools, one file each; this list is the registry."""

from clinloop_tools import edit_workspace, finalize, init_task, inspect_dataset, read_validation, run_training

TOOLS = [
    inspect_dataset.TOOL,
    init_task.TOOL,
    edit_workspace.TOOL,
    run_training.TOOL,
    read_validation.TOOL,
    finalize.TOOL,
]
