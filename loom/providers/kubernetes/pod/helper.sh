# The main process of the container beside the job's. Comments and blank lines are cut out before it is put into the pod.
# It needs `sh`, `mkfifo`, `dd`, `wc`, `sleep`, `date` and `mv`.
#
# The driver's streams are FIFOs, which this container and the job's share. What the driver prints is written to files here,
# segment by segment, until loom has taken it: a connection may break at any byte. When as many segments as may wait are
# full, the job waits.
#
# $1: the folder of the FIFOs  $2: a folder of this container's own  $3: seconds that the pod lives without loom
# $4: how many segments may wait; 0: any number  $5: a small volume, where the pod has services; empty: none
loom_io=$1 loom_spool=$2 loom_lease=$3 loom_most=$4 loom_full=$5
trap 'exit 143' TERM
umask 077
mkdir -p "$loom_spool"
mkfifo "$loom_spool/room.out" "$loom_spool/room.err" "$loom_spool/wake"
exec 6<>"$loom_spool/wake" 7<>"$loom_spool/room.out" 8<>"$loom_spool/room.err"
for loom_p in waits flood; do
  : >"$loom_spool/$loom_p.out"
  : >"$loom_spool/$loom_p.err"
done
echo 0 >"$loom_spool/received"
echo $(($(date +%s) + loom_lease)) >"$loom_spool/lease"
umask 0
mkfifo "$loom_io/out" "$loom_io/err" "$loom_io/new"
exec 9<>"$loom_io/new"

# Wake the sender, if it waits for this stream. It says so before it looks whether there is more, so nothing is missed. By one
# byte, which two readers can't share.
loom_wake() {
  [ -s "$loom_spool/waits.$1" ] || return 0
  : >"$loom_spool/waits.$1"
  echo >&6
}

# A segment ends when it has 2 MiB, and has less than 3. It is complete when the next one exists, or the end. A flood is read
# several times by one `dd`; `flood` tells the sender that it is not woken for each. After a small read the pipe collects for a
# moment: a job that prints line by line costs no process for each.
loom_pump() {
  loom_n=1 loom_gone=0 loom_reads=1
  while :; do
    while [ "$loom_most" != 0 ] && [ $((loom_n - loom_gone)) -gt "$loom_most" ]; do read -r loom_gone <&"$2"; done
    loom_size=0
    while [ "$loom_size" -lt 2097152 ]; do
      dd bs=65536 count="$loom_reads" >>"$loom_spool/$1.$loom_n" 2>/dev/null
      loom_got=$(($(wc -c <"$loom_spool/$1.$loom_n") - loom_size))
      [ "$loom_got" != 0 ] || break 2
      loom_size=$((loom_size + loom_got))
      if [ "$loom_got" = $((loom_reads * 65536)) ]; then
        [ "$loom_reads" != 1 ] || echo 1 >"$loom_spool/flood.$1"
        loom_reads=8
      elif [ "$loom_reads" != 1 ]; then
        loom_reads=1
        : >"$loom_spool/flood.$1"
      fi
      loom_wake "$1"
      [ "$loom_got" -ge 4096 ] || sleep 0.03 2>/dev/null
    done
    loom_n=$((loom_n + 1))
  done
  : >"$loom_spool/$1.end"
  : >"$loom_spool/flood.$1"
  loom_wake "$1"
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
  # Nothing here reaches the processes of services. The kubelet ends a pod with a volume above its limit.
  if [ -n "$loom_full" ]; then
    dd if=/dev/zero of="$loom_full/full" bs=65536 count=64 2>/dev/null
    sleep 600
  fi
  exit 0
done
