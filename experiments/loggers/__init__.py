"""What CSV, W&B and TensorBoard are given."""
