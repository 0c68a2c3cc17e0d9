"""Hydra multiruns: the folder of a sweep, failed jobs, the report at its end."""
