"""Secrets: references in, values out, one module per kind of store."""
