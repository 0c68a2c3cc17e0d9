"""One call that mixes a batch for a model: Puzzle Mix and the baselines."""
