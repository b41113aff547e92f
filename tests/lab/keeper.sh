#!/bin/sh
# Holds the site: the first process of a pid namespace in which all hosts live, in a mount namespace that holds all
# their disks, in the network namespace of the switch. It ends when its standard input closes, and all ends with it.
# Arguments: the names of the servers.
set -eu
exec 2>&1
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lab/hosts /run/netns /run/lock
{
    for host in laptop login "$@"; do echo "netns add $host"; done
    echo "link add lan type bridge"
    echo "link set lan up"
    echo "link add eth0 netns laptop type veth peer name eth1 netns login"
    for host in login "$@"; do
        echo "link add p-$host master lan type veth peer name eth0 netns $host"
        echo "link set p-$host up"
    done
} | ip -batch -
number=10
for host in laptop login "$@"; do
    number=$((number + 1))
    network=10.77.2
    if [ "$host" = laptop ]; then network=10.77.1; fi
    ip -n "$host" -batch - <<NET
link set lo up
addr add $network.$number/24 dev eth0
NET
done
ip -n login addr add 10.77.1.12/24 dev eth1
mount -t proc proc /proc
echo ready
exec 2>/dev/null
read -r _ || true
