"""Finished runs compared: reading their folders, the table, the plot."""
