"""How the processes that torchrun started find each other, each with its device.

torch's store and process group do the work; here are their arguments, and the error when they fail.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from datetime import timedelta
from time import monotonic, sleep

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from ..errors import DistributedError, EnvironmentProblem, UsageError
from . import backends
from .launch import Place
from .watch import Watch

JOIN = 45.0  # seconds that all processes have to join in


def backend(place: Place, device: str) -> str:
    """torch's name of the backends; on GPUs each process gets its own as the current device."""
    if device == "cpu" or not torch.cuda.is_available():
        return "gloo"
    if device not in ("auto", "cuda"):
        raise UsageError(
            f"--device ({device}): each process takes the GPU of its own number. Use cuda or cpu."
        )
    if place.local_world > torch.cuda.device_count():
        raise EnvironmentProblem(
            f"--nproc-per-node ({place.local_world}): only {torch.cuda.device_count()} GPU(s) are "
            "visible, and each process needs one. Start fewer, or use --device cpu."
        )
    torch.cuda.set_device(place.local_rank)
    return "cpu:gloo,cuda:nccl"


def join(place: Place, backend: str) -> tuple[Store, Watch]:
    """Join the process group; return a store for the group's own keys, and its watch."""
    if place.local_world == place.world and "GLOO_SOCKET_IFNAME" not in os.environ:
        # One machine: gloo listens on the loopback, not on the network. torch has no other way.
        loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
        os.environ.update({"GLOO_SOCKET_IFNAME": loopback[0]} if loopback else {})
    limit = timedelta(seconds=JOIN)
    try:
        store, rank, world = next(rendezvous("env://", timeout=limit))
        start = agree_on_start(store, rank, world)
        mine, its = (
            PrefixStore(f"{start}/fasttrain", each)
            for each in (store, TCPStore(place.host, place.port, timeout=limit))
        )
        watch = Watch(its, rank, world)
        dist.init_process_group(
            backend,
            store=PrefixStore(start, store),
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=backends.PATIENCE),
        )
        backends.set_time_limit()
    except (RuntimeError, ValueError, TimeoutError) as error:
        first = str(error).splitlines()[0]
        raise DistributedError(
            f"process group ({place.address}): rank {place.rank} of {place.world} cannot join: "
            f"{first}. See that all processes run and that the port is free."
        ) from None
    return mine, watch


def agree_on_start(store: Store, rank: int, world: int) -> str:
    """Return a name for this start of the group that no earlier start had; all processes agree.

    torchrun 2.13 keeps one store through its restarts, with the addresses of dead processes in it.
    So each process writes a random number, and rank 0 writes a list of the numbers it finds, and a
    new list whenever one changes, until all processes have confirmed the same list. Raises
    TimeoutError, which names the missing ranks.
    """
    mine, until, missing = secrets.token_hex(4), monotonic() + JOIN, [0]
    store.set(f"hello/{rank}", mine)
    while monotonic() < until:
        if rank == 0:
            call = ",".join(_get(store, f"hello/{each}") for each in range(world))
            store.set("call", call)
            missing = [each for each in range(1, world) if _get(store, f"here/{each}") != call]
            if not missing:
                store.set(_start(call), "")
                return _start(call)
        elif mine in (call := _get(store, "call")).split(",")[rank : rank + 1]:
            store.set(f"here/{rank}", call)
            if store.check([_start(call)]):
                return _start(call)
        sleep(0.05)
    raise TimeoutError(f"no answer from rank {', '.join(map(str, missing))} in {JOIN:.0f} s")


def _get(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _start(call: str) -> str:
    return "start-" + hashlib.sha256(call.encode()).hexdigest()[:16]
