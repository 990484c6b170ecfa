"""What lets a run here count elsewhere: signed results, as notes of commits."""
