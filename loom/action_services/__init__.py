"""The services that GitHub's actions talk to while a job runs: caches and artifacts, over HTTP.

`server` answers requests of the toolkit (`@actions/cache`, `@actions/artifact`) and of Azure's blob client; `caches` and
`artifacts` are its two services, over loom's own cache and the run's record; `uploads` takes the bytes.
"""
