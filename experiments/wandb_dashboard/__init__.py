"""Workspace and report of the study's W&B project, built from code; building does not use the network."""
