"""The report's claims as experiments: what each says, the test that decides it, and what was found."""
