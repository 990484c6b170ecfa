# Before the driver, on this machine: the job's processes are those with the session's mark in their environment. `loom_dir` and
# `loom_own`, the mark, are set before it.

# signal
loom_signal_all() {
  loom_found=
  for loom_p in $(command -p grep -ls -e "$loom_own" /proc/[0-9]*/environ); do
    loom_p=${loom_p#/proc/}
    kill "-$1" "${loom_p%/environ}" && loom_found=1
  done 2>/dev/null
}

# Each round finds what was forked during the one before.
loom_kill_all() {
  loom_found=1
  for loom_line in 1 2 3 4 5 6 7 8 9 10; do
    [ -z "$loom_found" ] || loom_signal_all KILL
  done
}

loom_kill_rest() { loom_kill_all; }

loom_term_all() { loom_signal_all TERM; }

# loom is gone: nobody else removes what is here.
loom_gone() {
  loom_kill_all
  command -p rm -rf "$loom_dir"
}

loom_expose() { :; }

# The kernel counts for a control group, which is not the job's.
loom_count_refusals() {
  loom_ooms=0 loom_forks=0
}
