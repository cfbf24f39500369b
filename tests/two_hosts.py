"""Trains on two hosts, cuts the cable in mid-step, resumes, and compares the end with that of one host.

    python tests/two_hosts.py             # as root

The hosts are network namespaces of this machine, each with a name, an address, a loopback and an sshd of its own, and a
cable between them. They share the file system, as hosts that train together do. Once torchrun starts the processes, as
a user does on each host, and once DeepSpeed over ssh. Prints when each host ended and what it said, and fails where it
named nobody, or where a weight differs. Needs iproute2, and for DeepSpeed openssh-server and pdsh. Removes what it
made. Not a part of the tests: it takes minutes.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from kill_runs import ROOT, WORDS, completed

from densessl.backbone_file import load_backbone

HOSTS = {"alpha": "10.213.7.1", "beta": "10.213.7.2"}
PORT = "29411"  # of nobody else in the namespaces
TIMEOUT = 0.2  # minutes
STEPS, SAVE_EVERY, CUT_AFTER = 40, 10, 20
LONG = 180  # seconds
LONG_ENOUGH = 90  # from the cut on
BIN = Path(sys.executable).parent


def space(host: str) -> str:
    return f"densessl-{host}"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def on(host: str, command: list[str], log: Path, folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A command on a host, which has its own name, and keys for ssh where they belong."""
    inside = f'hostname {host}; mkdir -p ~/.ssh; mount --bind {folder}/ssh ~/.ssh; exec "$@"'
    with log.open("ab") as out:
        return subprocess.Popen(
            ["ip", "netns", "exec", space(host), "unshare", "--uts", "sh", "-c", inside, "sh", *command],
            cwd=ROOT,
            env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


@contextmanager
def hosts(folder: Path, ssh: bool) -> Iterator[None]:
    """The namespaces, their cable, their sshd."""
    keys = folder / "ssh"
    keys.mkdir(mode=0o700)
    with ExitStack() as made:
        for host in HOSTS:
            remove(host)  # what a killed one left
            of_netns = Path("/etc/netns") / space(host)
            of_netns.mkdir(parents=True)
            made.callback(remove, host)
            # As Debian writes it: a host's own name leads to its loopback.
            known = {"localhost": "127.0.0.1"} | HOSTS | {host: "127.0.1.1"}
            (of_netns / "hosts").write_text("".join(f"{address} {name}\n" for name, address in known.items()))
            ip("netns", "add", space(host))
        ip("link", "add", "alpha0", "netns", space("alpha"), "type", "veth", "peer", "beta0", "netns", space("beta"))
        for host, address in HOSTS.items():
            ip("-n", space(host), "addr", "add", f"{address}/24", "dev", f"{host}0")
            ip("-n", space(host), "link", "set", "lo", "up")
            ip("-n", space(host), "link", "set", f"{host}0", "up")
        if ssh:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / "id_ed25519"], check=True)
            shutil.copy(keys / "id_ed25519.pub", keys / "authorized_keys")
            (keys / "config").write_text(
                f"Host *\n  StrictHostKeyChecking accept-new\n  UserKnownHostsFile {keys}/known_hosts\n"
                "  ServerAliveInterval 5\n  LogLevel ERROR\n"
            )
            Path("/run/sshd").mkdir(exist_ok=True)
            for host in HOSTS:
                settings = (f"HostKey={keys}/id_ed25519", "PidFile=none", "UsePAM=no", "PermitRootLogin=yes")
                settings += (f"AuthorizedKeysFile={keys}/authorized_keys", "StrictModes=no")
                words = [word for setting in settings for word in ("-o", setting)]
                on(host, ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *words], folder / "sshd.log", folder, {})
        yield


def remove(host: str) -> None:
    """A host, with every process of it."""
    if (Path("/run/netns") / space(host)).exists():
        while pids := subprocess.check_output(["ip", "netns", "pids", space(host)], text=True).split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.1)
        ip("netns", "del", space(host))
    shutil.rmtree(Path("/etc/netns") / space(host), ignore_errors=True)


def commands(launcher: str, folder: Path) -> dict[str, list[str]]:
    """What a user types, and on which hosts."""
    if launcher == "deepspeed":
        (folder / "hosts").write_text("".join(f"{host} slots=1\n" for host in HOSTS))
        return {"alpha": ["deepspeed", "--hostfile", str(folder / "hosts"), "--master_port", PORT]}
    if launcher == "one host":
        return {"alpha": ["torchrun", "--nproc-per-node", "2", "--master-port", PORT]}
    end = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"alpha:{PORT}", "--rdzv-id", "two"]
    return {host: ["torchrun", "--nnodes", "2", "--nproc-per-node", "1", *end] for host in HOSTS}


def start(launcher: str, run: Path, log: Path, *more: str) -> dict[str, subprocess.Popen[bytes]]:
    words = ["tools/pretrain.py", *WORDS, "data.workers=1", f"steps={STEPS}", f"save_every={SAVE_EVERY}"]
    words += [f"timeout={TIMEOUT}", f"run={run}", *more]
    environment = {"DS_ENV_FILE": str(run.parent / "env")}
    (run.parent / "env").write_text("DS_ACCELERATOR=cpu\n")
    return {
        host: on(host, [*command, *words], log.with_name(f"{log.name}-{host}"), run.parent, environment)
        for host, command in commands(launcher, run.parent).items()
    }


