"""Implementations of the commands: no typer, imports at the top."""
