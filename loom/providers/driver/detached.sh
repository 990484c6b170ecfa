# A part of the driver, for steps that are handed over to it: it says itself what loom would say next, so that they go on
# while loom is away. For containers whose driver can write to its own input. Comments and blank lines are cut out before it
# is sent.

# Forget what was handed over.
loom_reset() {
  loom_at=0 loom_last=0 loom_failed=0 loom_after= loom_began=0
  : >/run/loom/stay
  : >/run/loom/handed
}

# when, a command: to do it after what was handed over before. m: what is before it succeeded; 0, 1: in any case, and all of `m`
# did (not); s0, s1: the same, in a shared shell.
loom_later() {
  loom_last=$((loom_last + 1))
  eval "loom_when_$loom_last=\$1 loom_later_$loom_last=\$2"
}

# Loom is there and decides what comes next.
loom_stay() {
  echo 1 >/run/loom/stay
}

# The exit code of what has ended: do what is next.
loom_go() {
  [ ! -s /run/loom/stay ] || return 0
  loom_time
  eval "loom_when=\${loom_when_$loom_at-}"
  [ "$loom_when" != m ] || [ "$1" = 0 ] || loom_failed=1
  loom_hand_on
  while [ "$loom_at" -lt "$loom_last" ]; do
    loom_at=$((loom_at + 1))
    eval "loom_when=\$loom_when_$loom_at loom_line=\$loom_later_$loom_at"
    case $loom_failed$loom_when:$loom_shared in
      0m: | "$loom_failed$loom_failed": | "${loom_failed}s$loom_failed":1)
        eval "$loom_line"
        return
        ;;
    esac
  done
}

# The end of a step is the beginning of the next one in a shared shell. In seconds of the machine's clock.
loom_time() {
  loom_took=" $loom_began"
  { read -r loom_began loom_rest </proc/uptime; } 2>/dev/null && loom_took="$loom_took $loom_began"
}

# The end of a step, with its exit code; `goes_on` if the shared shell takes another one.
loom_say() {
  [ ! -s /run/loom/stay ] || return 0
  if [ -z "${2-}" ]; then
    printf 'ok\nloom_go %s\n' "$1" >&5
  elif [ "$1" = 0 ] || [ -n "$loom_after" ]; then
    printf 'loom_go %s\n' "$1" >&5
  else
    printf 'close\n' >&5
  fi
}

# What a step has appended to $LOOM_ENV, as shell text for those after it.
loom_hand_on() {
  loom_end=
  while IFS= read -r loom_line || [ -n "$loom_line" ]; do
    if [ -n "$loom_end" ]; then
      if [ "$loom_line" = "$loom_end" ]; then
        loom_export && loom_end=
      else
        loom_value=$loom_value${loom_p:+$loom_nl}$loom_line loom_p=1
      fi
      continue
    fi
    loom_name=${loom_line%%[!A-Za-z0-9_]*}
    loom_value=${loom_line#"$loom_name"}
    case $loom_name:$loom_value in
      :* | [0-9]*) ;;
      *:'<<'[!\ ]*) loom_end=${loom_value#'<<'} loom_value= loom_p= ;;
      *:=*) loom_value=${loom_value#=} && loom_export ;;
    esac
  done
  [ -z "$loom_end" ] || loom_export
} 2>/dev/null </run/loom/env >>/run/loom/handed

loom_export() {
  loom_word=
  while :; do
    case $loom_value in
      *\'*) loom_word=$loom_word${loom_value%%\'*}"'\\''" loom_value=${loom_value#*\'} ;;
      *) break ;;
    esac
  done
  printf "export %s='%s'\n" "$loom_name" "$loom_word$loom_value"
}

loom_reset
