"""From GitHub's workflows to plans."""
