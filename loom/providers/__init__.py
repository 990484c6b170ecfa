"""Where jobs run. `base` is the promise; `docker` and `host` keep it."""
