#!/bin/sh
# tmux without a terminal, for libtmux, which would give it the one of this process. tmux refuses each command on a
# terminal that it does not know (TERM=xterm-kitty). A server that was stopped answers none: the limit is in seconds.
exec </dev/null
unset TERM TMUX
if command -v timeout >/dev/null; then exec timeout 20 tmux "$@"; fi
exec tmux "$@"
