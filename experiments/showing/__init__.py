"""Parts of `python -m experiments.show_mixing`: pictures in, settings, the network that looks at them, the grid."""
