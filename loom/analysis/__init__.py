"""Analyse records: diagnosis, comparison of two runs, report, schemas."""
