"""All methods on all of CIFAR-100 within some minutes of one GPU; without Hydra, for machines that have little installed."""
