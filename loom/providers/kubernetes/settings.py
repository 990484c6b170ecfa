"""The settings of one pool of a cluster: where its pods run, and how they look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

DAY_S = 24 * 3600.0


class Pool(Struct, frozen=True, kw_only=True):
    context: str = ""
    """Of the kubeconfig; empty: the current one."""
    kubeconfig: str = ""
    """Its path; empty: as for kubectl (`$KUBECONFIG`, `~/.kube/config`, then the service account of a pod)."""
    namespace: str = ""
    """Empty: the context's, else `default`."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    service_account: str = ""
    """Empty: the namespace's default, and its token is not mounted."""
    runtime_class: str = ""
    priority_class: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    helper_image: str = ""
    """The image of the container beside the job's (`sh`, `tar`, `dd`, `mkfifo`); empty: the job's own."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """Parts of a pod (`metadata`, `spec`) under those that loom sets. Lists are appended."""
    deadline_s: float = DAY_S
    """The longest life of a pod, enforced by the cluster."""
    lease_s: float = 900.0
    """How long a pod lives on without its loom."""
    start_s: float = 600.0
    """How long a pod may wait for a node and its images."""
