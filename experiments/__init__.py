"""The study around the plugin: data sets, networks and Hydra entry points (needs the extra `[experiments]`)."""
