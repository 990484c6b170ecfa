"""What a record tells: the diagnosis, the difference of two runs, the report, the schemas."""
