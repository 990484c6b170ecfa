"""Files at rest: archives of them, and the directories that loom keeps them in."""
