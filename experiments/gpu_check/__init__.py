"""What a CUDA device makes of the mixing, run by `gpu_check.sh`: needs the plugin, torchvision and scikit-learn alone."""
