"""``ports resource``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import click

from ports import jobs
from ports.cli.after_boot import tell_after_boot
from ports.cli.commands import Group
from ports.cli.options import Number
from ports.cli.output import Output, Row, undone_if_interrupted, with_host, with_output
from ports.cli.resource_notify import notify
from ports.cli.session_commands import NAME, add_session_commands
from ports.probe import size

_NOUN: Any = SimpleNamespace(list=jobs.list_resources, get=jobs.get_resource, logs=jobs.resource_logs)


def in_words(row: Row) -> str:
    """Return what a resource does, in a line: ``3 jobs run, 12 wait``."""
    counts = row.get("counts") or {}
    running, waiting = counts.get("running") or 0, counts.get("pending") or 0
    parts = [f"{running} job{'' if running == 1 else 's'} run{'s' if running == 1 else ''}"] if running else []
    parts += [f"{waiting} wait{'s' if waiting == 1 else ''}"] if waiting else []
    text = ", ".join(parts) if running else f"{parts[0]}" if parts else "no jobs"
    return f"{text}; it begins no more (`ports resource resume` lets it)" if row.get("draining") else text


def readable(row: Row) -> dict[str, Any]:
    """Return what `show` shows to people: numbers in words, and no list of slots."""
    queues = [f"{one['name']}: {one['running']} run, {one['pending']} wait" for one in row.get("queues") or ()]
    slots = [one for one in row.get("slots") or () if not str(one["slot"]).startswith("job-")]
    has, cluster, version = row.get("capacity") or {}, row.get("cluster") or {}, row.get("version")
    parts = [f"{has['cpus']:g} cpus", size(has["memory"])] if has else []
    parts += [f"{len(has['gpus'])} gpus"] if has.get("gpus") else []
    reason = f" ({cluster['reason']})" if cluster.get("reason") else ""
    said = {
        "queues": ", ".join(queues) or "empty",
        "slots": f"{len(slots)}, {sum(one['n_jobs'] > 0 for one in slots)} at work",
        "capacity": ", ".join(parts),
        "cluster": f"{cluster.get('state')}{reason}",
        "memory": size(row.get("memory")),
    }
    if row.get("notice_failed"):
        said["last notice"] = str(row["notice_failed"])
    kept = {
        name: value
        for name, value in row.items()
        if name not in ("n_running", "n_pending", "n_slots", "running", "notice_failed")
    }
    return {**kept, **(said if version else {}), **({"files": files_of(files)} if (files := row.get("files")) else {})}


def files_of(files: Row) -> str:
    """Return in words what the files of jobs take on the disk."""
    least = "" if files["is_all"] else "more than "
    return f"{least}{size(files['bytes'])} in {files['directory']}, where {size(files['free_bytes'])} are free"


def show_details(out: Output, row: Row) -> None:
    """Show everything about a resource."""
    out.details(row if out.as_json else readable(row))


def show_one(out: Output, row: Row) -> None:
    """Show a resource that was started or changed."""
    at_boot = row.get("at_boot")
    if at_boot is False:
        out.result(row, f"the compute resource does not start after a boot{out.there()}")
        return
    if at_boot:
        out.say(f"the compute resource starts after each boot{out.there()}")
    out.result(row, f"the compute resource is {row['state']}{out.there()}: {in_words(row)}")


@click.group(cls=Group)
@click.pass_context
def resource(context: click.Context) -> None:
    """The compute resource of a machine, which runs jobs."""
    tell_after_boot(context)


@resource.command()
@click.option("--timeout", type=Number(0, whole=False), help="Seconds to wait for the start.")
@click.option(
    "--at-boot/--no-at-boot", default=None, help="Also start it after each boot; the second form ends only that."
)
@with_output
@with_host(show_one, starts=True)
def start(out: Output, timeout: float | None, at_boot: bool | None) -> None:
    """Start the compute resource. Jobs that wait from before go on."""
    if at_boot is not None:
        jobs.start_at_boot(at_boot)
    told = {} if at_boot is None else {"at_boot": at_boot}
    if at_boot is False:
        show_one(out, {"kind": "resource", "name": "jobs", **told})
    elif at_boot and (running := [one for one in jobs.list_resources() if one.state == "running"]):
        show_one(out, {**running[0].row(), **told})
    else:
        started = jobs.start_resource(timeout=timeout)
        with undone_if_interrupted(started):
            show_one(out, {**started.row(), **told})


@resource.command()
@with_output
@with_host(show_one)
def drain(out: Output) -> None:
    """Let the jobs that run end, and begin no more until `resume`."""
    found = jobs.get_resource()
    found.drain()
    show_one(out, found.row())


@resource.command()
@with_output
@with_host(show_one)
def resume(out: Output) -> None:
    """Begin jobs again after `drain`."""
    found = jobs.get_resource()
    found.resume()
    show_one(out, found.row())


add_session_commands(
    resource,
    _NOUN,
    what="the compute resource",
    list_help="List the compute resource of this machine, or of each HOST.",
    show_help="Show the jobs, the slots and the cluster of the compute resource.",
    stop_help="Stop the compute resource.",
)


resource.add_command(notify)


@resource.command()
@NAME
@with_output
@with_host(show_details)
def show(out: Output, name: str | None) -> None:
    """Show the jobs, the slots and the cluster of the compute resource."""
    show_details(out, {**jobs.get_resource(name).row(), "files": jobs.kept_files()})


def show_stopped(out: Output, row: Row) -> None:
    """Show that a resource was stopped."""
    waits = "jobs that wait stay in the queue; `ports resource start` goes on with them"
    out.result(row, f"the compute resource is stopped{out.there()}; {waits}; its log: {row['log']}")


@resource.command()
@NAME
@click.option("--wait", is_flag=True, help="Let the functions that run end first, and begin no more.")
@click.option("--now", is_flag=True, help="End the functions that run; they begin again at the next start.")
@click.option("--force", is_flag=True, help="Also forget one of which nothing can be known from here.")
@with_output
@with_host(show_stopped, patience="within")  # how long functions take, nobody knows
def stop(out: Output, name: str | None, wait: bool, now: bool, force: bool) -> None:
    """Stop the compute resource and its cluster. Jobs that wait stay; scripts that run go on."""
    found = jobs.get_resource(name)
    found.stop(wait=wait, now=now, force=force)
    show_stopped(out, {"kind": "resource", "name": found.name, "state": "stopped", "log": str(found.log)})
