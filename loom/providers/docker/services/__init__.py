"""The services beside a job."""
