# Beside a command in a container: ends it with everything that it started. Comments and blank lines are cut out before it
# is sent. It needs a POSIX shell and nothing else in the image: every command below but `sleep` is a builtin.
#
# $1: the file with the command's process id. Its input has one word a line: a signal (`TERM`), one for the command alone
# (`onlyUSR1`), `rest` or `ok`. An input that ends without `ok` means that loom is gone.
loom_file=$1 loom_p= loom_found=' ' loom_due=

# The command, its session, and their descendants; what was found once stays, since a parent may end before its child.
loom_look() {
  [ -n "$loom_p" ] || { read -r loom_p <"$loom_file"; } 2>/dev/null
  [ -n "$loom_p" ] || return 1
  loom_more=1 loom_new=
  case $loom_found in *" $loom_p "*) ;; *) loom_found="$loom_found$loom_p " loom_new=1 ;; esac
  while [ -n "$loom_more" ]; do
    loom_more=
    for loom_stat in /proc/[0-9]*/stat; do
      { read -r loom_line <"$loom_stat"; } 2>/dev/null || continue
      loom_pid=${loom_line%% *}
      case $loom_found in *" $loom_pid "*) continue ;; esac
      set -- ${loom_line##*") "}
      [ "$1" = Z ] && continue
      case "$4 $loom_found" in "$loom_p "* | *" $2 "*) loom_found="$loom_found$loom_pid " loom_more=1 loom_new=1 ;; esac
    done
  done
}

loom_signal() {
  loom_due=$1
  loom_look || return
  loom_due=
  for loom_pid in $loom_found; do
    kill "-$1" "$loom_pid" 2>/dev/null
  done
}

# Each round finds what was forked during the one before.
loom_kill() {
  loom_signal KILL
  loom_new=1 loom_rounds=xxxxxxxxxx
  while [ -n "$loom_new" ] && [ -n "$loom_rounds" ]; do
    loom_rounds=${loom_rounds#x}
    loom_signal KILL
  done
}

while read -r loom_word; do
  case $loom_word in
    ok) exit 0 ;;
    KILL) loom_kill ;;
    # For the command alone, which may go on.
    only*) loom_look && kill "-${loom_word#only}" "$loom_p" 2>/dev/null ;;
    # The command itself has ended: what it left has no more time.
    rest) if [ -n "$loom_due" ]; then loom_signal "$loom_due"; elif [ ! -d "/proc/$loom_p" ]; then loom_kill; fi ;;
    *) loom_signal "$loom_word" ;;
  esac
done
loom_signal HUP
sleep 1 2>/dev/null
loom_kill
