"""The W&B workspace and report of the study, from code."""
