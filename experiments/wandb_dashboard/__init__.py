"""Workspace and report of the study's W&B project, built from code; building does not use the network."""

from experiments.wandb_dashboard.report import build_report
from experiments.wandb_dashboard.workspace import build_workspace

__all__ = ["build_report", "build_workspace"]
