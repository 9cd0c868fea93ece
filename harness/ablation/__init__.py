"""Ablations: what is varied (`cells`), the runs that it takes (`units`), the work (`sweep`), its tables (`tables`)."""
