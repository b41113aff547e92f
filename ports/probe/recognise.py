"""What a listener is, from command lines, Jupyter's records and those of `ports`."""

import errno
import json
import os
import re
import sys
import time

if __name__ != "__main__":  # piped, these names are there already
    from .files import own_text
    from .identity import link_of, read_bytes, stat_of
    from .records import SESSION_KINDS
    from .sockets import is_socket_of

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional, Sequence, Set, Tuple  # noqa: F401 - in comments

    Json = Dict[str, Any]

# Patterns of a command line without its interpreter, see `words_of`; the first one that matches counts.
KINDS = (
    ("sshd", r"sshd.* \[listener\]|sshd -|sshd$"),
    (
        "tunnel",
        r"(ssh|autossh|sshd(-session)?|mosh-server)\b|ports (open|tunnel)\b|(-c .*)?ports\.tunnels\.keeper\b",
    ),
    ("page", r"ports page\b|-c .*ports\.web\._serve\b"),
    ("kernel", r"ipykernel|\S+ .*kernel-[\w-]+\.json"),
    (
        "notebook",
        r"jupyter[-.]?(hub-singleuser|hub\.singleuser|labhub|lab|notebook|server|nbclassic)\b"
        r"|(notebook|nbclassic|jupyter_server|batchspawner-singleuser)\b"
        r"|jupyter(-server)? (lab|notebook|server|nbclassic)\b",
    ),
    ("debugpy", r"adapter --for-server\b|debugpy\.adapter --for-server\b"),
    ("tensorboard", r"tensorboard(\.main)?\b"),
    ("mlflow", r"mlflow\b|(gunicorn|uvicorn)\b.* mlflow\.server"),
    ("bokeh", r"bokeh serve\b"),
    ("panel", r"panel serve\b"),
    ("streamlit", r"streamlit\b"),
    ("dask_scheduler", r"dask[- ]scheduler\b|distributed\.cli\.dask_scheduler"),
    ("dask_worker", r"dask[- ](cuda[- ])?worker\b|dask[- ]spec\b|distributed\.cli\.dask_(worker|spec)"),
    ("code_server", r"(open)?(vs)?code-server|code tunnel|node \S*(code-server|server-main\.js|vscode-server)"),
    ("rstudio", r"rserver|rsession"),
    ("http_server", r"http\.server|SimpleHTTPServer"),
    ("database", r"postgres|redis-server|mongod|mysqld|mariadbd|slurm|munged"),
)
COMPILED = []  # type: List[Any]
INTERPRETER = re.compile(r"(python|pypy)[\d.]*(\.exe)?$")
HUB = re.compile(r"hub[-.]?singleuser|labhub|batchspawner-singleuser")
RUNTIME = re.compile(r"--\w+\.runtime_dir=(.+)")
WEB = {
    "notebook",
    "tensorboard",
    "mlflow",
    "bokeh",
    "panel",
    "streamlit",
    "code-server",
    "rstudio",
    "http-server",
    "page",
}
SPAWNED = re.compile(r"multiprocessing\.(spawn|forkserver)")
NEVER_ASKED = WEB | {"sshd", "tunnel", "kernel", "debugpy", "database", "cluster"}


def words_of(argv: "List[str]") -> str:
    """Return the program and first words of a command line without its interpreter: ``jupyter lab --port=8888``."""
    words = list(argv)
    if words and INTERPRETER.match(os.path.basename(words[0])):
        del words[0]
        while words and words[0].startswith("-"):
            option = words.pop(0)
            if option in ("-X", "-W") and words:
                del words[0]
            elif re.match(r"-[A-Za-z]*m$", option):
                break
            elif re.match(r"-[A-Za-z]*c$", option):
                words.insert(0, "-c")
                break
    if not words:
        return ""
    program = words[0] if " " in words[0] else os.path.basename(words[0])  # "sshd: alice@pts/0" is no path
    return " ".join([program, *words[1:12]])


def kind_of(argv: "List[str]", port: "Optional[int]") -> str:
    """Return the kind of listener that a command line starts."""
    words = words_of(argv)
    if not COMPILED:  # 5 ms, which only users with a listener pay
        COMPILED.append(re.compile("|".join("(?P<%s>%s)" % pair for pair in KINDS)))
    found = COMPILED[0].match(words)
    kind = (found.lastgroup or "").replace("_", "-") if found else "listener"
    if kind != "kernel":
        return kind
    files = [word for word in argv if re.search(r"kernel-[^/]*\.json$", word)]
    try:
        known = json.loads(read_bytes(files[0]).decode()) if files else {}
        ports = [known.get(name + "_port") for name in ("shell", "iopub", "stdin", "control", "hb")]
    except (ValueError, AttributeError):
        return kind
    return kind if port in ports else "listener"  # such as a dashboard that a notebook started in its kernel


