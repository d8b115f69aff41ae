#!/bin/bash
# A place for one engine: its own mounts, links, process numbers and cgroups, so that
#  - nothing it does is seen by the machine (no iptables rule, bridge or mount is left behind),
#  - its CPU time is that of one cgroup, whatever processes, shims and containers it makes.
#
# jail.sh NAME ROOT SHARED -- COMMAND...    (root; ROOT is a root folder or /; SHARED appears as itself inside)
# Writes "ready" to stdout, waits for one line on stdin, then runs COMMAND as a child of the jail's pid 1.
# The cgroup is NAME below the caller's own group of each hierarchy. Killing this process ends all inside.
set -eu
name=$1 root=$2 shared=$3
shift 4
hierarchies=()

v1_join() { # every v1 hierarchy that is mounted; the group must have CPUs before a process may enter cpuset
    local id controllers path mounted memberships
    memberships=$(cat /proc/self/cgroup) # at once: the file changes under the loop
    while IFS=: read -r id controllers path; do
        [ -n "$controllers" ] || continue
        mounted=/sys/fs/cgroup/${controllers#name=}
        [ -d "$mounted" ] || continue
        local group=$mounted${path%/}/$name
        mkdir -p "$group"
        if [ -e "$group/cpuset.cpus" ] && [ -z "$(cat "$group/cpuset.cpus")" ]; then
            cat "$mounted${path%/}/cpuset.cpus" >"$group/cpuset.cpus"
            cat "$mounted${path%/}/cpuset.mems" >"$group/cpuset.mems"
        fi
        echo $$ >"$group/cgroup.procs"
        hierarchies+=("$controllers")
    done <<<"$memberships"
}

v2_join() { # processes may not live beside controlled children: the engine goes to a leaf of its own
    local group=/sys/fs/cgroup/$name
    mkdir -p "$group/engine"
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || true
    done
    echo $$ >"$group/cgroup.procs"
}

if [ "${JAIL_STAGE:-}" != inside ]; then
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then v2_join; else v1_join; fi
    export JAIL_STAGE=inside JAIL_HIERARCHIES="${hierarchies[*]:-}"
    exec unshare --mount --net --pid --cgroup --uts --ipc --fork --kill-child \
        bash "$0" "$name" "$root" "$shared" -- "$@"
fi

mount --make-rprivate /
if [ "$root" != / ]; then
    mount --bind "$root" "$root"
    mkdir -p "$root$shared"
    mount --bind "$shared" "$root$shared"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t sysfs sysfs "$root/sys"
fi
mount -t proc proc "${root%/}/proc"
mkdir -p "$shared/exec"
mount -t tmpfs -o mode=755 tmpfs "${root%/}$shared/exec" # the run root, as /run is on every host
if [ -n "$JAIL_HIERARCHIES" ]; then
    mount -t tmpfs -o mode=755 tmpfs "${root%/}/sys/fs/cgroup"
    for controllers in $JAIL_HIERARCHIES; do
        mkdir "${root%/}/sys/fs/cgroup/${controllers#name=}"
        mount -t cgroup -o "$controllers" cgroup "${root%/}/sys/fs/cgroup/${controllers#name=}"
    done
else
    mount -t cgroup2 cgroup2 "${root%/}/sys/fs/cgroup"
    echo $$ >"${root%/}/sys/fs/cgroup/engine/cgroup.procs"
fi
ip link set lo up
if [ "$root" != / ]; then
    cd "$root"
    mkdir -p .old
    pivot_root . .old
    umount -l /.old
    cd /
fi
unset JAIL_STAGE JAIL_HIERARCHIES
echo ready
read -r _
"$@" &
child=$!
trap 'kill -TERM $child' TERM
while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done
