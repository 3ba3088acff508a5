#!/usr/bin/env bash
# A SLURM of one machine, for tests: Debian's packages slurm-wlm and munge, without systemd, cgroups and accounting.
#
#     tests/support/slurm/cluster.sh start FOLDER    all that it writes lies in FOLDER; then:
#     export SLURM_CONF=FOLDER/slurm.conf PATH=FOLDER/bin:$PATH
#     tests/support/slurm/cluster.sh stop FOLDER     ends its jobs and its daemons
#
# It has 4 processors and 24 GB to give away, whatever the machine has: these tests see who runs when, not the work.
set -euo pipefail
[ $# = 2 ] || { sed -n 2,8p "$0"; exit 2; }
PATH=$PATH:/usr/sbin:/sbin

start() {
    mkdir -p "$1/state" "$1/spool" "$1/bin"
    cd "$1"
    folder=$PWD host=$(hostname -s) user=$(id -un)
    read -r controller_port node_port < <(python3 -c 'import socket
free = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(server.getsockname()[1] for server in free))')
    (umask 077 && head -c 128 /dev/urandom > munge.key)
    # --force: a folder under /tmp is good enough for a key that lives as long as a test.
    munged --force --num-threads=2 --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
        --seed-file="$folder/munge.seed" --log-file="$folder/munged.log" --pid-file="$folder/munged.pid" 2> munged.err
    cat > slurm.conf <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# cred_expire is also how long a requeued job waits before it may start again.
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/jobs.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=2
# Finished jobs can be asked about for as long as a test may take.
MinJobAge=3600
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=2,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=24000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE
CONF
    echo 'CgroupAutomount=no' > cgroup.conf
    export SLURM_CONF=$folder/slurm.conf
    # Snakemake's executor clears SLURM_CONF before it calls srun, which looks in /etc then.
    printf '#!/bin/sh\nSLURM_CONF="${SLURM_CONF:-%s}" exec "%s" "$@"\n' "$SLURM_CONF" "$(command -v srun)" > bin/srun
    chmod +x bin/srun
    slurmctld
    slurmd
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --format=%T 2> sinfo.err || true)" != idle ] || return 0
        sleep 0.2
    done
    echo "SLURM did not start: see $folder/*.log" >&2
    for log in ./*.log; do tail -n 5 "$log" >&2; done
    stop "$folder"
    return 1
}

stop() {
    cd "$1"
    export SLURM_CONF=$PWD/slurm.conf
    timeout 10 scancel --user="$(id -un)" 2> /dev/null || true
    for _ in $(seq 50); do
        [ -n "$(timeout 10 squeue --noheader 2> /dev/null)" ] || break
        sleep 0.2
    done
    for daemon in slurmd slurmctld munged; do
        [ -s $daemon.pid ] || continue
        process=$(cat $daemon.pid)
        kill "$process" 2> /dev/null || continue
        for _ in $(seq 50); do
            [ -e $daemon.pid ] || continue 2
            sleep 0.1
        done
        kill -9 "$process" 2> /dev/null || true
    done
}

case $1 in
    start | stop) "$1" "$2" ;;
    *) sed -n 2,8p "$0"; exit 2 ;;
esac
