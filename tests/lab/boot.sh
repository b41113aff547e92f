#!/bin/sh
# Boots one host: runs as the first process of its namespaces, lays its disk over this machine's, moves in, becomes sshd.
#
# HOST    its name                                  DISK    its directory on the site's tmpfs
# HOMES   the directory that becomes /home          SHOW    paths of this machine that stay visible as they are
# HIDE    paths of this machine that are empty here PACKAGES  site-packages of the environment without ports
# PREFIX  prefix of that environment's origin       SSHD    the program
set -eu
root=$DISK/root
newline='
'
echo "$HOST" > /proc/sys/kernel/hostname 2>/dev/null || hostname "$HOST"
mount -t overlay overlay -o "index=off,lowerdir=/,upperdir=$DISK/upper,workdir=$DISK/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys" && mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup" || mount --rbind /sys "$root/sys"
echo 0 > "$root/proc/sys/net/ipv4/ip_forward"

mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
for device in null zero full random urandom tty; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t devpts -o newinstance,gid=5,mode=620,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"

mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/root"
mkdir -p "$root/run/sshd" "$root/run/lock"
mount --bind "$HOMES" "$root/home"

IFS=$newline
for path in $SHOW; do
    mkdir -p "$root$path"
    mount --bind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"
done
for path in $HIDE; do
    if [ -d "$root$path" ]; then mount -t tmpfs -o ro,size=4k tmpfs "$root$path"; fi
done
if [ -n "$PACKAGES" ]; then
    mount -t overlay overlay -o "index=off,lowerdir=$PACKAGES,upperdir=$DISK/packages,workdir=$DISK/packages-work" \
        "$root/opt/notebooks/lib/${PACKAGES#"$PREFIX"/lib/}"
    for part in share/jupyter etc/jupyter; do
        if [ -d "$PREFIX/$part" ]; then mount --bind "$PREFIX/$part" "$root/opt/notebooks/$part"; fi
    done
fi
# Nothing of a reboot reaches the kernel's own boot id, and a process is known by it.
cat /proc/sys/kernel/random/uuid > "$root/run/boot_id"
mount --bind "$root/run/boot_id" "$root/proc/sys/kernel/random/boot_id"

cd "$root"
pivot_root . mnt
umount -l /mnt
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$SSHD" -D -e 2>>/var/log/sshd.log </dev/null >/dev/null
