"""Comparison tables, plots and one HTML page, made from run folders and the tables of the Qwen report."""
