"""Pure helpers that know nothing of loom."""
