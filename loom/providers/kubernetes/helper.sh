# The main process of the container beside the job's. Comments and blank lines are cut out before it is put into the pod.
# It needs `sh`, `mkfifo`, `dd`, `wc`, `sleep`, `date` and `mv`.
#
# The driver's streams are FIFOs, which this container and the job's share. What the driver prints is written to files here,
# segment by segment, until loom has taken it: a connection may break at any byte. When as many segments as may wait are
# full, the job waits.
#
# $1: the folder of the FIFOs  $2: a folder of this container's own  $3: seconds that the pod lives without loom
# $4: how many segments may wait; 0: any number
loom_io=$1 loom_spool=$2 loom_lease=$3 loom_most=$4
trap 'exit 143' TERM
umask 077
mkdir -p "$loom_spool"
mkfifo "$loom_spool/room.out" "$loom_spool/room.err"
exec 7<>"$loom_spool/room.out" 8<>"$loom_spool/room.err"
echo 0 >"$loom_spool/received"
echo $(($(date +%s) + loom_lease)) >"$loom_spool/lease"
umask 0
mkfifo "$loom_io/out" "$loom_io/err" "$loom_io/new"
exec 9<>"$loom_io/new"

# A segment ends when it has 2 MiB, and has less than 4: it is written in parts of at most 2 MiB, which end after 128 reads.
# It is complete when the next one exists, or the end.
loom_pump() {
  loom_n=1 loom_gone=0
  while :; do
    while [ "$loom_most" != 0 ] && [ $((loom_n - loom_gone)) -gt "$loom_most" ]; do read -r loom_gone <&"$2"; done
    loom_size=0
    while [ "$loom_size" -lt 2097152 ]; do
      dd bs=16384 count=128 >>"$loom_spool/$1.$loom_n" 2>/dev/null
      loom_before=$loom_size loom_size=$(($(wc -c <"$loom_spool/$1.$loom_n")))
      [ "$loom_size" != "$loom_before" ] || break 2
    done
    loom_n=$((loom_n + 1))
  done
  : >"$loom_spool/$1.end"
}
loom_pump out 7 <"$loom_io/out" &
loom_pump err 8 <"$loom_io/err" &
# Last, since the job waits for it.
mv "$loom_io/new" "$loom_io/in"

while :; do
  sleep 5 &
  wait $!
  read -r loom_until <"$loom_spool/lease" || continue
  [ "$(date +%s)" -gt "$loom_until" ] || continue
  # To whatever reads the input: the watcher of a step, or the driver.
  printf 'kill\nok\nexit 154\n' >&9 &
  sleep 5
  exit 0
done
