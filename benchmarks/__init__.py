"""Benchmarks: `python -m benchmarks.run` prints every figure that the project claims, next to those of its peers."""
