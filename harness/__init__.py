"""The engine behind `harness run`: backends, batching, sandbox, run store, statistics, command line."""
