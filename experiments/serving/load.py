"""Measure the latency and the throughput of `imdbcls.serve`, with and without batching.

    python experiments/serving/load.py runs/quickstart/cls-s0-1a2b3c4d --output experiments/serving/load.json

Each client sends one review per request. It sends the next review after it receives the answer. Two servers run at the
same time, one with and one without batching. They are measured in turn, so that other work on the machine affects both.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from httpx2 import AsyncClient, Limits

OPTIONS = {"batching": [], "no batching": ["--batch-size", "1", "--batch-wait", "0"]}
CLIENTS = (1, 8, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=10, help="duration of a measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    reviews = files("imdbcls.data.sample").joinpath("test.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in reviews]
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(started(arguments.run, options)) for name, options in OPTIONS.items()}
        urls = {name: str(server.stdout.readline()).strip() for name, server in servers.items() if server.stdout}
        stack.callback(lambda: [server.terminate() for server in servers.values()])
        for _ in range(arguments.repeats):
            for clients in CLIENTS:
                for name, server in servers.items():
                    measured = asyncio.run(measure(urls[name], server.pid, texts, clients, arguments.seconds))
                    found.setdefault((name, clients), []).append(measured)
                    print(f"{name}, {clients} clients: {measured}", file=sys.stderr)
    rows = [
        {"server": name, "clients": clients} | {key: median(each[key] for each in measured) for key in measured[0]}
        for (name, clients), measured in sorted(found.items(), key=lambda item: (item[0][1], item[0][0]))
    ]
    print(table(rows))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps({"rows": rows, "repeats": arguments.repeats}, indent=1) + "\n")


def started(run: Path, options: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "imdbcls.serve", str(run), "--port", "0", "--timeout", "600", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def measure(url: str, pid: int, texts: list[str], clients: int, seconds: float) -> dict[str, float]:
    """Return percentiles of the latency in milliseconds, requests per second, and the server's CPU time per request."""
    latencies: list[float] = []
    process = psutil.Process(pid)
    async with AsyncClient(base_url=url, timeout=600, limits=Limits(max_connections=clients)) as client:
        before, start = sum(process.cpu_times()[:2]), time.perf_counter()

        async def ask(number: int) -> None:
            while time.perf_counter() - start < seconds:
                text = texts[(number + clients * len(latencies)) % len(texts)]
                sent = time.perf_counter()
                (await client.post("/predict", json={"texts": text})).raise_for_status()
                latencies.append(1000 * (time.perf_counter() - sent))

        await asyncio.gather(*map(ask, range(clients)))
        elapsed = time.perf_counter() - start
        cpu = sum(process.cpu_times()[:2]) - before
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99]).round(1)
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "requests_per_second": round(len(latencies) / elapsed, 1),
        "cpu_ms_per_request": round(1000 * cpu / len(latencies), 1),
    }


def table(rows: list[dict[str, float]]) -> str:
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows)])


if __name__ == "__main__":
    main()
