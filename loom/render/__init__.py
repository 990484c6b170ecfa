"""Events, plans and errors to lines, or to JSON."""
