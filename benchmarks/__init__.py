"""Measurements with stated bars: `python -m benchmarks.NAME` prints a table and exits 1 where a bar does not hold."""
