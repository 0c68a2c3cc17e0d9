"""The parts of the report: reading a run folder, drawing its curves, and rendering one page that needs nothing else."""
