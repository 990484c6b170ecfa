"""Sections in a job's output, as GitLab's job logs mark them."""

from loom.record.events import RUN, PhaseCode, Where
from loom.record.journal import Journal
from loom.record.sections import MOST_DEEP, SectionReader
from loom.render.look import Look
from loom.render.screen import Screen, Sections
from loom.status import Status
from loom.util.masking import Masker

AT = ("job", "script/01")


def shown(*lines: str) -> list[str]:
    sections = Sections({"start": ">", "open": "v", "close": "^"}, lambda _: SectionReader())
    return [line for text in lines for line in sections.lines(AT, text)] + list(sections.end(AT))


def start(name: str, at: int, title: str = "", options: str = "") -> str:
    return f"\x1b[0Ksection_start:{at}:{name}{options}\r\x1b[0K{title}"


def end(name: str, at: int, rest: str = "") -> str:
    return f"\x1b[0Ksection_end:{at}:{name}\r\x1b[0K{rest}"


def test_a_collapsed_section_is_one_line_with_its_size_and_duration() -> None:
    found = shown(
        "before", start("dep", 100, "\x1b[1mInstall\x1b[0m", "[collapsed=true]"), "a", "b", end("dep", 105, "x"), "y"
    )
    assert found == ["before", "> Install (2 lines, 5.0 s)", "x", "y"]


def test_an_open_section_has_a_line_at_its_beginning_and_its_end() -> None:
    assert shown(start("t", 100), "a", end("t", 161)) == ["v t", "a", "^ t (1 min 01 s)"]


def test_sections_in_sections_and_two_marks_in_a_line() -> None:
    found = shown(
        start("a", 1, "A"), start("b", 2, "B", "[collapsed=true]"), start("c", 3, "C"), "x", end("c", 4), "y",
        end("b", 9) + start("d", 9, "D", "[hide_duration=true,collapsed=true]"), end("d", 9), end("a", 10),
    )  # fmt: skip
    assert found == ["v A", "> B (2 lines, 7.0 s)", "> D (0 lines, 0 ms)", "^ A (9.0 s)"]


def test_a_section_without_an_end_hides_nothing_in_silence() -> None:
    assert shown(start("a", 1, "A", "[collapsed=true]"), "x", "y") == ["> A (2 lines, without an end)"]


def test_other_text_and_an_end_without_a_beginning_stay() -> None:
    assert shown("section_start:1:a", end("b", 1), "", "x") == ["section_start:1:a", "", "x"]
    deep = shown(*(start(f"s{number}", 1) for number in range(MOST_DEEP * 2)), "x")
    assert (len(deep), deep[-1]) == (MOST_DEEP + 1, "x")


def test_a_section_goes_on_over_the_steps_of_a_job() -> None:
    lines: list[str] = []
    journal = Journal(
        run_id="1",
        now_ns=lambda: 10**18,
        masker=Masker(),
        sinks=[Screen(Look(stream=True), lines.append)],
    )
    scripts = [
        start("a", 100, "Install", "[collapsed=true]"), "in it", end("a", 160), "after", start("b", 1, "B", "[collapsed=true]")
    ]  # fmt: skip
    for number, text in enumerate(scripts):
        at = Where(scope="step", job_id="job", step=f"script/0{number}")
        with journal.span(at, PhaseCode.STEP_EXECUTE, {"command": f"run {number}"}) as outcome:
            writer = journal.writer(at)
            writer("stdout", f"{text}\n".encode())
            writer.close()
            outcome.status = Status.SUCCESS
    job = Where(scope="job", job_id="job")
    journal.fact(job, PhaseCode.JOB_CLEANUP, "job_finished", status=Status.SUCCESS, duration_ms=1000)
    for where in (job, RUN):
        journal.fact(where, PhaseCode.JOB_CLEANUP, "warning", {"text": "not removed\nremove it"})
    shown_lines = [line.removeprefix("job").strip() for line in lines]
    assert shown_lines == [
        "$ run 0", "│ ▸ Install (3 lines, 1 min 00 s)", "$ run 3", "│ after", "$ run 4", "│ ▸ B (0 lines, without an end)",
        "✓ job       passed in 1.0 s", "! job       not removed\n    remove it", "!           not removed\n    remove it",
    ]  # fmt: skip
