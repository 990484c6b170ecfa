"""Read the record of a run: its output, its diagnosis, its report."""
