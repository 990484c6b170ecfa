"""The API server: its client, its pods, what a pool needs of it."""
