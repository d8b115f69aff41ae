#!/bin/bash
# sampan-up and sampan-uninstall, as a new user would call them, in folders of their own: does the first container
# run, does a second call do no harm, and is the machine afterwards as it was before?
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d /tmp/sampan-install.XXXXXX)
export SAMPAN_PREFIX=$folder/opt SAMPAN_BIN=$folder/bin SAMPAN_DATA_ROOT=$folder/data SAMPAN_EXEC_ROOT=$folder/run
export SAMPAN_LOG=$folder/log SAMPAN_BRIDGE=sinst$$ SAMPAN_FLAGS="--bip 10.217.$(($$ % 250)).1/24"
socket=unix://$SAMPAN_EXEC_ROOT/sampan.sock

traces() { # whatever on this machine bears our names
    ip -o link | grep -o "$SAMPAN_BRIDGE" || true
    nft list tables 2>/dev/null | grep -o "sampan-$SAMPAN_BRIDGE" || true
    grep -o "$folder" /proc/self/mountinfo || true
    for process in /proc/[0-9]*; do
        case $({ tr '\0' ' ' <"$process/cmdline"; } 2>/dev/null || true) in
            *"$folder"*) [ "${process#/proc/}" = $$ ] || echo "process $process" ;;
        esac
    done
    find "$folder" -mindepth 1 ! -path "$folder/bin"
}

clean() {
    ./sampan-uninstall >/dev/null 2>&1 || true
    rm -rf "$folder"
}
trap clean EXIT

check() { # TEXT COMMAND...
    local text=$1
    shift
    if "$@"; then echo "ok: $text"; else echo "FAILED: $text"; exit 1; fi
}

first=$(./sampan-up)
check "the first container is heard" grep -q "Hello from a container: process 1" <<<"$first"
again=$(./sampan-up)
check "a second call changes nothing" grep -q "The daemon is running already" <<<"$again"
check "the docker client works" test "$("${SAMPAN_TEST_CLIENT:-docker}" -H "$socket" run --rm busybox echo hello)" = hello
"$SAMPAN_BIN/sampan" -H "$socket" run -d --name left-running -v volume:/data -p 127.0.0.1::80 busybox sleep 100000 >/dev/null
check "a container runs" test "$("$SAMPAN_BIN/sampan" -H "$socket" ps -q | wc -l)" = 1
check "the registry can be started" "$SAMPAN_BIN/sampan" registry serve --validate
"$SAMPAN_BIN/sampan" registry htpasswd --password-stdin "$folder/users" alice <<<"a word"
check "the registry has users" grep -q '^alice:\$2b\$' "$folder/users"
rm "$folder/users"
./sampan-uninstall >/dev/null
left=$(traces)
check "nothing is left: ${left:-nothing}" test -z "$left"
check "uninstalling twice does no harm" ./sampan-uninstall
