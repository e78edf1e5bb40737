#!/bin/bash
# The first process of a host, in new namespaces: gives it a name, an address and directories of its own, and becomes
# its sshd, with which the host ends.
#
#   host.sh FOLDER NAME ADDRESS [DIRECTORY BELOW /tmp THAT ALL HOSTS SHARE …]
set -eu
folder=$1 name=$2 address=$3
shift 3
PATH=$PATH:/usr/sbin:/sbin
mount --make-rprivate /
hostname "$name"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=1777 tmpfs "$folder/tmp"
for shared in "$@"; do
    mkdir -p "$folder$shared"
    mount --rbind "$shared" "$folder$shared"
done
mount --move "$folder/tmp" /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
mount --bind "$folder/hosts" /etc/hosts
mount --bind "$folder/ssh_config" /etc/ssh/ssh_config
for own in "$HOME/.bashrc" "$HOME/.profile" "$HOME/.bash_profile" "$HOME/.ssh/config"; do
    [ ! -f "$own" ] || mount --bind "$folder/empty" "$own"
done
# Made from outside when this process runs.
while [ ! -e /sys/class/net/eth0 ]; do sleep 0.02; done
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
exec "$(command -v sshd)" -D -e -f "$folder/sshd_config"
