# loom's driver: the main process of a job's container, or of a job on this machine. Comments and blank lines are cut out before
# it is sent. container.sh or host.sh stands before it: what it signals, where its files are, what the kernel counts.
#
# It reads commands from its standard input, one on each line, and runs one step at a time in a fresh shell. It
# needs a POSIX shell and nothing else in the image: every command below is a builtin. What it says itself is marked with
# a token that loom made for this one occasion and that no step has seen.
#
#   driver (this shell) -- reports how a step ended, and outlives it
#     |- watcher        -- while a step runs: reads the input; its end means that loom is gone
#     `- guard          -- the step's parent, there to be killed instead of the driver
#          `- the step's shell
#
# Steps that share a shell: watcher | guard with the shell | reporter. The watcher writes what it receives to the shell's
# standard input; the reporter reads what the shell and its guard report, and marks the end of each step.
unset loom_token loom_script loom_settings loom_n loom_code loom_watcher loom_line loom_me loom_p loom_uid loom_gid loom_rest
unset loom_shared loom_ooms loom_forks loom_word loom_count loom_spare loom_over loom_more
exec 5<&0 </dev/null
loom_nl='
'
loom_n=0
loom_shared=
loom_over=
loom_signals='HUP INT QUIT PIPE ALRM TERM USR1 USR2'
# Ignored, so that neither a step's `kill 0` nor a signal to process 1 ends the job; a step's shell gets the defaults back.
trap '' $loom_signals
# Watchdog that stops a container no client has connected to.
{ kill "$loom_boot" && wait "$loom_boot"; } 2>/dev/null
unset loom_boot loom_s

# A mark goes out in one write, so that nothing else that writes to the same pipe can get into it.
loom_mark() {
  printf '%s %s\n' "$1" "$2" >&2
  printf '%s %s\n' "$1" "$2"
}

# What steps inherit from here, an `entrypoint` of the workflow included, as shell text: for commands that the engine starts
# beside the driver. No process is made for it.
loom_write_surroundings() {
  {
    export -p
    printf 'umask '
    umask
    for loom_p in c d f n s t v; do
      printf 'ulimit -S -%s ' "$loom_p"
      ulimit -S "-$loom_p"
      printf 'ulimit -H -%s ' "$loom_p"
      ulimit -H "-$loom_p"
    done
  } >"$loom_dir/surroundings" 2>/dev/null
}

# Of a kept container: the driver before this one, which is stopped and holds the container alive.
loom_greeting() {
  loom_spare=
  { read -r loom_spare <"$loom_dir/kept"; } 2>/dev/null
  loom_uid=? loom_gid=? loom_more=
  while read -r loom_line loom_me loom_rest; do
    case $loom_line in
      Uid:) loom_uid=$loom_me ;;
      Gid:) loom_gid=$loom_me ;;
      Groups:) for loom_p in $loom_me $loom_rest; do loom_more=$loom_more$loom_p,; done ;;
    esac
  done 2>/dev/null </proc/self/status
  loom_write_surroundings
  loom_count_refusals
  loom_word=-
  if [ -z "${loom_no_bash-}" ] && command -v bash >/dev/null 2>&1; then
    loom_word=bash
  elif (set -o pipefail) 2>/dev/null; then
    loom_word=pipefail
  fi
  # Which user of the machine root is here.
  loom_p=0
  { read -r loom_line loom_p loom_rest </proc/self/uid_map; } 2>/dev/null
  loom_mark "$1" "$loom_uid $loom_gid $loom_ooms $loom_forks $loom_word ${loom_more:--} ${loom_p:-0} ${PATH:--}"
}

loom_watch() {
  while IFS= read -r loom_line; do
    case $loom_line in
      ok) exit 0 ;;
      term) loom_term_all ;;
      kill)
        loom_kill_all
        [ -z "$loom_shared" ] || exit 0
        ;;
      close) exec >&- ;;
      loom_stay) loom_stay ;;
      loom_next\ * | loom_go\ *) eval "$loom_line" ;;
    esac
  done
  # By a signal that nothing else here ends by: whoever is still there learns that it was the connection, not the job. First,
  # or the driver reports its guard's death as the step's.
  kill -26 "$$"
  loom_kill_all
  loom_gone
}

# script, its file. Not by `:`, which is a special builtin: what it can't write to would end this shell. A FIFO would stop it.
loom_give() {
  [ ! -p "$loom_dir/env" ] && [ ! -p "$loom_dir/mask" ] && { printf '%s' "$1" >"$2" && printf '' >"$loom_dir/env" && printf '' >"$loom_dir/mask" && { [ ! -s "$loom_dir/ended" ] || printf '' >"$loom_dir/ended"; }; } 2>/dev/null
}

