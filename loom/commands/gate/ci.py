"""`loom gate ci`: a first job for a server's file, which tells the other jobs what has been shown already."""

from __future__ import annotations

import textwrap
from typing import Literal

from loom.commands.gate.attest import NOTES
from loom.commands.gate.signing import NAMESPACE, PAYLOAD, PREDICATE, STATEMENT, UNLIKE

SIGNERS = ".loom/signers"
"""The file with the people whose signatures count, in the target branch."""

# $COMMIT has the note, $BRANCH the file of signers, HEAD is what the server tests, which may be a merge. Every doubt prints
# nothing: no note, another tree, another ref, event or architecture, a signer whom the target branch does not name.
SHOWN = f"""\
set -u
cd "$(git rev-parse --show-toplevel)"
machine=$(uname -m) tree=$(git rev-parse 'HEAD^{{tree}}') t=$(mktemp -d)
git fetch -q --depth=1 origin "+refs/heads/$BRANCH:refs/loom/target" &&
  git show refs/loom/target:{SIGNERS} >"$t/signers" || exit 0
git fetch -q origin '+{NOTES}:{NOTES}' || exit 0
git notes --ref={NOTES} show "$COMMIT" 2>/dev/null | while IFS= read -r line; do
  printf %s "$line" | jq -r .payload | base64 -d >"$t/payload"
  printf %s "$line" | jq -r '.signatures[0].sig' | base64 -d >"$t/signature"
  {{ printf 'DSSEv1 {len(PAYLOAD)} {PAYLOAD} %d ' "$(wc -c <"$t/payload")" && cat "$t/payload"; }} >"$t/signed"
  who=$(ssh-keygen -Y find-principals -s "$t/signature" -f "$t/signers" | head -n 1)
  ssh-keygen -Y verify -n {NAMESPACE} -I "$who" -s "$t/signature" -f "$t/signers" <"$t/signed" >/dev/null || continue
  jq -r --arg tree "$tree" --arg machine "$machine" --arg event "$EVENT" --arg ref "$REF" '
    select(._type == "{STATEMENT}" and .predicateType == "{PREDICATE}")
    | select(any(.subject[]; .digest.gitTree == $tree)) | .predicate | select(.result == "PASSED")
    | select(any(.configuration[]; .name == "loom" and .annotations.event == $event and .annotations.ref == $ref
        and .annotations.{UNLIKE} == [] and .annotations.architecture == $machine))
    | .passedTests[]' "$t/payload"
done 2>/dev/null
"""
_GITHUB = """\
# A first job for .github/workflows/*.yml. Each job that may be left out then has:
#   needs: loom
#   if: ${{ !cancelled() && !contains(fromJSON(needs.loom.outputs.shown || '[]'), 'NAME OF THE JOB') }}
# The default branch and pull requests of forks run in full.
  loom:
    runs-on: ubuntu-latest
    if: >-
      ${{ github.event_name == 'push' && github.ref_name != github.event.repository.default_branch
      || github.event_name == 'pull_request' && github.event.pull_request.head.repo.full_name == github.repository }}
    permissions: {contents: read}
    outputs:
      shown: ${{ steps.shown.outputs.jobs }}
    steps:
      - uses: actions/checkout@v4
      - id: shown
        env:
          COMMIT: ${{ github.event.pull_request.head.sha || github.sha }}
          BRANCH: ${{ github.base_ref || github.event.repository.default_branch }}
          REF: ${{ github.head_ref && format('refs/heads/{0}', github.head_ref) || github.ref }}
          EVENT: ${{ github.event_name == 'pull_request' && 'merge_request' || github.event_name }}
        run: |
          cat >"$RUNNER_TEMP/shown" <<'END'
SCRIPT
          END
          echo "jobs=$(sh "$RUNNER_TEMP/shown" | jq -Rnc '[inputs]')" >>"$GITHUB_OUTPUT"
"""
_GITLAB = """\
# A first job for .gitlab-ci.yml. Each job that may be left out then has, as the first line of its script:
#   - !reference [.shown, script]
# and, if it has `needs`, one more: {job: loom, optional: true}. The default branch and merge requests of forks run in full.
.shown:
  script:
    - case "|${LOOM_SHOWN:-}|" in *"|$CI_JOB_NAME|"*) echo "$CI_JOB_NAME has passed on this tree before"; exit 0 ;; esac
loom:
  stage: .pre
  image: alpine
  rules:
    - if: $CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH
      when: never
    - if: $CI_MERGE_REQUEST_SOURCE_PROJECT_ID && $CI_MERGE_REQUEST_SOURCE_PROJECT_ID != $CI_PROJECT_ID
      when: never
    - if: $CI_COMMIT_BRANCH || $CI_MERGE_REQUEST_IID
  before_script: [apk add --no-cache git jq openssh-keygen]
  script:
    - export COMMIT="${CI_MERGE_REQUEST_SOURCE_BRANCH_SHA:-$CI_COMMIT_SHA}" EVENT="${CI_PIPELINE_SOURCE%_event}"
    - export REF="refs/heads/${CI_MERGE_REQUEST_SOURCE_BRANCH_NAME:-$CI_COMMIT_BRANCH}"
    - export BRANCH="${CI_MERGE_REQUEST_TARGET_BRANCH_NAME:-$CI_DEFAULT_BRANCH}"
    - |
      cat >/tmp/shown <<'END'
SCRIPT
      END
    - echo "LOOM_SHOWN=$(sh /tmp/shown | tr '\\n' '|')" >loom.env
  artifacts: {reports: {dotenv: loom.env}}
"""


def gate_ci(server: Literal["github", "gitlab"]) -> None:
    form, indent = (_GITHUB, 10) if server == "github" else (_GITLAB, 6)
    print(form.replace("SCRIPT\n", textwrap.indent(SHOWN, " " * indent)), end="")
