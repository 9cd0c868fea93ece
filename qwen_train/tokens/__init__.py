"""Token files: documents, encoded, shuffled and merged into one stream per source (report, section 2.1 and 2.4)."""
