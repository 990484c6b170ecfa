"""The variables that follow from the URL of `origin`: server, project, registry. Pure."""

from __future__ import annotations

import re

from loom.util.slugs import slug
from loom.values import Immutable

_URL = re.compile(r"(?P<scheme>https?|ssh|git)://(?:[^@/]*@)?(?P<host>[^/:]+)(?::(?P<port>[0-9]+))?/(?P<path>.+)")
_SCP = re.compile(r"(?:[^@/:]+@)?(?P<host>[^/:]{2,}):(?P<path>[^/].*)")
_PORTS = {"https": "443", "http": "80"}
_GITLAB = "gitlab.com"


class ProjectOrigin(Immutable):
    """The server and path of a project. `path` has its groups and its name."""

    host: str
    path: str
    protocol: str = "https"
    port: str = "443"
    ssh_port: str = "22"

    @property
    def server(self) -> str:
        return self.host if self.port == _PORTS[self.protocol] else f"{self.host}:{self.port}"


def origin_of(url: str | None) -> ProjectOrigin | None:
    """Read the URL of a remote; None for one without a server, such as a directory."""
    text = (url or "").strip().rstrip("/").removesuffix(".git")
    if found := _URL.fullmatch(text):
        scheme, port = found["scheme"], found["port"]
        path = found["path"].strip("/")
        if scheme in _PORTS:
            return ProjectOrigin(host=found["host"], path=path, protocol=scheme, port=port or _PORTS[scheme])
        return ProjectOrigin(host=found["host"], path=path, ssh_port=port or "22")
    if found := _SCP.fullmatch(text):
        return ProjectOrigin(host=found["host"], path=found["path"].strip("/"))
    return None


def variables_of(origin: ProjectOrigin) -> dict[str, str]:
    """Return the variables that GitLab would set for a project with this origin."""
    namespace, _, name = origin.path.rpartition("/")
    group = namespace.partition("/")[0]
    url = f"{origin.protocol}://{origin.server}"
    proxy = f"{origin.host}:{origin.port}"
    variables = {
        "CI_SERVER_HOST": origin.host,
        "CI_SERVER_PORT": origin.port,
        "CI_SERVER_PROTOCOL": origin.protocol,
        "CI_SERVER_FQDN": origin.server,
        "CI_SERVER_URL": url,
        "CI_SERVER_SHELL_SSH_HOST": origin.host,
        "CI_SERVER_SHELL_SSH_PORT": origin.ssh_port,
        "CI_API_V4_URL": f"{url}/api/v4",
        "CI_API_GRAPHQL_URL": f"{url}/api/graphql",
        "CI_PROJECT_NAME": name,
        "CI_PROJECT_TITLE": name,
        "CI_PROJECT_PATH": origin.path,
        "CI_PROJECT_PATH_SLUG": slug(origin.path),
        "CI_PROJECT_NAMESPACE": namespace,
        "CI_PROJECT_NAMESPACE_SLUG": slug(namespace),
        "CI_PROJECT_ROOT_NAMESPACE": group,
        "CI_PROJECT_ROOT_NAMESPACE_SLUG": slug(group),
        "CI_PROJECT_URL": f"{url}/{origin.path}",
        "CI_DEPENDENCY_PROXY_SERVER": proxy,
        "CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX": f"{proxy}/{group.lower()}/dependency_proxy/containers",
        "CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX": f"{proxy}/{namespace.lower()}/dependency_proxy/containers",
    }
    if origin.host == _GITLAB:
        rest = origin.path.removeprefix(f"{group}/")
        variables |= {
            "CI_REGISTRY": f"registry.{_GITLAB}",
            "CI_REGISTRY_IMAGE": f"registry.{_GITLAB}/{origin.path.lower()}",
            "CI_PAGES_DOMAIN": "gitlab.io",
            "CI_PAGES_HOSTNAME": f"{group.lower()}.gitlab.io",
            "CI_PAGES_URL": f"https://{group.lower()}.gitlab.io/{rest.lower()}",
        }
    return variables
