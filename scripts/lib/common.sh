# shellcheck shell=bash
# What the scripts share: messages, the places of things, and which MPI is used.

# shellcheck disable=SC2034 # used by the scripts
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }
is_debian() { have apt-get && have dpkg; }

# Debian packages that are missing are installed by root; others are told what to ask for.
install_packages() { # reason package...
    local reason=$1 package missing=()
    shift
    for package in "$@"; do
        # `dpkg -s` also knows packages that were removed and have left their configuration.
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    is_root || die "$reason: ask for 'apt install ${missing[*]}'"
    say "installing ${missing[*]} ($reason)"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# openmpi or mpich, for an mpicc that works.
mpicc_flavour() { # mpicc
    have "$1" && "$1" -show >/dev/null 2>&1 || return 1
    if "$1" --showme:version >/dev/null 2>&1; then echo openmpi; else echo mpich; fi
}

# The mpicc of one MPI: $MPICC, the one on PATH, Debian's, the virtual environment's.
find_mpicc() { # flavour venv
    local candidate
    for candidate in "${MPICC:-}" mpicc "mpicc.$1" "$2/bin/mpicc"; do
        if [ -n "$candidate" ] && [ "$(mpicc_flavour "$candidate")" = "$1" ]; then
            candidate=$(command -v "$candidate")
            # On Debian the plain name may come to mean the other MPI one day.
            [ ! -x "$candidate.$1" ] || candidate=$candidate.$1
            echo "$candidate"
            return
        fi
    done
    return 1
}

# The mpirun that belongs to an mpicc stands beside it and has the same ending.
mpirun_beside() { # mpicc
    local name
    for name in mpirun mpiexec; do
        name=$(dirname "$1")/$name$(basename "$1" | sed 's/^mpicc//')
        [ -x "$name" ] && echo "$name" && return
    done
    return 1
}

# Reads the settings of a finished `scripts/setup`: flavour, mpicc, mpirun, python, CARGO_TARGET_DIR.
load_setup() { # venv
    # shellcheck source=/dev/null
    . "$1/pxcluster-setup.sh"
    # shellcheck source=/dev/null
    . "$1/bin/activate"
}
