"""Images in an engine: pulled, built, looked up."""
