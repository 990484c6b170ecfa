import pytest

from loom.util.units import counted, duration, duration_text, nearest, rough_age, rough_size, size, size_text


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("250ms", 0.25), ("2d", 172800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds
    assert duration(duration_text(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "10", "10 m", "m", "1m1h", "1m1m", "-1s", "1e3s", "999999d", "٣s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        duration(text)


@pytest.mark.parametrize("text", ["1 day", "30 min 2 hours", "never", "10 m"])
def test_durations_in_words_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "amount"), [("512m", 512 << 20), ("2g", 2 << 30), ("1.5GiB", 3 << 29), ("4096", 4096), ("1KB", 1024)]
)
def test_sizes(text: str, amount: int) -> None:
    assert size(text) == amount
    assert size(size_text(amount)) == amount


@pytest.mark.parametrize("text", ["", "m", "1x", "-1m", "1 g"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        size(text)


def test_the_nearest_name() -> None:
    assert nearest("scirpt", ["script", "stage"]) == "script"
    assert nearest("Before-Script", ["before_script", "after_script"]) == "before_script"
    assert nearest("zzz", ["script"]) is None


def test_ages_and_numbers_of_things() -> None:
    ages = [rough_age(seconds) for seconds in (-3, 59, 60, 3599, 3600, 86399, 86400, 12 * 86400)]
    assert ages == [
        "just now",
        "just now",
        "1 min ago",
        "59 min ago",
        "1 h ago",
        "23 h ago",
        "1 day ago",
        "12 days ago",
    ]
    assert [counted(number, "entry", "entries") for number in (0, 1, 1200)] == ["0 entries", "1 entry", "1,200 entries"]
    assert counted(2, "file") == "2 files"


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_400, "99.4 kB"),
        (119_801_431, "120 MB"),
        (999_600_000, "1.0 GB"),
    ],
)
def test_rough_sizes(amount: int, text: str) -> None:
    assert rough_size(amount) == text
