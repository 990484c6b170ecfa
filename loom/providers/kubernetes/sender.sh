# One connection of loom to the pod's helper: sends what the driver prints, and takes the commands for the driver. Comments and
# blank lines are cut out before it is sent. It needs `sh`, `cat`, `sleep`, `date`, `wc` and `rm`.
#
# $1: the folder of the segments  $2: the FIFO of the driver's input  $3: a token, which marks what is not output
# $4, $5: the first segment of each stream to send from its beginning; 0: those that are written now
loom_spool=$1 loom_in=$2 loom_token=$3 loom_n_out=$4 loom_n_err=$5
umask 077
{ read -r loom_old <"$loom_spool/sender" && kill -KILL $loom_old; } 2>/dev/null
exec 5<&0 9<>"$loom_in"

loom_current() {
  loom_n=1
  for loom_p in "$loom_spool/$1".[0-9]*; do
    loom_p=${loom_p##*.}
    [ "$loom_p" -gt "$loom_n" ] 2>/dev/null && loom_n=$loom_p
  done
  loom_size=$(wc -c <"$loom_spool/$1.$loom_n") || loom_size=0
}
if [ "$loom_n_out" = 0 ]; then
  loom_current out
  loom_n_out=$loom_n
  printf '%s from %s %s\n' "$loom_token" "$loom_n" "$((loom_size))"
  loom_current err
  loom_n_err=$loom_n
  printf '%s from %s %s\n' "$loom_token" "$loom_n" "$((loom_size))" >&2
fi

# A line a word: `a STREAM N` takes a segment for done, `h S` lets the pod live S seconds on, `c N TEXT` is the driver's.
loom_take() {
  read -r loom_received <"$loom_spool/received"
  printf '%s got %s\n' "$loom_token" "$loom_received"
  while IFS= read -r loom_line; do
    case $loom_line in
      c\ *)
        loom_text=${loom_line#c }
        loom_number=${loom_text%% *}
        [ "$loom_number" = $((loom_received + 1)) ] || continue
        printf '%s\n' "${loom_text#* }" >&9
        loom_received=$loom_number
        echo "$loom_received" >"$loom_spool/received"
        ;;
      a\ *)
        set -- $loom_line
        rm -f "$loom_spool/$2.$3"
        echo "$3" >"$loom_spool/room.$2"
        ;;
      h\ *)
        echo $(($(date +%s) + ${loom_line#h })) >"$loom_spool/lease"
        printf '%s got %s\n' "$loom_token" "$loom_received"
        ;;
    esac
  done
  kill "$$"
}
loom_take <&5 &
loom_taker=$!
echo "$$ $loom_taker" >"$loom_spool/sender"
exec 5<&-

# Stream, descriptor. What is complete is looked up before it is read. A file that has changed is read again for more than a
# second, because some shells compare times by the second; only what is found to have changed moves the mark.
loom_open_out= loom_open_err=
loom_send() {
  eval "loom_n=\$loom_n_$1 loom_open=\$loom_open_$1"
  while [ -e "$loom_spool/$1.$loom_n" ]; do
    loom_file=$loom_spool/$1.$loom_n loom_whole=
    [ -n "$loom_open" ] || { eval "exec $2<\"\$loom_file\"" && loom_open=40; }
    if [ -e "$loom_spool/$1.$((loom_n + 1))" ] || [ -e "$loom_spool/$1.end" ]; then loom_whole=1; fi
    if [ -n "$loom_whole" ] || [ "$loom_file" -nt "$loom_spool/seen.$1" ]; then
      loom_open=40 loom_quiet=0
      : >"$loom_spool/seen.$1"
    elif [ "$loom_open" = 0 ]; then
      break
    else
      loom_open=$((loom_open - 1))
    fi
    cat <&"$2"
    [ -n "$loom_whole" ] || break
    printf '%s done %s\n' "$loom_token" "$loom_n"
    eval "exec $2<&-"
    loom_n=$((loom_n + 1)) loom_open=
  done
  eval "loom_n_$1=\$loom_n loom_open_$1=\$loom_open"
  [ -e "$loom_spool/$1.end" ] && [ ! -e "$loom_spool/$1.$loom_n" ]
}

loom_quiet=0
while :; do
  loom_quiet=$((loom_quiet + 1)) loom_ends=
  loom_send out 3 && loom_ends=1
  if loom_send err 4 >&2 && [ -n "$loom_ends" ]; then
    printf '%s end\n' "$loom_token"
    printf '%s end\n' "$loom_token" >&2
    kill -KILL "$loom_taker"
    exit 0
  fi
  # Often while something happens, seldom after a long silence.
  if [ "$loom_quiet" -lt 200 ]; then loom_pause=0.03; elif [ "$loom_quiet" -lt 600 ]; then loom_pause=0.1; else loom_pause=0.5; fi
  sleep "$loom_pause" 2>/dev/null || sleep 1
done
