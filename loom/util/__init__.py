"""Helpers that know nothing of loom."""
