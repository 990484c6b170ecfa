"""Where a project is at home, by the URL of `origin`, and what GitLab would set there."""

import pytest

from loom.plan.origin import ProjectOrigin, origin_of, variables_of


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://user:pw@gitlab.example/a/b.git", ProjectOrigin(host="gitlab.example", path="a/b")),
        ("https://gitlab.example:8443/a/b/", ProjectOrigin(host="gitlab.example", path="a/b", port="8443")),
        ("http://h/a", ProjectOrigin(host="h", path="a", protocol="http", port="80")),
        ("ssh://git@h:2222/a/b.git", ProjectOrigin(host="h", path="a/b", ssh_port="2222")),
        ("git://h/a/b", ProjectOrigin(host="h", path="a/b")),
        ("git@h.example:a/b/c.git", ProjectOrigin(host="h.example", path="a/b/c")),
        ("h.example:a", ProjectOrigin(host="h.example", path="a")),
        (" https://h/a ", ProjectOrigin(host="h", path="a")),
        ("/srv/git/a", None),
        ("C:a", None),
        ("../a", None),
        ("", None),
        (None, None),
    ],
)
def test_the_url_of_a_server_names_a_project(url: str | None, origin: ProjectOrigin | None) -> None:
    assert origin_of(url) == origin


def test_what_gitlab_would_set_for_a_project() -> None:
    found = variables_of(ProjectOrigin(host="h.example", path="Group/Sub/My_Name", port="8443", ssh_port="22"))
    assert found == {
        "CI_SERVER_HOST": "h.example",
        "CI_SERVER_PORT": "8443",
        "CI_SERVER_PROTOCOL": "https",
        "CI_SERVER_FQDN": "h.example:8443",
        "CI_SERVER_URL": "https://h.example:8443",
        "CI_SERVER_SHELL_SSH_HOST": "h.example",
        "CI_SERVER_SHELL_SSH_PORT": "22",
        "CI_API_V4_URL": "https://h.example:8443/api/v4",
        "CI_API_GRAPHQL_URL": "https://h.example:8443/api/graphql",
        "CI_PROJECT_NAME": "My_Name",
        "CI_PROJECT_TITLE": "My_Name",
        "CI_PROJECT_PATH": "Group/Sub/My_Name",
        "CI_PROJECT_PATH_SLUG": "group-sub-my-name",
        "CI_PROJECT_NAMESPACE": "Group/Sub",
        "CI_PROJECT_NAMESPACE_SLUG": "group-sub",
        "CI_PROJECT_ROOT_NAMESPACE": "Group",
        "CI_PROJECT_ROOT_NAMESPACE_SLUG": "group",
        "CI_PROJECT_URL": "https://h.example:8443/Group/Sub/My_Name",
        "CI_DEPENDENCY_PROXY_SERVER": "h.example:8443",
        "CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX": "h.example:8443/group/dependency_proxy/containers",
        "CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX": "h.example:8443/group/sub/dependency_proxy/containers",
    }


def test_gitlab_itself_has_a_registry_and_pages() -> None:
    found = variables_of(ProjectOrigin(host="gitlab.com", path="Group/Sub/Name"))
    assert found["CI_SERVER_FQDN"] == "gitlab.com"
    assert {name: value for name, value in found.items() if "REGISTRY" in name or "PAGES" in name} == {
        "CI_REGISTRY": "registry.gitlab.com",
        "CI_REGISTRY_IMAGE": "registry.gitlab.com/group/sub/name",
        "CI_PAGES_DOMAIN": "gitlab.io",
        "CI_PAGES_HOSTNAME": "group.gitlab.io",
        "CI_PAGES_URL": "https://group.gitlab.io/sub/name",
    }
