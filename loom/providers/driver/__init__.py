"""The driver of a job's container: its program, the protocol with it, and a session that uses it."""
