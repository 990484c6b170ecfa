"""The dialect of GitLab: `.gitlab-ci.yml` with its includes, read as GitLab reads it (docs/guides/gitlab.md).

The modules here read and decide, and know no plan: `loom.plan.gitlab` makes the plan from what they return.
"""
