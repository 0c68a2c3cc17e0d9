"""Reading weights from checkpoints, of this study and of the Puzzle Mix authors."""
