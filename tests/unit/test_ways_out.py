"""Each message that names a command, a setting or an option is in a table: which test walks it, or why none does.

To walk is to make the message appear, to do what it says, and to see that it helped.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.test_hints import all_texts

TESTS = Path(__file__).parents[1]
PROGRAMS = "ports|ssh|ssh-add|ssh-keygen|chmod|conda|pip|apt|loginctl|systemd-run|nvidia-smi|timedatectl|du|wsl"
#: What a message names: a command, the directory of records, a setting, an option, an argument.
NAMED = re.compile(
    "|".join(
        (rf"`(?:{PROGRAMS})\b[^`]*`", r"-m pip install|PORTS_HOME", r"\bports\.[a-z]+\.[a-z_<>.{]+",
         r"(?<![\w-])--[a-z]", r"\bpass (?:another )?[a-z_]+=", r"\bset (?:[A-Z]|ports\.)", r"the setting ")
    )
)  # fmt: skip
#: Texts that are no messages, or messages without a way out: a line of another program, code, a title.
NO_WAY_OUT = (
    "ports.hosts.openssh.processes", "from ports.tunnels.keeper import", "adapter --for-server",
    "What connects to hosts, here", "Listen on this address instead", "but paramiko carries", "Show each setting,",
    "ports.clusters.owner.ports_owner.comm", "ports.clusters.credentials.load", "ports --help", "ports COMMAND --help",
    "Default: the setting", "`ports open` in process", "another `ports open` (process", "because of --owner",
    "from ports.jobs.resource import loop; loop.main", "from ports.jobs.resource.notice import main",
    "and printed no JSON", "`ports doctor` does not work there", "`ports browse` cannot reach home",
    "`ports tunnel` does not show this", "`ports open` of {owner} serves it",
    "Tag by which `ports job list` can filter", "With --follow: exit with the job's own code", "With --setup: ",
    "the environment of --setup", "Remove output of jobs with --copy, too",
    "waiting for {host}, where", "the hosts of the setting ports.hosts", "distributed.print prints here",
    "`ports open` goes through a session", "about 15 s after its last terminal",
    "it was stopped, by `ports cluster stop`", "from ports.web._serve import main",
    "printed no JSON: {lines[-1]}", "end of `ports {", "the page shows the hosts that `ports page` was started with",
    "the `ports` there says nothing of lines of a log",
)  # fmt: skip

#: Test → pieces of the messages that it walks. A fixture counts, because tests stand on it.
WALKED = {
    "unit/test_cli.py::test_watching_shows_ones_own": ("--watch shows your own; leave out --all, or --watch",),
    "integration/test_page.py::test_a_link_works_once_and_page_prints_another_one": (
        "`ports page` prints a link that opens it", "or is from another start; `ports page` prints another one",
        "the link works once, `ports page` prints another one", "`ports page stop` ends the page",
        "`ports page` starts one",
    ),
    "integration/test_page.py::test_what_begins_to_listen_is_shown_and_its_link_leads_there": (
        "does not have it; `ports list` shows what there is",
    ),
    "integration/test_page_home.py::test_a_page_on_a_server_alone_opens_at_home": (
        "`ports open {host}:page` opens it here",
    ),
    "unit/test_page_record.py::test_windows_is_told_where_a_page_can_run": (
        "`ports page -H HOST` starts one on a server, and `ports open HOST:page` opens it here",
    ),
    "unit/test_page_acts.py::test_a_link_that_cannot_be_opened_says_why": ("`ports list` shows what can be opened",),
    "unit/test_watching.py::test_a_keeper_of_an_older_ports_is_named_until_it_is_ended": (
        "is of an older ports: end it by `ports tunnel close --all`",
    ),
    "integration/test_job_shell.py::test_what_has_no_shell_says_what_to_do": (
        "a shell needs a terminal; `ports job logs {id}` shows", "a shell takes over the terminal; leave --json out",
    ),
    "unit/test_job_files.py::test_another_file_is_never_overwritten_unless_forced": (
        "is another file; pass force=True to replace it",
    ),
    "unit/test_job_cache.py::test_results_of_other_users_are_used_only_if_they_are_trusted": (
        "the setting jobs.cache_trust allows that",
    ),
    "integration/test_job_shell.py::test_ctrl_c_while_a_port_is_awaited_leaves_the_job_running": (
        "job {id} goes on; `ports job show {id}` shows what it listens on",
    ),
    "integration/test_job_open.py::test_what_a_job_listens_on_opens_at_home": (
        "(`ports open {host}:{one['port']}` opens it)",
    ),
    "integration/test_job_notices_home.py::test_the_end_of_a_job_is_said_where_ports_open_runs": (
        "`ports job show {id}` shows more",
    ),
    "unit/test_page_jobs.py::test_what_the_page_advises_about_jobs_helps": (
        "No jobs yet. Send a script with `ports job submit -- python train.py`",
        "this page does not show it; `ports page` takes the hosts to show",
        "a job; `ports job --help` lists what the command line can",
    ),
    "unit/test_job_afar.py::test_a_list_without_a_match_leads_to_the_whole_list": (
        "no job matches; `ports job list` shows all",
        "no jobs; `ports job submit`",
    ),
    "unit/test_job_notices.py::test_resource_notify_tests_each_service": (
        "the setting jobs.notify",
    ),
    "integration/test_job_commands.py::test_a_script_goes_on_while_its_resource_is_stopped": (
        "no compute resource runs here",
    ),
    "integration/test_job_from_home.py::test_a_job_that_waits_there_begins_after_what_wait_says": (
        "no compute resource runs {there}, so nothing begins; `ports resource start` goes on",
        "no compute resource runs there; `ports resource start -H {self.host}` goes on",
    ),
    "integration/test_job_commands.py::test_the_sentence_about_a_failed_job_leads_on": (
        "`ports job {verb} {id}` shows more, `ports job rerun {id}` runs it again",
        "`ports job list` shows what there is",
    ),
    "integration/test_job_commands.py::test_ctrl_c_without_a_terminal_leaves_the_job_running": (
        "job {id} goes on; `ports job logs -f {id}` follows it again, `ports job cancel {id}` ends it",
    ),
    "unit/test_job_words.py::test_a_program_that_is_not_executable_runs_after_what_is_said": (
        "is not executable; `chmod +x {program}`",
    ),
    "unit/test_job_words.py::test_a_wrong_word_is_refused_with_the_way_out": (
        "--exit-code is for --follow", "--csv prints one table", "--json prints one document",
        "there is no command; write `ports job submit -- COMMAND …`",
        "--environ and --follow do not go together with -H",
        "--copy and --in-place do not go together; leave one of them out",
        "leave --in-place out",
    ),
    "unit/test_job_afar.py::test_in_place_sends_nothing_and_means_the_same_path_there": (
        "the job runs in your home there; without --in-place, files are sent",
    ),
    "unit/test_job_afar.py::test_what_cannot_be_reused_there_is_refused": (
        "is of {named}, and this one runs on {host}; `ports job fetch {id}` gets it",
        "no space for %d bytes of %s; `ports job prune --older 7d` removes old jobs there",
    ),
    "unit/test_job_afar.py::test_a_command_that_names_a_file_of_a_home_is_refused": (
        "--in-place uses the files that {host} has",
    ),
    "integration/test_job_workspace.py::test_what_cannot_be_meant_is_refused": ("add --copy, or leave it out",),
    "unit/test_job_sending.py::test_prune_says_that_files_are_being_sent": ("`ports job prune` removes them later",),
    "integration/test_job_workspace.py::test_prune_keeps_output_that_nobody_fetched": (
        "because nobody fetched their output ({named}): --unfetched removes them, too",
    ),
    "integration/test_job_commands.py::test_a_resource_that_drains_says_how_it_goes_on": (
        "the resource drains: `ports resource resume` goes on",
    ),
    "unit/test_job_workspace.py::test_a_rerun_takes_the_files_of_then_or_of_today": (
        "is gone; without --here, the job runs again with the files that it had",
    ),
    "unit/test_job_set_up.py::test_a_wrong_setup_is_refused_at_submission": (
        "it is the interpreter of the environment that `--setup` makes; add --setup",
    ),
    "unit/test_job_places.py::test_the_first_choice_stays_and_another_one_is_said": (
        "as the first job chose, and not in {named}; to move them, run `ports resource stop`",
    ),
    "unit/test_job_places.py::test_what_is_large_lies_in_the_directory_of_the_setting": (
        "; the setting jobs.directory names another disk",
    ),
    "unit/test_job_places.py::test_a_directory_that_is_not_good_is_refused": (
        "name a directory of yours on a disk in the setting jobs.directory",
    ),
    "unit/test_job_cache.py::test_with_a_version_a_changed_source_is_a_hit_and_is_said": (
        "change version=, or pass cache='refresh' once",
    ),
    "integration/test_ways_out.py::main": (
        "`ports cluster start` starts one", "no {several}; `ports {kind.name} start` starts one",
        "`ports cluster stop {name}` stops it",
    ),
    "integration/test_ways_out.py::test_a_name_in_use_names_what_shows_and_changes_its_cluster": (
        "{shows} it, `ports cluster scale {name} N`", "`ports cluster show {name}` shows",
    ),
    "integration/test_ways_out.py::test_other_options_than_asked_for_are_used_as_they_are": (
        "pass name= for another, stop it", "or use it as it is with reuse='any'",
    ),
    "integration/test_ways_out.py::test_what_is_only_disconnected_is_ended_as_the_message_says": (
        "only disconnected:", "a client cannot end this cluster",
    ),
    "integration/test_sharing.py::test_more_than_the_machine_has_is_refused_unless_it_is_forced": (
        "(fewer workers, a smaller memory_limit)", "force=True (--force) starts it all the same",
    ),
    "integration/test_ways_out.py::test_prune_moves_any_record_aside_that_cannot_be_read": (
        "record {self.path} cannot be read: {self.reason}; `ports prune`",
        "record %s cannot be read: %s; `ports prune`",
        "record %s has no format number; `ports prune`",
    ),
    "integration/test_ways_out.py::test_a_command_that_is_refused_names_the_one_that_works": (
        "--follow has no end", "--watch has no end", "name each TARGET as in `ports open`", "name each HOST as in",
        "{meant}`ports tunnel list` shows those that are open", "is more than a host; `ports open",
    ),
    "integration/test_ways_out.py::test_a_local_port_in_use_is_left_by_the_option_that_is_named": (
        "pass --local-port 0 (local_port=0)",
    ),
    "integration/test_ways_out.py::test_options_of_a_local_address_name_those_that_are_missing": (
        "pass --public if you want that", "pass --bind ADDRESS", "--owner {owner} works with HOST:PORT only",
    ),
    "integration/test_ways_out.py::test_a_port_of_this_machine_with_nothing_there_is_looked_for_here": (
        "--all` shows what listens there",
    ),
    "integration/test_ways_out.py::test_a_directory_that_cannot_be_used_is_left_by_the_way_that_is_named": (
        "set PORTS_HOME to a directory of yours", "remove it, or set PORTS_HOME elsewhere",
    ),
    "integration/test_ways_out.py::test_without_a_target_the_hosts_of_the_setting_that_is_named_are_taken": (
        "or list your hosts in the setting ports.hosts",
    ),
    "integration/test_ways_out.py::test_a_thing_on_a_host_is_opened_where_only_a_host_is_taken": (
        "names a thing on a host",
    ),
    "integration/test_ways_out.py::test_what_is_open_at_another_address_is_closed_first": (
        "is already open at {serves}; `ports tunnel close",
    ),
    "integration/test_ways_out.py::test_a_notebook_server_is_started_and_stopped_as_is_said": (
        "`ports notebook start` starts one", "`ports notebook stop {name}` stops it",
        "`ports {record.kind} stop {record.name}` stops it",
    ),
    "integration/test_ways_out.py::test_an_environment_without_python_takes_the_path_that_is_asked_for": (
        "; `conda install -p {prefix} python` adds it",
    ),
    "integration/test_open_here.py::test_the_dashboard_of_a_cluster_here_opens_by_its_name": (
        "the dashboard is on a private socket; `ports open`", "a private socket; `ports open` shows it",
    ),
    "integration/test_cluster_privacy.py::test_a_dashboard_on_a_port_answers_nobody_without_its_token": (
        "`ports cluster show {name}` shows its link and token",
    ),
    "integration/test_remote.py::test_after_too_many_keys_of_an_agent_the_two_lines_help": (
        "refused the login after too many keys", "the server takes keys only, and accepted none of yours",
    ),
    "integration/test_paramiko.py::test_the_keys_of_an_agent_log_in": (
        "load your key into an agent with `ssh-add`", "(`ssh-add {file}` loads it into an agent)",
    ),
    "integration/test_tunnels.py::test_a_server_shows_its_page_in_the_browser_at_home": (
        "no `ports open` at home is connected", "`ports open {listeners.alias()}`",
    ),
    "acceptance/test_ways_out.py::test_a_host_key_that_changed_is_forgotten_and_accepted_as_is_said": (
        "`ssh-keygen -R {options.known_as}`",
    ),
    "acceptance/test_ways_out.py::test_known_hosts_that_keep_nothing_are_mended_by_the_named_line": (
        "`UserKnownHostsFile /dev/null`",
    ),
    "acceptance/test_ways_out.py::test_a_key_that_others_can_read_is_closed_as_is_said": ("(`chmod 600 {file}`)",),
    "acceptance/test_ways_out.py::test_a_key_that_is_loaded_into_the_agent_logs_in_as_is_said": (
        "or load your key with `ssh-add`",
    ),
    "acceptance/test_ways_out.py::test_a_host_without_python_is_used_by_the_setting_that_is_named": (
        "{hint}ports.hosts.{alias}.env in the settings",
    ),
    "acceptance/test_ways_out.py::test_a_host_where_ports_is_not_found_runs_it_by_the_setting": (
        "name the environment that has it as ports.hosts",
    ),
    "acceptance/test_main_job.py::test_a_target_is_a_name_or_port_and_another_users_needs_owner": (
        "pass --owner {self.owner} if you trust them",
    ),
    "acceptance/test_bad_input.py::test_without_tmux_a_cluster_runs_detached_and_attach_says_so": (
        "`ports {record.kind} logs {record.name}` shows its output",
    ),
    "acceptance/test_bad_input.py::test_without_ssh_paramiko_is_used_or_the_error_names_what_to_install": (
        "install the OpenSSH client",
    ),
    "integration/test_broken_records.py::test_a_session_with_unreadable_records_is_stopped_but_not_pruned": (
        "not moved, because it can run: `ports {kind} stop",
    ),
    "integration/test_sessions.py::test_of_what_cannot_be_known_each_message_leads_out": ("--force` forgets it",),
    "integration/test_shared_home.py::test_a_machine_keeps_its_records_whatever_it_is_called": (
        "run `ports prune --adopt", "`ports prune --adopt {others[0]}`",
    ),
    "integration/test_other_sshds.py::test_with_one_session_links_open_and_doctor_s_way_out_helps": ("(MaxSessions)",),
    "integration/test_clusters.py::test_any_process_of_mine_scales_it": (
        "`ports cluster scale {running.name} {n_workers}`",
    ),
    "integration/test_clusters.py::test_a_changed_module_is_warned_of_and_restart_brings_it": (
        "run `ports cluster restart {self.name}`",
    ),
    "integration/test_rest.py::test_results_kept_at_the_end_stay_until_their_user_removes_them": (
        "`ports prune --held` removes them",
    ),
    "integration/test_tunnels.py::test_a_logout_says_which_tunnels_will_connect_again": (
        "are still open and will reconnect",
    ),
    "integration/test_tunnels.py::test_what_keeps_tunnels_by_ssh_opens_none_by_paramiko": ("leave out --transport",),
    "integration/test_tunnels.py::test_a_host_without_ports_gets_no_hint_to_start_a_cluster": (
        "` shows what else listens", "{listed}, and `ports open",
    ),
    "integration/test_listeners.py::test_a_cluster_without_its_sockets_is_listed_with_a_way_out": (
        "`ports {kind} stop {name}`, then `{start_line(",
    ),
    "integration/test_remote.py::test_a_login_at_a_terminal_serves_the_commands_that_run_unattended": (
        "`ports login {hop.alias}`", "`ports login {shlex.quote(self.alias)}`", "`ports login {host}` in a terminal",
        "run `ports login {master.alias}` in a terminal",
    ),
    "integration/test_sharing.py::test_my_own_clusters_count_when_another_one_starts": (
        "`ports cluster scale {name} 0` frees", "stop or scale one (`ports cluster list`)",
    ),
    "integration/test_job_resource.py::test_the_resource_is_started_shown_drained_and_stopped": (
        "`ports resource start` starts one", "`ports resource start` goes on with them",
        "(`ports resource resume` lets it)",
    ),
    "integration/test_job_machines.py::test_a_resource_without_its_environment_keeps_jobs_and_says_so": (
        "in another environment",
    ),
    "integration/test_job_resource.py::test_a_cluster_that_was_stopped_is_started_for_the_next_job": (
        "`ports cluster stop jobs`, and jobs start a new one",
    ),
    "unit/test_job_interpreters.py::test_an_interpreter_of_a_setup_that_is_not_here_is_refused": (
        "name another one, or leave --python out",
    ),
    "unit/test_job_queue_faults.py::test_a_removed_directory_is_made_again_at_the_next_start": (
        "`ports resource start` makes the directories of jobs again",
    ),
    "integration/test_job_at_boot.py::test_without_crontab_it_is_refused_in_a_sentence": (
        "run `ports resource start` after each boot",
    ),
    "integration/test_job_at_boot.py::test_at_boot_is_one_line_which_starts_the_resource": (
        "`ports resource start --no-at-boot` removes this line",
    ),
    "integration/test_job_at_boot.py::test_after_a_boot_each_command_says_what_waits": (
        "`ports resource start` goes on with them; add --at-boot",
    ),
    "integration/test_job_resource.py::test_a_stop_says_what_runs_and_waits_or_ends_it": (
        "`ports resource stop --wait` lets them end first", "ends them, and they begin again at the next",
    ),
    "integration/test_job_resource.py::test_a_resource_that_was_killed_goes_on_where_it_was": (
        "`ports resource show` shows its state",
    ),
    "unit/test_settings_command.py::test_all_mistakes_are_shown_and_the_exit_code_is_2": (
        "`ports settings` shows all mistakes", "`ports settings` lists all",
    ),
}  # fmt: skip

#: Reason → pieces of messages that no test walks.
EXEMPT = {
    "it only looks, and test_hints.py checks that the command exists": (
        "--help`)",
        "`ports {kind} list` shows whether it was",
        "`ports tunnel list` shows",
        "`ssh -v",
        "`ssh -G",
        "`ports cluster logs {name} --warnings` shows",
        "--help` shows those of ports",
        "`ports cluster list` shows what",
        "`ports who` shows",
        "`ports doctor {route.alias}` shows more",
        "python3 -V`",
        "`ssh` to it shows what",
        "`ports list` shows what is here",
        "`ssh {alias} true` returns",
        "`ports cluster logs {name} --warnings` shows",
        "`ports {kind} show {name}`",
        "getent hosts {hop.hostname}`",
        "`ports list` and `ports open` work without it",
        "there shows open links",
        "`ports settings` lists all",
        "`ports cluster logs {self.cluster} --warnings` shows more",
    ),
    "its command is walked for another message": (
        "`ports {kind} stop {started['name']}` stops it",
        "`ports cluster scale {name} 1` starts one",
        "`ports tunnel list` shows them, `ports tunnel close --all`",
        "no tunnels; `ports open HOST` opens some",
        "it lists all; `ports open {0}` opens a tunnel",
        "` ends what is left of the cluster",
        "`ports cluster start {name}` starts it again",
        "`ports cluster stop {name}` ends it",
        "run `ports notebook stop` to remove what is left",
        "answers in {PROTOCOL}; `ports resource stop`, then `ports resource start`",
        "`ports cluster start{hosts.host_option(self.alias)}` starts one",
        "(`ports prune` finds leftovers)",
        "write `ports shell {meant}`",
        "stop all that runs in it (`ports cluster list`",
        "or `ports cluster restart {name}`",
        "`ports shell --name {name}` starts one",
        "ports notebook start --debugger",
        "as ports.hosts.<alias>.env in the settings at home",
    ),
    "a usage error names the words that are meant, and test_usage_errors.py types those": (
        "`ports cluster start --n-workers all` takes",
        "write `ports cluster scale {name} 4`",
        "write `ports login HOST`",
        "--list and --stop are two commands",
        "--list shows all shells",
        "`ports shell {out.host}`",
        "`ports shell`",
        "--json goes with --list and --stop",
        "did you mean `ports shell {_VERBS[target]}`",
    ),
    "it installs or upgrades something, and tests download nothing": (
        "pip install",
        "`apt install tmux`",
        "install OpenSSH, or name a configuration",
        "`ports notebook start` needs",
        "this `ports` is in {prefix}, where",
    ),
    "tests of the other side walk it: test_job_outputs.py, test_job_workspace.py": (
        "`ports job fetch {row['id']}` goes on then",
        "`ports job fetch {row['id']}` shows what there is",
        "has no output to fetch",
        "name another directory with --to",
        "and a file in the output; remove it, or name another with --to",
        "; --force overwrites them",
        "`ports job prune --older 30d` removes old ones",
        "`ports job prune -H {found.host} --older 30d` removes old ones",
        "remove jobs with `ports job prune --older 7d`",
        "`ports job prune --older 7d` removes old jobs",
        "`ports job prune -H {host} --older 7d` removes old jobs there",
        "`ports job rerun --here` sends those of today",
        "name what can stay behind in {IGNORE}",
        "`cd` to the directory of your script",
    ),
    "tests/unit/test_job_rest.py has it: a disk that refuses, and a store that is damaged": (
        "; free space there, for example with `ports job prune --older 7d`",
        "that disk can only be read: mount it for writing",
        "keeps it aside, and goes on with what can be read of it",
        "whether it is tried again decides the next resource, `ports resource start`",
    ),
    "it is about another machine, which test_job_home.py has": (
        "`ports job list -H {self.host}` shows whether the job is there",
        "`ports resource start -H {alias}` starts one",
        "in every shell or in none",
        "or trust that machine with `with ports.host({self.host}, trust=True)`",
        "is a map of functions, which have results",
    ),
    "it is for an administrator, or for the start files of a person": (
        "`chmod 1777 {usual.parent}`",
        "loginctl enable-linger",
        "with `systemd-run --user --scope`",
        "`timedatectl`",
        "`conda init`",
        "(`du -xh ~",
        "set PORTS_HOME to a directory that only you can change",
        "`ssh -t {shlex.quote(alias)}`",
        "check user and password in `ssh {host}`",
        "`ssh {host}`",
        "%s is not private; `ports prune` there",
    ),
    "it needs a GPU, macOS or Windows; unit tests hold the sentence": (
        "pass processes=True, or gpus=0",
        "GPUs",
        "pass gpus=1",
        "let workers share them",
        "wsl --shutdown",
        "`chmod 600 ~/.ssh/*`",
        "ports.ssh.program",
        "Linux and macOS only",
        "no Unix sockets on Windows",
        "needs a kernel that says",
        "because this system does not show which user",
    ),
    "the argument that it names is passed in many tests": (
        "for {self.name} workers pass n_workers=",
        "pass name= to ports itself",
        "pass threads_per_worker= (--threads-per-worker)",
        "pass security='tls'",
        "pass local_directory=",
        "{found.reason}; pass another name=",
        "pass another local_directory=",
        "by the setting ports.cluster.local_directory",
        "is the setting ports.ssh.persist very short?",
        "`--transport ssh`",
        "this page runs on {self.page.here}; at home, `ports open {host}:{name}` opens it",
        "pass env=",
        "pass --bash",
        "widen the settings ports.open.first_port",
        "start it with --allow-websocket-origin=",
    ),
    "what it advises instead is attacked by tests/security": (
        "`ports.client()` starts a cluster that is private",
        "`ports notebook start` starts one that asks",
        "KernelManager.transport=ipc",
        " 127.0.0.1",
        "`ports` keeps the debugger off",
        "open --share {target}`",
    ),
}


def messages() -> list[tuple[str, str]]:
    """Return the texts of the package that name something, each with the file that has it."""
    found = sorted({(file, " ".join(text.split())) for file, text in all_texts()})
    return [one for one in found if " " in one[1] and NAMED.search(one[1]) and not re.search(NO, one[1])]


NO = "|".join(map(re.escape, NO_WAY_OUT))
PIECES = [piece for pieces in (*WALKED.values(), *EXEMPT.values()) for piece in pieces]


def test_a_message_with_a_way_out_is_walked_or_says_why_not() -> None:
    new = [one for one in messages() if not any(piece in one[1] for piece in PIECES)]
    assert not new, "write a walk for each, and name it in this table; or say there why none is needed"


def test_the_table_names_messages_and_walks_that_are_there() -> None:
    known = [text for _, text in messages()]
    every = [" ".join(text.split()) for _, text in all_texts()]
    assert [piece for piece in PIECES if not any(piece in text for text in known)] == []
    assert [piece for piece in NO_WAY_OUT if not any(piece in text for text in every)] == []
    walks = [walk.partition("::") for walk in WALKED]
    assert [name for file, _, name in walks if f"def {name}(" not in (TESTS / file).read_text()] == []
