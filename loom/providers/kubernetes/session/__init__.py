"""Run steps and commands in a job's pod."""
