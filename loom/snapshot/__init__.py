"""The isolated workspace: freeze the repository, lay it out, prove it."""
