"""Measurements: `python -m benchmarks.run` prints every figure that the project claims, beside its peers."""
