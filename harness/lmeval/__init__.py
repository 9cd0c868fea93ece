"""lm-evaluation-harness beside us: its tasks on our engine (`tasks`), and our engine as a model of its (`model`)."""
