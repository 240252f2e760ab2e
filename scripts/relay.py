"""A link between two network namespaces, those of two processes, on which everything takes a time: each end is a network device of
this program (Documentation/networking/tuntap in Linux), which holds what comes from one and then hands it to the other.

Arguments: two processes, the name of the device on both ends, seconds.
"""

import collections
import contextlib
import ctypes
import fcntl
import os
import pathlib
import select
import struct
import sys
import time

# linux/if_tun.h: TUNSETIFF, TUNSETOFFLOAD; IP packets, nothing before them but what the other end needs to know of segments that
# are still one, as hundreds of thousands of packets a second would be too many.
SET_DEVICE, SET_OFFLOAD = 0x400454CA, 0x400454D0
TUN, NO_PACKET_INFORMATION, SEGMENTS = 0x0001, 0x1000, 0x4000
CHECKSUMS, TCP4 = 0x01, 0x02
LARGEST = 1 << 17


def end(process: int, name: str) -> int:
    """A device in the namespace of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    with pathlib.Path(f"/proc/{process}/ns/net").open() as namespace:
        if libc.setns(namespace.fileno(), 0):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace of {process}")
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, SET_DEVICE, struct.pack("16sH22x", name.encode(), TUN | NO_PACKET_INFORMATION | SEGMENTS))
    fcntl.ioctl(device, SET_OFFLOAD, CHECKSUMS | TCP4)
    return device


def carry(source: int, target: int, seconds: float) -> None:
    """What comes from one end, in its order, to the other one."""
    held: collections.deque[tuple[float, bytes]] = collections.deque()
    while True:
        wait = held[0][0] - time.monotonic() if held else None
        if wait is None or wait > 0:
            if select.select([source], [], [], wait)[0]:
                held.append((time.monotonic() + seconds, os.read(source, LARGEST)))
        else:
            # Nobody listens before the device is up.
            with contextlib.suppress(OSError):
                os.write(target, held.popleft()[1])


def main(first: str, second: str, name: str, seconds: str) -> None:
    one, other = (end(int(process), name) for process in (first, second))
    print(flush=True)
    if os.fork():
        carry(one, other, float(seconds))
    else:
        carry(other, one, float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
