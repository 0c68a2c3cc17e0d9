"""Pure functions of tensors: images and their saliency to mixed images."""
