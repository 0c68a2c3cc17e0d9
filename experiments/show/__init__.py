"""Parts of `python -m experiments.show_mixing`."""
