"""The plan of a `.gitlab-ci.yml`: rules and needs as GitLab decides them, jobs as the plan has them."""
