"""What people see of a job with workflow commands and summaries: on the screen, in the report."""

from loom.analysis.html_report.page import page
from loom.render.look import Look
from loom.render.screen import Screen
from tests.unit.runner.conftest import Make

from .plans import job, run, step


def test_commands_are_shown_as_on_github_and_summaries_are_in_the_report(make: Make) -> None:
    lines: list[str] = []
    ran = run(
        make,
        job(
            "one",
            step(
                "echo '::group::Inner'; echo text; echo '::endgroup::'; echo '::add-mask::hidden-1'; echo '::debug::d'\n"
                "printf '# Done\\n<script>alert(1)</script> ![i](http://e/i) [l](javascript:x)\\n' >>$GITHUB_STEP_SUMMARY",
                name="First of ${{ job.status }}",
            ),
            step("echo '::error file=a.py,line=3::bad <b>'; echo '::error::two%0Alines'; exit 1", name="Second"),
        ),
        code=1,
        sinks=[Screen(Look(stream=True, unicode=False), lines.append)],
    )
    text = "\n".join(lines)
    assert f"\n1 step summary: loom report {ran.reading.run_id}\nfailed in " in text
    assert "one      | v Inner\none      | text\none      Second: $ echo" in text
    assert "First of success: $ echo" in text
    assert "step script/02 (Second), exit code 1 (ci.yml:2)" in text
    assert "\n    | Error: bad <b> (a.py:3)\n    | Error: two\n    | lines\n" in text
    assert "::" not in "".join(line for line in lines if "$ echo" not in line and "printf" not in line)
    report = page(ran.reading)
    assert "<h1>Done</h1>\n<p>&lt;script&gt;alert(1)&lt;/script&gt; !<a" in report
    assert "<strong>script/02 Second</strong>" in report
    assert "summary of First of success" in report
    assert "javascript:x" not in report.replace("[l](javascript:x)", "")
    assert '<td>a.py:3</td><td class="error">bad &lt;b&gt;</td>' in report
