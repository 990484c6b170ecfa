"""What services are called."""

from loom.providers.docker.services.services import container_names


def test_container_names_are_fit_and_unique() -> None:
    names = container_names(["db", "a b/c", "DB", "db", "...", "x" * 99])
    assert names == ["db", "a-b-c", "DB-2", "db-3", "service", "x" * 40]