def said(log: Path) -> str:
    return "".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(log.parent.glob(f"{log.name}-*")))


def to_end(launcher: str, run: Path, log: Path, *more: str) -> None:
    began = time.monotonic()
    for process in start(launcher, run, log, *more).values():
        assert process.wait(LONG) == 0, said(log)[-6000:]
    print(f"{launcher}: {' '.join(more) or 'trained'} to step {completed(run)} in {time.monotonic() - began:.0f} s")


def training(host: str) -> list[Path]:
    """The processes of training on a host, without the launcher's and the workers that load pictures."""

    def trains(process: Path) -> bool:
        return b"tools/pretrain.py" in (process / "cmdline").read_bytes().split(b"\0")[1:3]

    pids = subprocess.run(["ip", "netns", "pids", space(host)], capture_output=True, text=True).stdout.split()
    found = []
    for process in (Path("/proc") / pid for pid in pids):
        with suppress(OSError):
            parent = re.search(r"PPid:\s*(\d+)", (process / "status").read_text())
            if trains(process) and parent and not trains(Path("/proc") / parent[1]):
                found.append(process)
    return found


def alive(process: Path) -> bool:
    """Which is more than to wait for a launcher that hangs."""
    try:
        return bool((process / "cmdline").read_bytes())
    except OSError:
        return False


def cut(launcher: str, run: Path, log: Path) -> None:
    """Train until a state is saved, then cut the cable and see how both sides end."""
    processes = start(launcher, run, log)
    end = time.monotonic() + LONG
    while completed(run) < CUT_AFTER:
        assert time.monotonic() < end, said(log)[-6000:]
        assert all(process.poll() is None for process in processes.values()), said(log)[-6000:]
        time.sleep(0.01)
    here = {host: training(host) for host in HOSTS}
    assert all(len(found) == 1 for found in here.values()), here
    ip("-n", space("beta"), "link", "set", "beta0", "down")
    began, ended, left = time.monotonic(), dict[str, float](), dict[str, float]()
    while time.monotonic() < began + LONG_ENOUGH and (len(ended) < len(HOSTS) or len(left) < len(processes)):
        for host in HOSTS.keys() - ended.keys():
            if not alive(here[host][0]):
                ended[host] = time.monotonic() - began
        for host in processes.keys() - left.keys():
            if processes[host].poll() is not None:
                left[host] = time.monotonic() - began
        time.sleep(0.1)
    for host in HOSTS:
        print(
            f"{launcher}, cut after step {completed(run)}: {host}'s process ended {ended.get(host, -1):.1f} s later",
            end="",
        )
        print(f", its launcher after {left[host]:.1f} s, code {processes[host].returncode}" if host in left else "")
    text = said(log)
    for message in re.findall("densessl: process.*", text):
        print(f"  {message}")
    assert ended.keys() == HOSTS.keys(), f"{launcher}: {HOSTS.keys() - ended.keys()} goes on\n{text[-6000:]}"
    assert re.search(r"on alpha gives up .*process 1 on beta", text), text[-6000:]
    for host in HOSTS:
        for pid in [process.pid for name, process in processes.items() if name == host]:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
    ip("-n", space("beta"), "link", "set", "beta0", "up")


def same(run: Path, truth: Path) -> str:
    ours, whole = (load_backbone(folder / "backbone.safetensors").state_dict() for folder in (run, truth))
    if all(torch.equal(ours[key], value) for key, value in whole.items()):
        return "the same weights, bit for bit"
    return f"weights differ by up to {max((ours[key] - value).abs().max().item() for key, value in whole.items()):.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launchers", nargs="+", default=["torchrun", "deepspeed"], choices=["torchrun", "deepspeed"])
    args = parser.parse_args()
    needs = {"ip": "iproute2", "unshare": "util-linux"}
    if "deepspeed" in args.launchers:
        needs |= {"/usr/sbin/sshd": "openssh-server", "ssh": "openssh-client", "pdsh": "pdsh"}
    if missing := [package for program, package in needs.items() if not shutil.which(program)]:
        raise SystemExit(f"needs {', '.join(missing)}: apt-get install {' '.join(missing)}, or --launchers torchrun")
    if os.geteuid():
        raise SystemExit("needs root, to make network namespaces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that it cleans up
    with tempfile.TemporaryDirectory() as name, hosts(Path(name), "deepspeed" in args.launchers):
        folder, truth = Path(name), Path(name) / "truth"
        to_end("one host", truth, folder / "log-one")
        for launcher in args.launchers:
            whole, interrupted = folder / f"{launcher}-whole", folder / f"{launcher}-interrupted"
            to_end(launcher, whole, folder / f"log-{launcher}-whole")
            print(f"{launcher}: {same(whole, truth)} as one host")
            cut(launcher, interrupted, folder / f"log-{launcher}-cut")
            to_end(launcher, interrupted, folder / f"log-{launcher}-resumed", "--resume")
            print(f"{launcher}: after the cut and --resume, {same(interrupted, truth)} as one host", flush=True)


if __name__ == "__main__":
    main()
