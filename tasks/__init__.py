"""Benchmarks, one file each. A task knows its data, its prompts and its scoring, and nothing of models."""
