"""The way to other hosts, as alice's laptop goes it: through the jump host, whatever the hosts are like."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.lab import Site
from tests.lab.laptop import PRELUDE, python
from tests.lab.namespaces import NamespaceSite

pytestmark = pytest.mark.timeout(120)

USER = "lambda alias: remote.probe(alias)['user']"


def probe_user(site: Site, alias: str, **options: Any) -> Any:
    """Return who the probe on `alias` runs as, or the error."""
    return python(site, f"print(json.dumps(tell({USER}, {alias!r})))", **options)


def masters(site: Site) -> list[str]:
    """Return the command lines of the connections that ports holds on the laptop."""
    found = [" ".join(one.command) for one in site.host("laptop").processes() if one.state != "Z"]
    return [line for line in found if " -f -N -M " in line]


@pytest.mark.parametrize("alias", ["login", "server1", "server2", "server1-old"])
def test_the_probe_runs_without_ports_and_through_both_kinds_of_jump(laptop: Site, alias: str) -> None:
    assert probe_user(laptop, alias) == {"result": laptop.users[0]}


def test_eight_commands_at_once_share_one_connection_per_hop(laptop: Site) -> None:
    code = PRELUDE + f"print(json.dumps(tell({USER}, 'server1')))"
    started = [laptop.popen("laptop", [laptop.python, "-c", code]) for _ in range(8)]
    answers = [one.communicate(timeout=60)[0] for one in started]
    assert [json.loads(answer) for answer in answers] == [{"result": laptop.users[0]}] * 8
    assert len(masters(laptop)) == 2  # login and server1


def test_a_killed_connection_is_replaced_though_its_socket_is_left(laptop: Site) -> None:
    probe_user(laptop, "server1")
    for process in laptop.host("laptop").processes():
        if " -f -N -M " in " ".join(process.command):
            with contextlib.suppress(ProcessLookupError):  # it ended with the jump host's
                os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not masters(laptop) or None, timeout=5, what="end of the connections")
    assert probe_user(laptop, "server1") == {"result": laptop.users[0]}
    assert len(masters(laptop)) == 2


def test_a_logout_ends_the_connections_that_ports_keeps_and_says_which(laptop: Site) -> None:
    own = laptop.popen("laptop", [*laptop.ssh, "-N", "-M", "-S", "~/own", "server1"])
    for alias in ("server1", "server2"):
        probe_user(laptop, alias)
    assert len(masters(laptop)) == 3

    def logout(*words: str) -> tuple[int, list[tuple[str, str]]]:
        done = laptop.run("laptop", [laptop.python, "-m", "ports", "logout", *words, "--json"], timeout=60)
        return done.returncode, [(row["host"], row["state"]) for row in json.loads(done.stdout)]

    assert logout("server1") == (0, [("server1", "disconnected")])
    assert logout("server1") == (3, [("server1", "nothing")])
    assert len(masters(laptop)) == 2
    assert logout("server1", "login") == (
        0,
        [("login", "disconnected"), ("server2", "disconnected"), ("server1", "nothing")],
    )
    assert masters(laptop) == []
    probe_user(laptop, "server1")
    said = laptop.run("laptop", [laptop.python, "-m", "ports", "logout", "--all"], timeout=60)
    assert (said.returncode, said.stdout) == (0, "disconnected from login\ndisconnected from server1\n")
    none = laptop.run("laptop", [laptop.python, "-m", "ports", "logout", "--all"], timeout=60)
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "no connections were kept\n")
    assert own.poll() is None, "a connection of the user's own was ended"
    own.terminate()
    own.communicate(timeout=10)


def test_an_unknown_host_is_told_with_names_that_resemble_it(laptop: Site) -> None:
    error = probe_user(laptop, "servr1")
    assert (error["type"], error["exit_code"]) == ("UnknownHostError", 5)
    assert "did you mean server1" in error["message"]


def test_a_name_that_is_an_option_reaches_no_ssh(laptop: Site) -> None:
    error = probe_user(laptop, "-oProxyCommand=touch /tmp/x")
    assert error["type"] == "UnknownHostError"


def test_a_host_that_is_down_costs_the_others_nothing(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("server2").cut()
    code = f"""
        from ports import hosts
        started, seen = time.monotonic(), {{}}
        def note(alias, result):
            seen[alias] = [time.monotonic() - started, str(result)]
        hosts.on_each(["server2", "server1"], {USER}, on_result=note)
        print(json.dumps(seen))
    """
    seen = python(laptop, code, env={"DASK_PORTS__SSH__CONNECT_TIMEOUT": "4"})
    assert seen["server1"][0] < 3 and seen["server1"][1] == "alice"
    assert seen["server2"][0] < 12 and "server2: " in seen["server2"][1]
    assert "does not answer" in seen["server2"][1] or "cannot connect" in seen["server2"][1]


def test_a_jump_host_that_is_down_is_named(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("login").cut()
    error = probe_user(laptop, "server1", env={"DASK_PORTS__SSH__CONNECT_TIMEOUT": "2"})
    assert error["message"].startswith("server1: the jump host login: does not answer")


def test_a_changed_host_key_is_refused_with_the_new_fingerprint(laptop: Site) -> None:
    laptop.host("server1").change_host_key()
    error = probe_user(laptop, "server1")
    assert error["type"] == "HostKeyError"
    assert re.search(r"CHANGED to SHA256:\S+ .*ssh-keygen -f", error["message"])


def test_an_unknown_host_key_is_refused_with_fingerprint_and_command(laptop: Site) -> None:
    known = laptop.host("laptop").path("~/.ssh/known_hosts")
    known.write_text("\n".join(line for line in known.read_text().splitlines() if "server2" not in line) + "\n")
    if laptop.kind == "loopback":
        known.write_text("")
    error = probe_user(laptop, "server2")
    assert error["type"] == "HostKeyError"
    assert re.search(r"unknown host key \(\S+ SHA256:\S+\); .* `ssh ", error["message"])


def test_a_host_that_wants_a_password_is_tried_once_until_a_login(laptop: Site) -> None:
    server = laptop.host("server2")
    server.path("~/.ssh/authorized_keys").unlink()
    first = probe_user(laptop, "server2")
    assert (first["type"], "ports login server2" in first["message"]) == ("LoginNeededError", True)
    logged = server.log().count("Connection closed by authenticating")
    second = probe_user(laptop, "server2")
    assert second["type"] == "LoginNeededError" and "waits for a login" in second["message"]
    assert server.log().count("Connection closed by authenticating") == logged


def let_passwords_in(site: Site, name: str) -> None:
    """Let alice log in by her password only."""
    host = site.host(name)
    host.path("~/.ssh/authorized_keys").unlink()
    host.add_sshd_config("PasswordAuthentication yes\nKbdInteractiveAuthentication no\n")
    site.run(name, ["chpasswd", "-c", "SHA512"], user="root", input="alice:correct horse\n", check=True)


IN_BATCH = """
import json, threading
from ports import errors, listeners, machine
def ask(question):
    try:
        question()
    except errors.PortsError as error:
        print(type(error).__name__)
