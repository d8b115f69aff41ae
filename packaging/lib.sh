# What sampan-up, sampan-uninstall and run-tests share. Sourced, for a POSIX sh with -eu.

find_python() { # a Python that is new enough; its path
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null \
            && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

install_python() { # from the distribution, where its default is older; its path
    for version in 3.13 3.12 3.11; do
        if apt-cache show "python$version" >/dev/null 2>&1; then
            ensure_packages "$1" "python$version" "python$version-venv" >&2
            command -v "python$version"
            return 0
        fi
    done
    return 1
}

ensure_packages() { # FILE PACKAGE...: install what is missing and note it in FILE
    note=$1
    shift
    missing=
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] \
            || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "These are missing, and there is no apt-get here to install them:$missing" >&2
        return 1
    fi
    echo "    apt-get install$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # names are words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    mkdir -p "$(dirname "$note")"
    for package in $missing; do echo "$package" >>"$note"; done
}
