"""The Kubernetes provider: each job is a pod."""
