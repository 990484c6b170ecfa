"""What will run: the frozen plan, and its derivation from a workflow."""
