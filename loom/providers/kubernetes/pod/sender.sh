# One connection of loom to the pod's helper: sends what the driver prints, and takes the commands for the driver. Comments and
# blank lines are cut out before it is sent. It needs `sh`, `cat`, `date`, `sleep`, `wc` and `rm`.
#
# $1: the folder of the segments  $2: the FIFO of the driver's input  $3: a token, which marks what is not output
# $4, $5: the first segment of each stream to send from its beginning; 0: those that are written now
loom_spool=$1 loom_in=$2 loom_token=$3 loom_n_out=$4 loom_n_err=$5
umask 077
# The helper makes it last. Opened before, it would become a file that nobody reads.
until [ -p "$loom_in" ]; do sleep 0.05 || sleep 1; done 2>/dev/null
{ read -r loom_old <"$loom_spool/sender" && kill -KILL $loom_old; } 2>/dev/null
# What a shell says itself is no output.
exec 5<&0 6<>"$loom_spool/wake" 7>&2 2>/dev/null 9<>"$loom_in"

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
  printf '%s from %s %s\n' "$loom_token" "$loom_n" "$((loom_size))" >&7
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

# Stream, descriptor: send what is there, and wait for more. What is complete is looked up before it is read.
loom_open_out= loom_open_err= loom_polls=0
loom_send() {
  eval "loom_n=\$loom_n_$1 loom_open=\$loom_open_$1"
  [ "$loom_polls" != 0 ] || echo 1 >"$loom_spool/waits.$1"
  while [ -e "$loom_spool/$1.$loom_n" ]; do
    loom_whole=
    if [ -e "$loom_spool/$1.$((loom_n + 1))" ] || [ -e "$loom_spool/$1.end" ]; then loom_whole=1; fi
    [ -n "$loom_open" ] || { eval "exec $2<\"\$loom_spool/$1.$loom_n\"" && loom_open=1; }
    cat <&"$2"
    [ -n "$loom_whole" ] || break
    printf '%s done %s\n' "$loom_token" "$loom_n"
    eval "exec $2<&-"
    loom_n=$((loom_n + 1)) loom_open=
    [ "$loom_polls" = 0 ] || loom_polls=1
  done
  eval "loom_n_$1=\$loom_n loom_open_$1=\$loom_open"
  [ -e "$loom_spool/$1.end" ] && [ ! -e "$loom_spool/$1.$loom_n" ]
}

# Woken, except in a flood: then it looks often, and seldom when no segment has ended for 10 seconds.
loom_ended_out= loom_ended_err=
loom_send_out() { loom_send out 3 && loom_ended_out=1; }
loom_send_err() { loom_send err 4 >&7 && loom_ended_err=1; }
loom_send_out
loom_send_err
until [ "$loom_ended_out$loom_ended_err" = 11 ]; do
  if [ -s "$loom_spool/flood.out" ] || [ -s "$loom_spool/flood.err" ]; then
    loom_polls=$((loom_polls + 1))
    if [ "$loom_polls" -lt 100 ]; then loom_pause=0.1; else loom_pause=0.5; fi
    sleep "$loom_pause" 2>/dev/null || sleep 1
    loom_send_out
    loom_send_err
  elif [ "$loom_polls" != 0 ]; then
    loom_polls=0
    loom_send_out
    loom_send_err
  else
    read -r loom_line <&6
    read -r loom_old <"$loom_spool/sender"
    if [ "$loom_old" != "$$ $loom_taker" ]; then
      echo >&6
      exit 1
    fi
    [ -s "$loom_spool/waits.out" ] || loom_send_out
    [ -s "$loom_spool/waits.err" ] || loom_send_err
  fi
done
printf '%s end\n' "$loom_token"
printf '%s end\n' "$loom_token" >&7
kill -KILL "$loom_taker"
exit 0
