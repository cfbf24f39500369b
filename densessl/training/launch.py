"""How this process was launched: its name among all, its device, its threads. Nothing is connected here."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from densessl.device import cores, keep_freed_memory
from densessl.errors import UserError


def setup(threads: int | None = None) -> torch.device:
    """Name this process in the environment, choose its device, its number of CPU threads and what malloc keeps.

    The deepspeed launcher and torchrun have named it already; srun has in its own words; plain python is one process.
    Opens no connection: that is the engine's first act. Raises UserError for more processes than GPUs on this machine.
    """
    if "RANK" not in os.environ:
        os.environ.update(_srun(os.environ) if "SLURM_STEP_NODELIST" in os.environ else alone())
    local = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu":
        gpus = torch.cuda.device_count()
        if gpus == 1 and "SLURM_STEP_NODELIST" in os.environ:  # srun gave each process its own GPU, as number 0
            local, os.environ["LOCAL_RANK"] = 0, "0"
        if local >= gpus:
            raise UserError(
                f"process {local} of this machine has no GPU, there are {gpus}: start at most {gpus} processes"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        keep_freed_memory()
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    if int(os.environ["WORLD_SIZE"]) > processes_here() and (interface := _interface()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    _set_threads(threads)
    return device


def alone() -> dict[str, str]:
    """What torch.distributed needs of one process, which is all there are. The port is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def command_to_resume(run: Path) -> str:
    """What goes on with ``run`` as these processes were started: a command, or a line of Python in other programs.

    "..." are a launcher's options, of which the environment tells only the number of processes on one machine.
    """
    program = sys.argv[0]
    if Path(program).name not in ("pretrain.py", "densessl pretrain"):
        return f"densessl.pretrain(resume={str(run)!r})"
    script, processes = program.endswith(".py"), processes_here()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        options = f"--nproc_per_node {processes}" if os.environ["WORLD_SIZE"] == str(processes) else "..."
        start = f"torchrun {options} " if script else f"torchrun {options} -m "
    elif os.environ["WORLD_SIZE"] == "1":
        start = "python " if script else ""
    elif "SLURM_STEP_NODELIST" in os.environ:
        start = "srun ... python " if script else "srun ... "
    else:
        start = "deepspeed ... " if script else "deepspeed ... --module "
    return f"{start}{program} --resume {shlex.quote(str(run))}"


def _srun(env: Any) -> dict[str, str]:
    """What torch.distributed needs, from srun. The port follows from the job, so that jobs can share a machine."""
    nodes = re.match(r"(?:[^,\[]|\[[^\]]*\])+", env["SLURM_STEP_NODELIST"])  # n[01-04,7],gpu2 -> n[01-04,7]
    assert nodes is not None
    return {
        "RANK": env["SLURM_PROCID"],
        "WORLD_SIZE": env["SLURM_NTASKS"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": re.split(r"\D", env.get("SLURM_STEP_TASKS_PER_NODE", "1"))[0],  # 4(x2),3 -> 4
        "MASTER_ADDR": env.get("MASTER_ADDR") or re.sub(r"\[(\d+)[^\]]*\]", r"\1", nodes[0]),
        "MASTER_PORT": env.get("MASTER_PORT") or str(20000 + int(env["SLURM_JOB_ID"]) % 10000),
    }


def _interface() -> str | None:
    """The network interface that reaches the first machine, where gloo would choose one that reaches no other.

    It takes the address of the machine's own name, which on Debian and its like is one of the loopback.
    """
    with suppress(OSError):
        if not socket.gethostbyname(socket.gethostname()).startswith("127."):
            return None
    addresses = psutil.net_if_addrs()
    for goal in (os.environ["MASTER_ADDR"], "192.0.2.1"):  # from the first machine, whichever leads out
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((goal, 9))  # which sends nothing
            own = sender.getsockname()[0]
            for name in addresses:
                if not own.startswith("127.") and any(address.address == own for address in addresses[name]):
                    return name
    return None


def _set_threads(threads: int | None) -> None:
    """By default this machine's cores, shared among its processes: launchers leave each all of them, or one."""
    if threads is None and "OMP_NUM_THREADS" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return  # the user's; torchrun writes 1 there itself
    torch.set_num_threads(threads or max(1, cores() // processes_here()))


def processes_here() -> int:
    """How many of them this machine has."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
