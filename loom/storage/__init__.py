"""Archives and directories for stored files."""
