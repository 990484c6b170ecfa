"""Run a workflow, once or at each change: its plan, its options, what it is made of."""
