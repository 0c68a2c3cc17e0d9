"""The HTML report: reading run folders, drawing curves, rendering one page."""
