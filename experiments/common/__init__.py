"""What all commands of the study share: console, files, configs, versions."""
