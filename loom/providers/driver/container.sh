# Before the driver, in a container: it has the process namespace for itself.
loom_dir=/run/loom

# What the kernel has counted here: the number behind a word, in the first of the files that is there.
loom_counted() {
  loom_word=$1 loom_count=0
  shift
  for loom_p in "$@"; do
    [ -r "$loom_p" ] || continue
    while read -r loom_line loom_me; do
      [ "$loom_line" = "$loom_word" ] && loom_count=$loom_me
    done <"$loom_p"
    return
  done 2>/dev/null
}

# How many processes it has killed for want of memory, which the engine itself does not notice everywhere, and how many it
# has not let be made since there were as many as there may be.
loom_count_refusals() {
  loom_counted oom_kill /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control
  loom_ooms=$loom_count
  loom_counted max /sys/fs/cgroup/pids.events /sys/fs/cgroup/pids/pids.events
  loom_forks=$loom_count
}

# Of a step's shell: where memory runs out, the kernel prefers it and its children to the driver.
loom_expose() {
  read -r loom_p </proc/self/oom_score_adj && printf '%s\n' "$((loom_p + 100))" >/proc/self/oom_score_adj
} 2>/dev/null

# Everything in the container but process 1, the driver and the caller. Losing its guard is what tells the driver to go on.
loom_kill_all() {
  read -r loom_me loom_rest </proc/self/stat
  for loom_p in /proc/[0-9]*; do
    loom_p=${loom_p##*/}
    case $loom_p in
      1 | "$$" | "$loom_me" | "$loom_spare") ;;
      *) kill -KILL "$loom_p" ;;
    esac
  done 2>/dev/null
}

loom_kill_rest() {
  if [ -n "$loom_spare" ]; then loom_kill_all; else kill -KILL -1 2>/dev/null; fi
}

loom_term_all() {
  kill -TERM -1 2>/dev/null
}

# loom is gone: the container ends with the driver.
loom_gone() { :; }
