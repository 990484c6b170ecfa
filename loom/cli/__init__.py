"""Arguments, environment, signals and terminal in; exit code out."""
