"""What a study measured: records, selection, comparison, tables and models."""
