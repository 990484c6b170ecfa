"""Resolve secret references, one module per store, and mask the values in all output."""
