"""Jobs whose conditions, variables and outputs are decided while they run: by GitHub's expressions, commands and files."""
