# Short functions and completion for bash (3.2 or newer). In ~/.bashrc:
#
#     source /path/to/ports/scripts/ports.bash
#
#     ports_open server1            links to all that is yours on server1, until Ctrl-C
#     ports_shell server1 main      the shell "main" there: ipython in tmux, the one you left last time or a new one
#     ports_lab server1 [NAME]      opens the notebook server "lab" there; starts it first if there is none
#
# Completion knows commands, options, the hosts of ~/.ssh/config, and names. On this machine these are the names of clusters
# and notebook servers; on another host, the usual names (main, lab) and those that are open here in tunnels. It reads files,
# and once in each shell the help of `ports`. It never connects to a host, so it can neither hang nor ask for a password.

ports_open() { ports open "$@"; }

ports_shell() {
    if [ $# -eq 0 ]; then
        echo "usage: ports_shell HOST [NAME] [--bash] [--env ENV]" >&2
        return 2
    fi
    local target=$1
    shift
    if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
        target=$target:$1
        shift
    fi
    ports shell "$target" "$@"
}

ports_lab() {
    if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then
        echo "usage: ports_lab HOST [NAME] [options of ports open]" >&2
        return 2
    fi
    local host=$1 name=lab status=0
    shift
    if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
        name=$1
        shift
    fi
    ports notebook show "$name" -H "$host" --json 2>/dev/null | grep -q '"state": "running"' || status=$?
    if [ $status -ne 0 ]; then
        ports notebook start "$name" -H "$host" || return
    fi
    ports open "$host:$name" "$@"
}

# --- completion ---

# Prints the hosts of an ssh configuration and of the files that it includes, one a line, without patterns.
_ports_hosts() {
    local file=$1 depth=${2:-0} IFS=$' \t\n' line word found words files
    if [ "$depth" -gt 8 ] || [ ! -r "$file" ] || [ ! -f "$file" ]; then return 0; fi
    while IFS= read -r line || [ -n "$line" ]; do
        read -r -a words <<<"${line//[$'\t\r'=\"]/ }"
        case ${words[0]:-} in
            [Hh][Oo][Ss][Tt])
                for word in "${words[@]:1}"; do
                    case $word in \#*) break ;; *[*?!]*) ;; *) echo "$word" ;; esac
                done
                ;;
            [Ii][Nn][Cc][Ll][Uu][Dd][Ee])
                for word in "${words[@]:1}"; do
                    case $word in
                        "~/"*) word=$HOME/${word#"~/"} ;;
                        /*) ;;
                        *) word=$HOME/.ssh/$word ;;
                    esac
                    IFS=''
                    files=($word)
                    IFS=$' \t\n'
                    for found in "${files[@]}"; do _ports_hosts "$found" $((depth + 1)); done
                done
                ;;
        esac
    done <"$file"
}

_ports_all_hosts() { _ports_hosts "${DASK_PORTS__SSH__CONFIG:-$HOME/.ssh/config}"; }

# Sets _ports_help to the commands and options of `ports $*`, one a line. Runs each --help once in a shell.
_ports_learn() {
    local cache=_ports_help_${*//[^a-z]/_}
    cache=${cache//[^a-z_]/_}
    if [ -z "${!cache+set}" ]; then
        printf -v "$cache" '%s' "$(command ports "$@" --help 2>/dev/null </dev/null | awk '
            /^[A-Z][a-z]*:/ { section = $1 }
            section == "Commands:" && /^  [a-z]/ { print $1 }
            section == "Options:" && /^  -/ {
                names = ""
                usage = substr($0, 3)
                sub("  .*", "", usage)
                for (i = 1; i <= NF && $i ~ /^(-|\/$)/; i++) {
                    sub(",$", "", $i)
                    if ($i ~ /^--/) print $i
                    if ($i ~ /^-/) names = names " =" $i
                }
                if (usage ~ / [A-Z[][^ ]*$/) takes = takes names
            }
            END { n = split(takes, each, " "); for (i = 1; i <= n; i++) print each[i] }')"
    fi
    _ports_help=${!cache}
}

# Prints HOST:NAME of each open tunnel; with $1, only of that kind.
_ports_open_targets() {
    local file
    for file in "${PORTS_HOME:-${XDG_STATE_HOME:-$HOME/.local/state}/ports}"/hosts/*/tunnels/*.json; do
        if [ -r "$file" ]; then
            awk -F'"' -v want="${1:-}" '
                $2 == "host" { host = $4 }
                $2 == "kind" { kind = $4 }
                $2 == "name" && $4 != "" && (want == "" || kind == want) { print host ":" $4 }
            ' "$file"
        fi
    done
}

# Prints HOST; or, if the word $1 has a colon, HOST:NAME for the usual names and those in tunnels. With $2, only of that kind.
_ports_targets() {
    local host=${1%%:*}
    if [ "$host" = "$1" ]; then
        _ports_all_hosts
        return
    fi
    case ${2:-} in '' | cluster | shell) echo "$host:main" ;; esac
    case ${2:-} in '' | notebook) echo "$host:lab" ;; esac
    _ports_open_targets "${2:-}"
}

# Prints the names of this machine's clusters or notebook servers (kind $1); with host $2, the usual ones and those in tunnels.
_ports_names() {
    local path
    if [ -n "$2" ]; then
        _ports_targets "$2:" "$1" | awk -F: -v host="$2" '$1 == host { print $2 }'
        return
    fi
    for path in "${PORTS_HOME:-${XDG_STATE_HOME:-$HOME/.local/state}/ports}"/hosts/*/"$1s"/*/; do
        path=${path%/}
        case ${path##*/} in [a-z]*) echo "${path##*/}" ;; esac
    done
}

