"""Measurements of `python -m experiments.benchmark`; `experiments.gpu_check` uses `setup` and `timing` too."""