def describe(rows: "List[Json]") -> "Dict[int, List[int]]":
    """Fill in what the process table has on each row's process; return the ancestors of each pid, nearest first."""
    booted = time.time() - time.clock_gettime(7) if sys.platform == "linux" else 0.0  # 7 is CLOCK_BOOTTIME
    ticks = os.sysconf("SC_CLK_TCK") if sys.platform == "linux" else 1
    stats = {}  # type: Dict[int, Optional[Tuple[str, int, int]]]
    ancestors = {}  # type: Dict[int, List[int]]
    for row in rows:
        pid = row["pid"]
        if pid is None:
            row.update(argv=[], cwd=None, started_at=None)
            continue
        if pid not in ancestors:
            chain = [pid]
            while chain[-1] > 1:
                if chain[-1] not in stats:
                    stats[chain[-1]] = stat_of(chain[-1])
                found = stats[chain[-1]]
                # Windows keeps the number of a dead parent, and can give it to another process, even a descendant
                chain.append(found[1] if found and found[1] not in chain else 0)
            ancestors[pid] = chain[1:]
        if "argv" not in row:
            started = stats.get(pid)
            row["argv"] = argv_of(pid)
            row["started_at"] = round(booted + started[2] / ticks, 1) if started else None
            row["cwd"] = link_of("/proc/%d/cwd" % pid)
            row["job"] = job_of(pid)
        row["kind"] = kind_of(row["argv"], row["port"])
    return ancestors


def argv_of(pid: int) -> "List[str]":
    """Return the command line of a process."""
    return read_bytes("/proc/%d/cmdline" % pid, once=True).decode("utf-8", "surrogateescape").split("\0")[:-1]


def job_of(pid: int) -> "Optional[str]":
    """Return the id of the job that started a process of this user; None if none did."""
    for one in read_bytes("/proc/%d/environ" % pid, once=True).split(b"\0"):
        if one.startswith(b"PORTS_JOB="):
            return one[10:].decode("ascii", "replace")
    return None


def without_other_sockets(rows: "List[Json]", known: "Set[str]", uid: int) -> "List[Json]":
    """Return the rows without Unix sockets that are neither `known` pages nor held by a notebook server."""
    kept, kinds = [], {None: ""}  # type: List[Json], Dict[Optional[int], str]
    for row in rows:
        if row["path"] and row["path"] not in known:
            pid = row["pid"]
            if pid not in kinds:
                kinds[pid] = kind_of(argv_of(pid), None)
            if kinds[pid] != "notebook":
                continue
            if row["path"][0] != "/":
                row["path"] = row["address"] = os.path.join(link_of("/proc/%d/cwd" % pid) or "", row["path"])
                if not is_socket_of(row["path"], uid):
                    continue
        kept.append(row)
    return kept


def environ_of(pid: int) -> "Dict[str, str]":
    """Return the environment with which a process of this user was started."""
    text = read_bytes("/proc/%d/environ" % pid).decode("utf-8", "surrogateescape")
    return dict(item.split("=", 1) for item in text.split("\0") if "=" in item)


def runtime_directories(environ: "Dict[str, str]", argv: "Sequence[str]" = ()) -> "List[str]":
    """Return where a Jupyter server with this environment and command line can keep its record, of any version."""
    home = environ.get("HOME") or os.path.expanduser("~")
    data = environ.get("JUPYTER_DATA_DIR") or (environ.get("XDG_DATA_HOME") or home + "/.local/share") + "/jupyter"
    found = [environ.get("JUPYTER_RUNTIME_DIR", ""), data + "/runtime", home + "/Library/Jupyter/runtime"]
    if environ.get("XDG_RUNTIME_DIR"):
        found.append(environ["XDG_RUNTIME_DIR"] + "/jupyter")
    found += [option.group(1) for option in map(RUNTIME.match, argv) if option]
    return [path for path in found if path]


def jupyter_records(directories: "Set[str]", uid: int, warnings: "List[str]") -> "List[Json]":
    """Return the records of Jupyter servers. They can be stale or another host's, and are never deleted."""
    records = []
    for directory in sorted(directories):
        try:
            names = [name for name in os.listdir(directory) if re.match(r"(jp|nb)server-\d+\.json$", name)]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno != errno.EACCES:  # a variable that leads to another user's: no server of this one is there
                warnings.append("the Jupyter records in %s cannot be listed: %s" % (directory, error.strerror))
            continue
        for name in names:
            path = os.path.join(directory, name)
            try:
                if os.lstat(path).st_uid == uid:
                    record = json.loads(own_text(path))
                    records.append(dict(record, pid=int(record["pid"]), classic=name.startswith("nb")))
            except (OSError, ValueError, KeyError, TypeError):
                warnings.append("the Jupyter record %s cannot be read" % path)
    return records