# Succeeds if the word $1 is an option that takes a value. `_ports_learn` must have read its help.
_ports_takes_value() {
    case $1 in -*) ;; *) return 1 ;; esac
    case $'\n'$_ports_help$'\n' in *$'\n='"$1"$'\n'*) ;; *) return 1 ;; esac
}

# Prints how many of the words after the command are names or targets, not options and their values.
_ports_count() {
    local i count=0
    for ((i = $1; i < ${#words[@]}; i++)); do
        if _ports_takes_value "${words[i]}"; then
            i=$((i + 1))
        else
            case ${words[i]} in -*) ;; *) count=$((count + 1)) ;; esac
        fi
    done
    echo "$count"
}

# Prints the candidates for the word $1 after "ports ${words[*]}". `words` and `host` are the caller's.
_ports_candidates() {
    local word=$1 noun=${words[1]:-} verb=${words[2]:-} last=${words[${#words[@]} - 1]}
    case $last in -H | --host) _ports_all_hosts && return ;; esac
    if _ports_takes_value "$last"; then return; fi
    case $word in -*) echo "$_ports_help" && return ;; esac
    case $noun:$verb in
        : | cluster: | notebook: | tunnel:) grep -v '^=' <<<"$_ports_help" ;;
        *:start | cluster:list | notebook:list) ;;
        cluster:* | notebook:*) if [ "$(_ports_count 3)" -eq 0 ]; then _ports_names "$noun" "$host"; fi ;;
        tunnel:close) _ports_open_targets ;;
        open:*) _ports_targets "$word" ;;
        shell:*) if [ "$(_ports_count 2)" -eq 0 ]; then _ports_targets "$word" shell; fi ;;
        login:*) if [ "$(_ports_count 2)" -eq 0 ]; then _ports_all_hosts; fi ;;
        list:* | ls:* | logout:* | doctor:*) _ports_all_hosts ;;
    esac
}

# Sets COMPREPLY to the candidates $2 that begin with the word $1. bash splits words at colons, so the part before is removed.
_ports_reply() {
    local word=$1 before= line
    case $COMP_WORDBREAKS in *:*) before=${word%"${word##*:}"} ;; esac
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            '') ;;
            "$word"*) COMPREPLY+=("${line#"$before"}") ;;
        esac
    done <<<"$(sort -u <<<"$2")"
}

# Reads the line up to the cursor into the caller's variables: finished words into `words`, the one being typed into `word`,
# and the value of -H into `host`.
_ports_read_line() {
    local line=${COMP_LINE:0:COMP_POINT} i
    read -r -a words <<<"$line"
    word=
    case $line in
        *[[:space:]]) ;;
        *) word=${words[${#words[@]} - 1]} && unset "words[${#words[@]}-1]" ;;
    esac
    host=
    for ((i = 1; i < ${#words[@]}; i++)); do
        case ${words[i]} in
            -H | --host) host=${words[i + 1]:-} ;;
            --host=*) host=${words[i]#*=} ;;
        esac
    done
}

_ports_complete() {
    local words word host _ports_help=
    _ports_read_line
    case ${words[1]:-} in
        cluster | notebook | tunnel) _ports_learn "${words[@]:1:2}" ;;
        *) _ports_learn ${words[1]+"${words[1]}"} ;;
    esac
    _ports_reply "$word" "$(_ports_candidates "$word")"
}

# For ports_open, ports_shell and ports_lab.
_ports_complete_short() {
    local words word host
    _ports_read_line
    case ${words[0]}:${#words[@]} in
        ports_open:*) _ports_reply "$word" "$(_ports_targets "$word")" ;;
        ports_shell:1) _ports_reply "$word" "$(_ports_targets "$word" shell)" ;;
        *:1) _ports_reply "$word" "$(_ports_all_hosts)" ;;
        ports_shell:2) _ports_reply "$word" "$(_ports_names shell "${words[1]}")" ;;
        ports_lab:2) _ports_reply "$word" "$(_ports_names notebook "${words[1]}")" ;;
        *) COMPREPLY=() ;;
    esac
}

complete -F _ports_complete ports
complete -F _ports_complete_short ports_open ports_shell ports_lab
