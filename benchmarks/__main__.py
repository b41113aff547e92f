"""``scripts/bench [--runs N] [--json FILE] [--markdown] [NAME …]``."""

from __future__ import annotations

import argparse
import compileall
import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import (
    cache,
    clusters,
    comms,
    fairness,
    job_commands,
    jobs,
    lab,
    links,
    page_jobs,
    page_jupyter,
    page_paint,
    page_start,
    watching,
    who,
)
from benchmarks.commands import PACKAGE
from benchmarks.measure import RUNS, Result

BENCHMARKS = {**clusters.BENCHMARKS, **comms.BENCHMARKS, **fairness.BENCHMARKS, **lab.BENCHMARKS, **links.BENCHMARKS}
BENCHMARKS |= {
    **who.BENCHMARKS,
    **watching.BENCHMARKS,
    **cache.BENCHMARKS,
    **jobs.BENCHMARKS,
    **job_commands.BENCHMARKS,
    **page_jupyter.BENCHMARKS,
    **page_paint.BENCHMARKS,
    **page_jobs.BENCHMARKS,
    **page_start.BENCHMARKS,
}
JOBS_RUNS = 3  # unless others are asked for: most of these rows start processes, or fill queues and disks
#: All rows about jobs by one name.
JOBS = (*cache.BENCHMARKS, *jobs.BENCHMARKS, *job_commands.BENCHMARKS, "job-remote", "job-send")
PACKAGES = ("dask", "distributed", "tornado", "jupyterlab", "click")


def machine() -> dict[str, Any]:
    """Return the properties of the machine that the figures depend on, and nothing that names it."""
    ssh = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr.split(",")[0].strip()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    versions = {package: metadata.version(package) for package in PACKAGES}
    versions |= {"python": platform.python_version(), "ssh": ssh, "kernel": platform.release()}
    return {"cores": os.cpu_count(), "memory_gib": round(pages / 2**30), "versions": versions}


def busy_seconds() -> float:
    """Return for how long all processors of the machine together have worked since it started."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run, print a line for each row, and exit with 1 if an aim was missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure ports against named peers.")
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(BENCHMARKS))
    parser.add_argument("--runs", type=int, help=f"rounds of each pair; default {RUNS}, all-jobs {JOBS_RUNS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--markdown", action="store_true", help="print rows for docs/benchmarks.md, with load and CPU")
    parser.add_argument("--names", dest="show", action="store_true", help="list the benchmarks")
    arguments = parser.parse_args()
    runs = arguments.runs
    if "all-jobs" in arguments.names:
        arguments.names, runs = list(JOBS), JOBS_RUNS if runs is None else runs
    runs = RUNS if runs is None else runs
    if arguments.show:
        print("\n".join((*BENCHMARKS, "all-jobs")))
        return
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown or runs < 1:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}" if unknown else "--runs")
    compileall.compile_dir(PACKAGE, quiet=1)  # as an installer does; a checkout can have stale byte code
    results: list[Result] = []
    load = os.getloadavg()[0]
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, load {load:.1f} on {os.cpu_count()} cores", file=sys.stderr)
    for name in arguments.names or BENCHMARKS:
        begun = busy_seconds()
        for result in BENCHMARKS[name](runs):
            told = dataclasses.replace(result, load=os.getloadavg()[0], cpu=busy_seconds() - begun)
            print(told.markdown() if arguments.markdown else told.line(), flush=True)
            results.append(told)
    if arguments.json:
        document = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "load_before": load}
        document |= {"load_after": os.getloadavg()[0], "results": [result.row() for result in results]}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    sys.exit(0 if all(result.aim.is_met(result.value) for result in results) else 1)


if __name__ == "__main__":
    main()
