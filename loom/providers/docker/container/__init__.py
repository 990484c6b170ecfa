"""Make and remove the container of a job."""
