# Completion of loom's commands, options, jobs and runs in bash. The wheel installs it; loom itself computes the answers.
_loom_completion() {
  local IFS=$'\n'
  mapfile -t COMPREPLY < <(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" _LOOM_COMPLETE=complete_bash "$1")
}
complete -o default -F _loom_completion loom
