"""Metrics and images of what a mix did."""
