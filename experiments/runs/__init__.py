"""Run folders: their owner, their files, resuming, the summary at the end."""
