"""Scores computed by hand."""

import numpy as np


def expected_calibration_error(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """Guo et al. 2017, equation 5."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    bin_of = np.ceil(confidence * bins).astype(int)
    gaps = [abs(right[bin_of == b].mean() - confidence[bin_of == b].mean()) * (bin_of == b).mean() for b in set(bin_of)]
    return float(sum(gaps))
