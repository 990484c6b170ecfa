"""A run as one self-contained HTML page: its data (`page`, `logs`, `graph`, `timeline`) and its template, style and script."""
