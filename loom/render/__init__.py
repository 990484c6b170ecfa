"""Render events, plans and errors as lines or JSON."""
