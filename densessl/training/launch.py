"""How this process was launched: its name among all, its device, its threads. Nothing is connected here."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import psutil
import torch

from densessl.device import cores, gpu_is_used, keep_freed_memory
from densessl.errors import UserError

PLACE = {  # what torch.distributed needs of each process
    "RANK": "its number among all processes",
    "WORLD_SIZE": "how many they are",
    "LOCAL_RANK": "its number on its machine, 0 where each machine has one",
    "MASTER_ADDR": "the machine of process 0",
    "MASTER_PORT": "a free port there",
}
MPI = (  # rank, size, rank and size on the machine: of Open MPI; of MPICH and Intel MPI
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


def setup(threads: int | None = None) -> torch.device:
    """Name this process in the environment, choose its device, its number of CPU threads and what malloc keeps.

    The deepspeed launcher and torchrun have named it already; srun and mpirun have in their own words; plain python is
    one process. Opens no connection: that is the engine's first act. Raises UserError for a name that is not whole, and
    for more processes than GPUs on this machine.
    """
    by_number = "RANK" in os.environ  # which GPU: torchrun's and DeepSpeed's processes see all of them
    try:
        os.environ.update(_named(os.environ))
    except UserError:
        os.environ.pop("RANK", None)  # said by this process, whatever its number: others may be well
        raise
    local = int(os.environ["LOCAL_RANK"])
    if gpu_is_used():
        gpus = torch.cuda.device_count()
        if gpus == 1 and not by_number:  # srun gives each process its own, as number 0; NCCL refuses a shared one
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
    elif any(words[0] in os.environ for words in MPI):
        start = "mpirun ... python " if script else "mpirun ... "
    else:
        start = "deepspeed ... " if script else "deepspeed ... --module "
    return f"{start}{program} --resume {shlex.quote(str(run))}"


def told(env: Mapping[str, str]) -> dict[str, str]:
    """What the environment says of this process, in torch's words and maybe not whole; empty of plain python."""
    given = {name: env[name] for name in PLACE if env.get(name)}
    if len(given) == len(PLACE):
        return given
    known = _srun(env) or _mpirun(env)
    if "RANK" not in given:  # not another launcher inside: what a job's script exports for it is not meant
        return known | {name: value for name, value in given.items() if not known or name.startswith("MASTER_")}
    return {name: known[name] for name in PLACE if name in known} | given


def _named(env: Mapping[str, str]) -> dict[str, str]:
    """What torch.distributed needs. Raises UserError where something is missing."""
    place = told(env)
    if place.get("WORLD_SIZE") == "1" or not place.keys() & {"RANK", "WORLD_SIZE", "LOCAL_RANK"}:
        return alone() | (place if "RANK" in env else {})
    if missing := [name for name in PLACE if name not in place]:
        said = ", ".join(f"{name}={place[name]}" for name in PLACE if name in place)
        needed = ", ".join(f"{name} ({PLACE[name]})" for name in missing)
        raise UserError(f"{said}, but no {' and no '.join(missing)}: set {needed} in each process, or use torchrun")
    numbers = [place[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if not all(map(str.isdecimal, numbers)) or int(numbers[0]) >= int(numbers[1]):
        raise UserError(f"RANK={numbers[0]} WORLD_SIZE={numbers[1]} LOCAL_RANK={numbers[2]}: RANK counts from 0")
    return place


def _srun(env: Mapping[str, str]) -> dict[str, str]:
    """Of a task of srun, else nothing. The port follows from the job, so that jobs can share a machine.

    SLURM_NTASKS is the job's, which in a shell that salloc or srun opens is more than the step's.
    """
    if "SLURM_STEP_NODELIST" not in env:
        return {}
    nodes = re.match(r"(?:[^,\[]|\[[^\]]*\])+", env["SLURM_STEP_NODELIST"])  # n[01-04,7],gpu2 -> n[01-04,7]
    assert nodes is not None
    return {
        "RANK": env["SLURM_PROCID"],
        "WORLD_SIZE": env.get("SLURM_STEP_NUM_TASKS") or env["SLURM_NTASKS"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": re.split(r"\D", env.get("SLURM_STEP_TASKS_PER_NODE", "1"))[0],  # 4(x2),3 -> 4
        "MASTER_ADDR": re.sub(r"\[(\d+)[^\]]*\]", r"\1", nodes[0]),
        "MASTER_PORT": str(20000 + int(env["SLURM_JOB_ID"]) % 10000),
    }


def _mpirun(env: Mapping[str, str]) -> dict[str, str]:
    """Of a process of mpirun, else nothing. Where process 0 is it says only if all are on one machine."""
    for words in MPI:
        if words[0] in env:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
            place = {name: env[word] for name, word in zip(names, words, strict=True) if word in env}
            if place.get("WORLD_SIZE") == place.get("LOCAL_WORLD_SIZE"):
                place["MASTER_ADDR"] = "127.0.0.1"
                if "PMIX_NAMESPACE" in env:  # Open MPI's name of the job
                    place["MASTER_PORT"] = str(20000 + crc32(env["PMIX_NAMESPACE"].encode()) % 10000)
            return place
    return {}


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
