"""Metrics, evaluation of a split, prediction on files, and figures."""
