"""What will run: the frozen plan, and how a workflow becomes one."""
