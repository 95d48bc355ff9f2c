"""Benchmarks that print Markdown tables: ``python -m benchmarks.scan``."""
