"""Secrets: references in, values out, one module per kind of store; and the masker that keeps values out of all output."""
