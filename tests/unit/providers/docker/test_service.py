"""Where a running service is."""

from loom.providers.services import addresses


def test_variables_are_named_after_the_service() -> None:
    assert addresses("my-db.1", "db", [5432, 9000]) == {
        "LOOM_SERVICE_MY_DB_1_HOST": "db",
        "LOOM_SERVICE_MY_DB_1_PORT": "5432",
        "LOOM_SERVICE_MY_DB_1_PORT_5432": "5432",
        "LOOM_SERVICE_MY_DB_1_PORT_9000": "9000",
    }
    assert addresses("db", "db", []) == {"LOOM_SERVICE_DB_HOST": "db"}
