"""Run a Slurm cluster of one node on loopback, with its own files and daemons (Debian's `slurm-wlm` and `munge`)."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from support.limits import HANG_SECONDS

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
SETTINGS = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
KillWait=30
MinJobAge=3600
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def is_installed() -> bool:
    return os.geteuid() == 0 and all(shutil.which(name, path=search_path()) for name in PROGRAMS)


def search_path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin"


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start the daemons, and yield the environment variables for `sbatch` and the other commands."""
    folder.mkdir(parents=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    port, node_port = free_port(), free_port()
    text = SETTINGS.format(host=host, folder=folder, port=port, node_port=node_port, cpus=os.cpu_count())
    (folder / "slurm.conf").write_text(text)
    (folder / "cgroup.conf").write_text("IgnoreSystemd=yes\n")
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": search_path()}
    options = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log"}
    munged = [f"--{name}={folder / file}" for name, file in (options | {"seed-file": "munged.seed"}).items()]
    daemons = []
    try:
        for command in (["munged", "--foreground", "--force", *munged], ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (folder / f"{command[0]}.out").open("w") as output:
                daemons.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
            time.sleep(0.5)
        wait_until_idle(environment, folder)
        yield environment
    finally:
        end_jobs(environment)
        for daemon in reversed(daemons):
            daemon.kill()  # the cluster's files are temporary
            daemon.wait()


def end_jobs(environment: dict[str, str]) -> None:
    """Cancel all jobs and wait until their processes have ended, because no daemon would end them later."""
    subprocess.run(["scancel", "--user=root"], env=environment, check=False)
    limit = time.monotonic() + HANG_SECONDS
    command = ["squeue", "--noheader"]
    while subprocess.run(command, env=environment, capture_output=True, check=False).stdout:
        if time.monotonic() > limit:
            return
        time.sleep(0.2)


def wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    limit = time.monotonic() + HANG_SECONDS
    command = ["sinfo", "--noheader", "--format=%t"]
    while (states := subprocess.run(command, env=environment, capture_output=True, text=True)).stdout.strip() != "idle":
        if time.monotonic() > limit:
            logs = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in sorted(folder.glob("*.log")))
            raise AssertionError(f"the node is not idle: {states.stdout}{states.stderr}\n{logs}")
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
