#!/usr/bin/env bash
# A real SLURM of one machine, for trying launcher=slurm out and for its tests. As root, with Debian's slurm-wlm and munge:
#
#   scripts/local_slurm.sh start DIR     starts munged, slurmctld and slurmd with all their files in DIR
#   export SLURM_CONF=DIR/slurm.conf     then sinfo, sbatch and resexp sweep launcher=slurm find it
#   scripts/local_slurm.sh stop DIR      ends the jobs, then the three daemons by their process ids
#
# CPUS (default: all cores) is what jobs may take together. The partition is called debug.
set -euo pipefail
usage() { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -eq 2 ] || usage
command=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
export SLURM_CONF=$dir/slurm.conf

start() {
  local missing=""
  for program in munged slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || missing="$missing $program"
  done
  if [ -n "$missing" ]; then
    echo "local_slurm: no$missing here: apt-get install slurm-wlm munge" >&2
    exit 2
  fi
  export PATH=$PATH:/usr/sbin
  mkdir -p "$dir"/{state,spool,log}
  local host cpus memory
  host=$(hostname -s)
  cpus=${CPUS:-$(nproc)}
  memory=$(awk '/MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)
  head -c 1024 /dev/urandom >"$dir/munge.key"
  chmod 400 "$dir/munge.key"
  chmod 755 "$dir"
  cat >"$SLURM_CONF" <<CONF
ClusterName=resexp
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURMCTLD_PORT:-26817}
SlurmdPort=${SLURMD_PORT:-26818}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
KillWait=10
MinJobAge=600
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus Boards=1 SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=$memory State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
    --log-file="$dir/log/munged.log" --seed-file="$dir/munge.seed"
  slurmctld -c
  slurmd
  for _ in $(seq 60); do
    if [ "$(sinfo -h -o %t 2>/dev/null | head -1)" = idle ]; then
      echo "SLURM with $cpus cores is up. To use it: export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.5
  done
  echo "local_slurm: it did not come up in 30 seconds; see $dir/log" >&2
  stop
  exit 1
}

stop() {
  [ -f "$SLURM_CONF" ] && scancel --user="$(id -un)" 2>/dev/null && sleep 1
  for name in slurmd slurmctld munged; do
    if [ -f "$dir/$name.pid" ]; then
      local pid
      pid=$(cat "$dir/$name.pid")
      kill "$pid" 2>/dev/null || true
      for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
      kill -9 "$pid" 2>/dev/null || true
      rm -f "$dir/$name.pid"
    fi
  done
}

case $command in
  start) start ;;
  stop) stop ;;
  *) usage ;;
esac
