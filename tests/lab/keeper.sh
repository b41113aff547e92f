#!/bin/sh
# Holds the site: the first process of a pid namespace in which all hosts live, in a mount namespace that holds all
# their disks, in the network namespace of the switch. It ends when its standard input closes, and all ends with it.
set -eu
exec 2>&1
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lab/hosts /run/netns /run/lock
ip -batch - <<NET
netns add laptop
netns add login
netns add server1
netns add server2
link add lan type bridge
link set lan up
link add eth0 netns laptop type veth peer name eth1 netns login
link add p-login master lan type veth peer name eth0 netns login
link add p-server1 master lan type veth peer name eth0 netns server1
link add p-server2 master lan type veth peer name eth0 netns server2
link set p-login up
link set p-server1 up
link set p-server2 up
NET
number=10
for host in laptop login server1 server2; do
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
