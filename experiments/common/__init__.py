"""What all commands of the study share; `versions`, which imports torch, and `config_checks` are not imported here."""

# isort: off
from experiments.common.atomic_files import (
    explained, remove_drafts, replacing, save_figure, write_bytes, write_json, write_text,
)  # fmt: skip
from experiments.common.commands import as_typed_here, command_line, resume_command, training_command
from experiments.common.console import exit_with_error, print_plain, short, with_progress
from experiments.common.errors import RunFolderError, UnwritableError, UserError
from experiments.common.extras import MissingPackageError, require
from experiments.common.masking import check_masked, hide_secret, mask_config, mask_settings, mask_text, mask_texts
from experiments.common.overrides import key_of, override, quote
from experiments.common.plain_yaml import flatten, leads_out, read_plain_yaml
from experiments.common.random_streams import Stream, seed_sequence, torch_seed

__all__ = [
    "MissingPackageError", "RunFolderError", "Stream", "UnwritableError", "UserError", "as_typed_here", "check_masked",
    "command_line", "exit_with_error", "explained", "flatten", "hide_secret", "key_of", "leads_out", "mask_config",
    "mask_settings", "mask_text", "mask_texts", "override", "print_plain", "quote", "read_plain_yaml", "remove_drafts",
    "replacing", "require", "resume_command", "save_figure", "seed_sequence", "short", "torch_seed", "training_command",
    "with_progress", "write_bytes", "write_json", "write_text",
]  # fmt: skip
