"""From raw documents to clean ones: reading, filters, duplicates, masking, mixing (report, section 2.1)."""