for question in (listeners.list, machine.usage, lambda host, batch: listeners.rows([host], batch=batch)):
    thread = threading.Thread(target=ask, args=[lambda: question("server2", batch=True)])
    thread.start()
    thread.join()
print("all " + "asked")
"""


@pytest.mark.ci
def test_threads_that_ask_in_batch_never_prompt_at_a_terminal(root_site: NamespaceSite, laptop: Site) -> None:
    let_passwords_in(laptop, "server2")
    script = laptop.host("laptop").path("~/in_batch.py")
    script.write_text(IN_BATCH)
    shown = at_a_terminal(laptop, f"{laptop.python} ~/in_batch.py; exit", {"password:": "correct horse\n"}, seconds=120)
    assert shown.count("LoginNeededError") == 3 and "all asked" in shown and "password:" not in shown, shown


def test_a_login_at_a_terminal_serves_the_commands_that_run_unattended(root_site: NamespaceSite, laptop: Site) -> None:
    let_passwords_in(laptop, "server2")
    assert probe_user(laptop, "server2")["type"] == "LoginNeededError"
    shown = at_a_terminal(laptop, "exec ports login server2", {"password:": "correct horse\n"})
    assert "login to server2 (alice@" in shown and "connected to server2 as alice" in shown, shown
    assert probe_user(laptop, "server2") == {"result": "alice"}


@pytest.mark.ci
def test_a_logout_does_not_end_what_a_person_types_into(root_site: NamespaceSite, laptop: Site) -> None:
    let_passwords_in(laptop, "server2")
    later = laptop.host("laptop").temporary_directory

    def hang_up() -> str:
        """Log out while the prompt has stood for more than a minute, and answer it."""
        for log in later.glob("ports-*/ssh/*.log"):
            os.utime(log, (0, 0))
        done = laptop.run("laptop", [laptop.python, "-m", "ports", "logout", "--all"], timeout=60)
        assert (done.returncode, done.stdout) == (4, "") and "login stays connected" in done.stderr, done
        return "correct horse\n"

    shown = at_a_terminal(laptop, "exec ports login server2", {"password:": hang_up})
    assert "connected to server2 as alice" in shown, shown


@pytest.mark.ci
def test_no_line_of_ours_lands_in_a_prompt(root_site: NamespaceSite, laptop: Site) -> None:
    let_passwords_in(laptop, "server2")

    def wait() -> str:
        time.sleep(4)  # a person types slowly; `ports` speaks after 3 s of silence
        return "correct horse\n"

    shown = at_a_terminal(laptop, "ports who server2; exit", {"password:": wait})
    prompt = shown[shown.index("password:") :].partition("\n")[0]
    assert "waiting" not in prompt and "USER" in shown, shown


@pytest.mark.ci
@pytest.mark.parametrize("words", ["ports list server2", "ports open server2 server1"])
def test_ctrl_c_at_a_prompt_ends_the_command_in_one_line(root_site: NamespaceSite, laptop: Site, words: str) -> None:
    let_passwords_in(laptop, "server2")
    shown = at_a_terminal(laptop, f"{words}; echo exit code $?; exit", {"password:": "\x03"})
    assert shown.count("password:") == 1, shown
    lines = [line.strip() for line in shown.partition("password:")[2].splitlines()]
    assert lines[:3] == ["", "ports: interrupted", "exit code 130"], shown


@pytest.mark.ci
@pytest.mark.parametrize("name", ["login", "server1"])
def test_a_host_that_is_cut_off_is_not_a_key_to_be_touched(root_site: NamespaceSite, laptop: Site, name: str) -> None:
    laptop.host(name).cut()
    line = "export DASK_PORTS__SSH__CONNECT_TIMEOUT=4; ports list server1; echo exit code $?; exit"
    shown = at_a_terminal(laptop, line, {})
    laptop.host(name).mend()
    assert "exit code 5" in shown and "does your key" not in shown, shown


@pytest.mark.ci
def test_nobody_is_asked_where_the_server_takes_keys_only(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("server2").path("~/.ssh/authorized_keys").unlink()
    laptop.host("server2").add_sshd_config("PasswordAuthentication no\nKbdInteractiveAuthentication no\n")
    shown = at_a_terminal(laptop, "ports login server2; ports login server2; exit", {})
    assert shown.count("the server takes keys only, and accepted none of yours") == 2, shown
    assert "login to server2 (" not in shown and "IdentityFile" in shown
    key = laptop.host("laptop").path("~/.ssh/id_rsa")
    locked = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", "/home/alice/.ssh/id_rsa"]
    laptop.run("laptop", locked, check=True)
    public = key.with_suffix(".pub")
    laptop.host("server2").write("~/.ssh/authorized_keys", public.read_text(), mode=0o600)
    shown = at_a_terminal(laptop, "exec ports login server2", {"Enter passphrase": "open sesame\n"})
    key.unlink()
    public.unlink()
    assert "login to server2 (alice@" in shown and "connected to server2 as alice" in shown, shown


@pytest.mark.ci
def test_a_key_that_was_loaded_meanwhile_logs_in_without_a_word(root_site: NamespaceSite, laptop: Site) -> None:
    authorized = laptop.host("server2").path("~/.ssh/authorized_keys")
    kept = authorized.read_text()
    authorized.write_text("")
    assert probe_user(laptop, "server2")["type"] == "LoginNeededError"
    authorized.write_text(kept)
    shown = at_a_terminal(laptop, "exec ports login server2", {})
    assert "connected to server2 as alice" in shown and "login to server2 (" not in shown, shown


@pytest.mark.ci
def test_a_banner_that_speaks_like_ssh_does_not_stop_the_login(root_site: NamespaceSite, laptop: Site) -> None:
    host = laptop.host("login")
    let_passwords_in(laptop, "login")
    text = "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.\n"
    host.write("/etc/banner", text, user="root")
    host.add_sshd_config("Banner /etc/banner\n")
    error = probe_user(laptop, "login")
    assert error["type"] == "LoginNeededError", error
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in error["message"] and "ports login login" in error["message"]
    shown = at_a_terminal(laptop, "exec ports login login", {"password:": "correct horse\n"})
    assert "connected to login as alice" in shown, shown


@pytest.mark.ci
def test_what_pam_says_when_it_ends_a_login_is_shown(root_site: NamespaceSite, laptop: Site) -> None:
    host = laptop.host("server2")
    host.write(
        "/etc/pam.d/sshd",
        "auth required pam_permit.so\n"
        "account requisite pam_exec.so quiet stdout /etc/refuse\n"
        "session required pam_permit.so\n",
        user="root",
    )
    host.write("/etc/refuse", "#!/bin/sh\necho 'Access denied: no active jobs on this node'\nexit 1\n", mode=0o755)
    host.add_sshd_config("UsePAM yes\n")
    error = probe_user(laptop, "server2")
    assert "Access denied: no active jobs on this node" in error["message"], error


@pytest.mark.ci
@pytest.mark.parametrize("line", ["StdinNull yes", "SessionType none"])
def test_a_terminal_is_had_whatever_the_configuration_says(laptop: Site, line: str) -> None:
    config = laptop.host("laptop").path("~/.ssh/config")
    config.write_text(f"Host server1\n  {line}\n" + config.read_text())
    code = "from ports import hosts; "
    code += "hosts.connect(hosts.resolve('server1')).interactive('stty size; read x; echo got \\$x')"
    answers = {"24 80": "typed\n", "0 0": "typed\n"}
    shown = at_a_terminal(laptop, f'{laptop.python} -c "{code}"; exit', answers)
    assert "got typed" in shown, shown


@pytest.mark.parametrize("seconds", [pytest.param(3, marks=pytest.mark.ci), pytest.param(45, marks=pytest.mark.long)])
def test_a_key_that_waits_to_be_confirmed_is_waited_for_and_said(
    root_site: NamespaceSite, laptop: Site, seconds: int
) -> None:
    here = laptop.host("laptop")
    here.write("~/ask", f"#!/bin/sh\nsleep {seconds}\n", mode=0o700)
    line = (
        "export SSH_ASKPASS=$HOME/ask SSH_ASKPASS_REQUIRE=force DISPLAY=:9; eval $(ssh-agent); "
        "for key in ~/.ssh/id_*; do case $key in *.pub) ;; *) ssh-add -c $key && mv $key ~/gone;; esac; done; "
        "ports list login; echo exit code $?; ssh-agent -k; exit"
    )
    shown = at_a_terminal(laptop, line, {}, seconds=seconds + 40)
    assert "waiting for the login to login: does your key" in shown, shown
    assert "exit code 0" in shown, shown


@pytest.mark.ci
def test_after_too_many_keys_of_an_agent_the_two_lines_help(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("laptop").write("~/lines", "Host login\n  IdentityFile ~/.ssh/id_ed25519\n  IdentitiesOnly yes\n")
    line = (
        "eval $(ssh-agent); for n in 1 2 3 4 5 6 7; do ssh-keygen -q -t ed25519 -N '' -f k$n; ssh-add -q k$n; done; "
        "ports list login; echo first exit code $?; cat ~/lines ~/.ssh/config >new; cat new >~/.ssh/config; "
        "ports login login; echo second exit code $?; ssh-agent -k; exit"
    )
    shown = at_a_terminal(laptop, line, {})
    told, _, then = shown.partition("first exit code 5")
    told = " ".join(told.split())  # the terminal has 80 columns
    assert "`IdentityFile ~/.ssh/NAME` and `IdentitiesOnly yes`" in told and "ssh-add`" not in told, shown
    assert "connected to login as alice" in then and "second exit code 0" in then, shown


@pytest.mark.ci
@pytest.mark.parametrize("line", ["ProxyCommand ssh -q -W %h:%p %r@login", "ProxyJump %r@login"])
def test_a_jump_that_names_the_user_by_a_token_of_ssh_leads_on(
    root_site: NamespaceSite, laptop: Site, line: str
) -> None:
    config = laptop.host("laptop").path("~/.ssh/config")
    config.write_text(f"Host s1\n  HostName server1\n  {line}\n" + config.read_text())
    assert laptop.run("laptop", [*laptop.ssh, "s1", "true"]).returncode == 0  # plain ssh gets there
    assert probe_user(laptop, "s1") == {"result": "alice"}
    assert "%r" not in laptop.host("login").log()


def at_a_terminal(site: Site, line: str, answers: Mapping[str, str | Callable[[], str]], *, seconds: float = 40) -> str:
    """Type `line` at a terminal on the laptop, answer what is asked, and return all that was shown.

    An answer can be a function that returns it, once it is asked for.
    """
    command, environment = site.shell_command("laptop")
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(command[0], command, {**os.environ, **environment})
    shown, waiting, end = "", dict(answers), time.monotonic() + seconds
    os.write(terminal, f"{line}\n".encode())
    try:
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    shown += os.read(terminal, 4096).decode(errors="replace")
                except OSError:
                    break
            for asked in [one for one in waiting if one in shown]:
                answer = waiting.pop(asked)
                os.write(terminal, (answer if isinstance(answer, str) else answer()).encode())
    finally:
        os.close(terminal)
        os.kill(child, signal.SIGKILL) if os.waitpid(child, os.WNOHANG) == (0, 0) else None
    return shown


def test_what_the_configuration_adds_to_a_connection_is_not_done(laptop: Site) -> None:
    config = laptop.host("laptop").path("~/.ssh/config")
    control = laptop.host("laptop").path("~/") / "mine.sock"
    added = f"""
        Host server1
            RemoteCommand echo mine
            RequestTTY force
            LocalForward 127.0.0.1:18787 127.0.0.1:8787
            ControlMaster auto
            ControlPath {control}
            LogLevel QUIET
    """
    config.write_text(textwrap.dedent(added) + config.read_text())
    assert probe_user(laptop, "server1") == {"result": laptop.users[0]}
    assert not [one for one in laptop.host("laptop").listeners() if "18787" in one.where]
    assert not control.exists()


@pytest.mark.parametrize("shell", ["/usr/bin/tcsh", "/usr/bin/fish", "/bin/bash", "/bin/rbash"])
def test_any_login_shell_and_noisy_start_files_do_not_disturb(laptop: Site, shell: str) -> None:
    server = laptop.host("server2")
    server.set_login_shell(laptop.users[0], shell)
    noise = 'echo "welcome {\\"user\\": 1}"; echo oops >&2\n'
    for file in ("~/.bashrc", "~/.tcshrc", "~/.config/fish/config.fish"):
        server.write(file, "echo welcome\necho '{'\n" if "tcsh" in file else noise)
    assert probe_user(laptop, "server2") == {"result": laptop.users[0]}


def test_a_host_without_python3_is_told_with_the_way_out(laptop: Site) -> None:
    laptop.host("server2").set_login_shell(laptop.users[0], "/bin/bash")
    laptop.host("server2").write("~/.bashrc", "PATH=/nowhere\n")
    error = probe_user(laptop, "server2")
    assert error["type"] == "FarSideError"
    assert "there is no python3" in error["message"] and "ports.hosts.server2.env" in error["message"]


def test_a_command_runs_on_a_host_and_returns_its_error_and_exit_code(laptop: Site) -> None:
    code = """
        print(json.dumps([
            tell(remote.run_ports, "server1", ["cluster", "list"]),
            tell(remote.run_ports, "server1", ["cluster", "show", "nope"]),
        ]))
    """
    listed, shown = python(laptop, code)
    assert listed == {"result": []}
    assert (shown["type"], shown["exit_code"]) == ("NotFoundError", 3)


def test_what_is_typed_for_a_host_stands_in_no_command_line_there(laptop: Site) -> None:
    spy = f'#!/bin/sh\necho "$@" >> ~/seen\nexec {laptop.python} "$@"\n'
    laptop.host("server1").write("~/spy/bin/python", spy, mode=0o700)
    words = ["cluster", "start", "-H", "server1", "--environ", "MY_KEY", "--environ", "=secret"]
    command = [laptop.python, "-m", "ports", *words]
    done = laptop.run("laptop", command, env={"MY_KEY": "secret", "DASK_PORTS__HOSTS__SERVER1__ENV": "~/spy"})
    assert (done.returncode, done.stderr) == (2, "ports: server1: --environ '=secret' is not NAME=VALUE\n")
    seen = laptop.run("server1", ["sh", "-c", "cat ~/seen"], check=True).stdout
    assert "-m ports" in seen and "secret" not in seen


def test_a_host_without_ports_says_how_to_name_it(root_site: NamespaceSite, laptop: Site) -> None:
    error = python(laptop, "print(json.dumps(tell(remote.run_ports, 'server2', ['cluster', 'list'])))")
    assert (error["type"], error["exit_code"]) == ("FarSideError", 5)
    assert "ports is not installed" in error["message"]


def test_ctrl_c_while_a_host_hangs_ends_the_command_at_once(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("server2").cut()
    code = f"from ports import hosts\nprint('here', flush=True)\nhosts.on_each(['server2', 'login'], {USER})"
    code = PRELUDE + code
    running = laptop.popen("laptop", [laptop.python, "-c", code])
    assert running.stdout is not None and running.stdout.readline() == "here\n"
    wait_until(lambda: masters(laptop) or None, timeout=10, what="connection to the jump host")
    started = time.monotonic()
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    assert time.monotonic() - started < 4


def test_a_plain_list_asks_hosts_before_it_imports_the_command_line(laptop: Site) -> None:
    code = """
    from ports import __main__, listeners
    request = {"all": False, "port": None}
    begun = []
    plain = [["list", "server2", "--json"], ["ls", "server2", "nosuchhost"]]
    for words in (*plain, ["list", "server2", "--all"], ["list"]):
        __main__._begin(words)
        begun.append(sorted(alias for alias, _ in remote._begun))
        rows = tell(listeners.rows, ["server2"])
        failed = tell(listeners.list, "nosuchhost")["type"]
        begun.append([rows, failed, len(remote._begun)])
    print(json.dumps([begun, "click" in sys.modules]))
    """
    begun, has_click = python(laptop, code)
    assert begun[::2] == [["server2"], ["nosuchhost", "server2"], [], []]
    assert begun[1::2] == [[{"result": []}, "UnknownHostError", 0]] * 4
    assert not has_click


def test_ctrl_c_while_a_plain_list_waits_for_a_host_leaves_nothing(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("server2").cut()
    running = laptop.popen("laptop", ["ports", "list", "server2"])
    wait_until(lambda: masters(laptop) or None, timeout=10, what="connection to the jump host")
    started = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=20)
    assert time.monotonic() - started < 4
    assert (running.returncode, stderr.splitlines()[-1]) == (130, "ports: interrupted")
    laptop.host("server2").mend()
    wait_until(lambda: True if len(masters(laptop)) <= 1 else None, timeout=10, what="end of the half connection")
