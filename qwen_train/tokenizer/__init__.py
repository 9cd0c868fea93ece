"""Training, expanding and measuring byte-level BPE vocabularies (report, section 2.2)."""
