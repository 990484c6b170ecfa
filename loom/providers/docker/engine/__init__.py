"""The connection to an engine: its address, its errors, its abilities."""
