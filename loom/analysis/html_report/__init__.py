"""A run as one self-contained HTML page: its data (`page`, `logs`, `columns`, `timeline`) and its template, style and script."""
