"""The test of a run class by class: counts, file, plots."""
