"""A run as one self-contained HTML page: its data (`page`, `logs`, `overview`) and its template, style and script."""
