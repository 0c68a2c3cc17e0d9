"""What is trained and how: module, loss, optimizer, callbacks of a run."""
