"""When a batch is mixed and how training_step gets it, in a Lightning Trainer."""
