"""GitHub's workflows: `.github/workflows/*.yml`."""
