"""What a run here is worth elsewhere: whether CI would pass for a commit, and signed results as notes of commits."""