def fill_in_notebook(row: "Json", record: "Optional[Json]", environ: "Dict[str, str]") -> None:
    """Fill in root, token and path of a notebook server from the record of its process, if there is one."""
    # The record of a single-user server holds its token for the hub's API, which opens no page.
    # A server that somebody starts in a terminal of the hub has the variable, too, and a token of its own.
    of_hub = environ.get("JUPYTERHUB_API_TOKEN")
    hub = bool(HUB.search(" ".join(row["argv"][:3])))
    hub = hub or bool(of_hub and (record is None or record.get("token") == of_hub))
    row.update(kind="notebook", hub=hub)
    if record is None:
        prefix = environ.get("JUPYTERHUB_SERVICE_PREFIX", "/").strip("/")
        row.update(root=row["cwd"], token=None, password=True, base=prefix, url_path=prefix)
        return
    words = words_of(row["argv"])
    tree = record["classic"] or re.match(r"(jupyter.)?(notebook|nbclassic)\b", words)
    page = "tree" if tree else "lab" if re.match(r"jupyter.?lab", words) else ""  # the server redirects ""
    base = str(record.get("base_url") or "/").strip("/")
    row.update(root=record.get("root_dir") or record.get("notebook_dir") or row["cwd"], base=base)
    row.update(token=None if hub else record.get("token") or "", password=hub or bool(record.get("password")))
    row.update(scheme="https" if record.get("secure") else "http", url_path="/".join(filter(None, (base, page))))


def recognise_notebooks(rows: "List[Json]", uid: int, warnings: "List[str]") -> None:
    """Fill in what is known about the notebook servers among `rows`."""
    environs = {row["pid"]: environ_of(row["pid"]) for row in rows if row["kind"] == "notebook" and row["pid"]}
    directories = set(runtime_directories(dict(os.environ)))
    for row in rows:
        if row["pid"] in environs:
            directories.update(runtime_directories(environs[row["pid"]], row["argv"]))
    records = jupyter_records(directories, uid, warnings)
    for row in rows:
        mine = [one for one in records if one["pid"] == row["pid"] and is_about(one, row)]
        if mine or row["kind"] == "notebook":
            environ = environs[row["pid"]] if row["pid"] in environs else environ_of(row["pid"] or 0)
            fill_in_notebook(row, mine[0] if mine else None, environ)


def is_about(record: "Json", row: "Json") -> bool:
    """Tell whether the record of a notebook server names the socket of `row`; a path can be relative to its process."""
    if row["path"]:
        return bool(record.get("sock")) and os.path.join(row["cwd"] or "", record["sock"]) == row["path"]
    return bool(record.get("port") == row["port"])


def is_page(row: "Json", known: "Set[str]", with_port: "Set[int]") -> bool:
    """Tell whether a row can be a page: what extensions of a server on a port open on Unix sockets is none."""
    return not row["path"] or row["path"] in known or row["pid"] not in with_port or row.get("token") is not None


def is_own_port(row: "Json", running: "Json", ancestors: "List[int]") -> bool:
    """Tell whether a cluster itself opened the port of `row`, and not one of its tasks.

    On Unix sockets a cluster has no port except the dashboard's. With certificates, its owner and its workers listen on
    one address; the workers are children of the owner or of its fork server. A port that a task opens there in a
    worker's own process looks the same, because ports with certificates are not asked.
    """
    address = str(running.get("address"))
    if row["port"] and row["port"] == running.get("dashboard_port"):
        return True
    if not address.startswith("tls://") or row["address"] != address[6:].rpartition(":")[0]:
        return False
    owner = running["process"]["pid"]
    if row["pid"] == owner:
        return True
    line = " ".join(row["argv"])
    return bool(SPAWNED.search(line)) and ancestors.index(owner) <= ("forkserver" in line)


def recognise_sessions(rows: "List[Json]", sessions: "Json", ancestors: "Dict[int, List[int]]") -> None:
    """Mark the rows that belong to a running cluster or notebook server of `ports`: ``of`` is ``"cluster:main"``.

    What else listens in a cluster's processes, or below them, belongs to its tasks: ``task_of`` is ``"main"``.
    """
    found = [(kind, one) for kind, folder in SESSION_KINDS.items() for one in sessions.get(folder, ())]
    for kind, session in found:
        if not session["alive"] or not session["running"]:
            continue
        record, of = session["running"], "%s:%s" % (kind, session["name"])
        for row in rows:
            inside = record["process"]["pid"] in [row["pid"], *ancestors.get(row["pid"], [])]
            if kind == "cluster" and (row["path"] and row["path"] == record.get("dashboard")):
                row.update(of=of, kind=kind, url_path="status")
            elif kind == "cluster" and inside and is_own_port(row, record, ancestors.get(row["pid"], [])):
                row.update(of=of, kind=kind)
            elif kind == "cluster" and inside and row["port"]:
                row["task_of"] = session["name"]
            elif kind == "notebook" and inside and row["port"] == record.get("port"):
                row.update(of=of, kind=kind, root=record.get("root"), token=session.get("token"))
                row["url_path"] = str(record.get("url_path") or record.get("base_url") or "").strip("/")
