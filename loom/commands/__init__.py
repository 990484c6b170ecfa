"""What each command does: no typer here, and imports at the top."""