# What the driver knows of a step that has ended: each line that it wrote to one of the files beside $LOOM_ENV, marked with the
# file's letter (REPORTED of protocol.py).
loom_tell() {
  printf '%s %s\n' "$loom_token" "$1" >&2
  for loom_p in -mask =env !ended ppath ooutput vsaved ssummary; do
    loom_word=${loom_p#?}
    [ -s "$loom_dir/$loom_word" ] && [ "$1 $loom_p" != '0 !ended' ] || continue
    while IFS= read -r loom_line || [ -n "$loom_line" ]; do
      printf '%s%s\n' "$loom_token${loom_p%"$loom_word"}" "$loom_line"
    done <"$loom_dir/$loom_word"
  done
  loom_count_refusals
  loom_time
  printf '%s %s\n' "$loom_token" "$1 $loom_ooms $loom_forks${loom_took-}${2:+ $2}"
}

# token, script, settings (shell text that exports the step's variables), file of the step, the shell and its arguments
loom_step() {
  loom_token=$1 loom_script=$2 loom_settings=$3
  if ! loom_give "$loom_script" "$4"; then
    loom_say 1
    printf '%s %s\n' "$loom_token" -1 >&2
    printf '%s %s\n' "$loom_token" '-1 0 0'
    return
  fi
  shift 4
  loom_watch <&5 >/dev/null 2>&1 &
  loom_watcher=$!
  # The shell says "Killed" on its standard error when a child is; the step's own goes round that by 4.
  {
    loom_code=$(
      (
        trap - $loom_signals
        unset loom_token loom_script SHLVL
        loom_expose
        eval "$loom_settings"
        exec "$@"
      ) </dev/null >&3 2>&4 3>&- 4>&- 5<&-
      printf '%s' "$?"
    )
  } 3>&1 4>&2 2>/dev/null
  if [ -z "$loom_code" ]; then
    loom_code=137
    loom_kill_rest
  fi
  loom_say "$loom_code"
  loom_tell "$loom_code"
  unset loom_token loom_script loom_settings
  wait "$loom_watcher" 2>/dev/null
}

# script, its file, what the shared shell reads next
loom_next() {
  if loom_give "$1" "$2"; then
    printf '%s\n' "$3" 2>/dev/null
  else
    printf '%s %s\n' "$loom_token" -1 >&4
    printf '%s %s\n' "$loom_token" '-1 0 0 goes_on' >&3
  fi
}

loom_report() {
  while read -r loom_word loom_code; do
    [ "$loom_word" = n ] || { loom_tell "$loom_code" && loom_say "$loom_code" && exit 0; }
    loom_tell "$loom_code" goes_on
    loom_say "$loom_code" goes_on
  done
  loom_tell 137
  loom_say 137
}

# token, settings, the shell and its arguments. It is over with a mark of its own, after which nothing else has this token.
loom_share() {
  loom_token=$1 loom_settings=$2 loom_shared=1
  shift 2
  (umask 077 && printf '' >>"$loom_dir/state") 2>/dev/null
  {
    loom_watch <&5 2>/dev/null | {
      (
        trap - $loom_signals
        unset loom_token SHLVL
        loom_expose
        eval "$loom_settings"
        exec "$@"
      ) 8>&1 >&3 2>&4 3>&- 4>&- 5<&-
      printf 'x %s\n' "$?"
    } 2>/dev/null | loom_report >&3 2>&4 || loom_kill_rest
  } 3>&1 4>&2
  loom_count_refusals
  printf '%s.\n' "$loom_token" >&2
  printf '%s.%s\n' "$loom_token" "137 $loom_ooms $loom_forks"
  unset loom_token loom_settings
  loom_shared=
}

# Of steps that were handed over (detached.sh): when one began and ended, and what comes after its end.
loom_time() { :; }
loom_say() { :; }

# token, path, content with \0 escapes
loom_put() {
  (umask 077 && printf '%b' "$3" >"$2") 2>/dev/null
  loom_mark "$1" "$?"
}

# From here on the input may close; the container stays until it is removed.
loom_keep() {
  [ -n "$loom_spare" ] || printf '%s\n' "$$" >"$loom_dir/kept"
  loom_mark "$1" 0
  [ -z "$loom_spare" ] || exit 0
  exec 5<&-
  [ "$$" = 1 ] || kill -STOP "$$"
  while :; do sleep 60; done
}

# The last command: when it is answered, nothing that the driver may signal runs any more. The input closes next.
loom_quit() {
  loom_kill_rest
  loom_over=1
  loom_mark "$1" 0
}

# loom sends this when it has seen the end of a step. It is for the watcher; after the watcher has ended, nothing happens.
ok() { :; }
term() { :; }

while IFS= read -r loom_line <&5; do
  eval "$loom_line"
done
[ -n "$loom_over" ] || { loom_gone; exit 154; }
exit 0
