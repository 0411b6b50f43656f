# Sets up what this checkout needs; sourced by ./quickstart and ./test. Sets PYTHON to the environment's interpreter.
# Needs bash and Python >= 3.11. As root on Debian or Ubuntu it installs the system packages that are missing; an ordinary user is told their names.
#   setup runtime    the product alone
#   setup tests      the product and what its tests need

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

find_python() {
    local name found
    for name in ${UNIOS_PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        # The interpreter itself, not a wrapper that some version managers put in front of it.
        found=$("$name" -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' 2>/dev/null) || continue
        if [ -n "$found" ]; then
            printf '%s\n' "$found"
            return 0
        fi
    done
    return 1
}

# Prints the Debian packages that are missing.
missing_packages() {
    local purpose=$1 python=$2
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        "$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])'
    fi
    [ "$purpose" = tests ] || return 0
    have() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1; }
    have ip || echo iproute2
    have nft || echo nftables
    have unshare && have nsenter && have setpriv || echo util-linux
    have mount || echo mount
    have mkfs.ext4 || echo e2fsprogs
    have ps || echo procps
    have strace || echo strace
    have etcd || echo etcd-server
}

install_packages() {
    local purpose=$1 python=$2 packages
    packages=$(missing_packages "$purpose" "$python" | sort -u | tr '\n' ' ')
    [ -n "${packages// /}" ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing system packages: $packages"
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086
        apt-get install -y -q --no-install-recommends $packages >/dev/null 2>&1 && return 0
        # shellcheck disable=SC2086
        { apt-get update -q && apt-get install -y -q --no-install-recommends $packages; } >/dev/null || say "could not install: $packages"
        return 0
    fi
    say "these packages are missing, root has to install them once:  apt-get install $packages"
    say "going on with what works without them"
}

# Where the environment lives: in the checkout, or in the user's cache when the checkout belongs to somebody else and has none.
environment_of() {
    local here=$1
    if [ -w "$here" ] || [ -e "$here/.venv/bin/python" ]; then
        printf '%s\n' "$here/.venv"
    else
        printf '%s/unios-%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}" "$(printf '%s' "$here" | cksum | cut -d' ' -f1)"
    fi
}

setup() {
    local purpose=$1 here=$2 python environment lock stamp wanted
    python=$(find_python) || {
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
            say "installing system packages: python3 python3-venv"
            { apt-get install -y -q --no-install-recommends python3 python3-venv || { apt-get update -q && apt-get install -y -q --no-install-recommends python3 python3-venv; }; } >/dev/null 2>&1
            python=$(find_python) || fail "unios needs Python 3.11 or newer, and this distribution's is older"
        else
            fail "unios needs Python 3.11 or newer: root has to install it once, e.g. apt-get install python3 python3-venv"
        fi
    }
    install_packages "$purpose" "$python"
    environment=$(environment_of "$here")
    lock=$here/requirements.lock
    [ "$purpose" = tests ] && lock=$here/requirements-tests.lock
    wanted="$("$python" -V) $(cat "$here"/requirements*.lock "$here/pyproject.toml" | cksum) $here"
    stamp=$environment/.unios-$purpose
    PYTHON=$environment/bin/python
    export PYTHON
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$PYTHON" -c 'import unios' 2>/dev/null; then
        return 0
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "without that package no virtual environment can be made; nothing can be done before root has installed it"
    say "setting up a virtual environment (once, about half a minute)"
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        rm -rf "$environment"
        "$python" -m venv "$environment" || fail "the virtual environment $environment could not be made"
    fi
    "$PYTHON" -m pip install -q --disable-pip-version-check -r "$lock" || fail "the Python packages could not be installed: is there a network, or a mirror in pip's configuration?"
    "$PYTHON" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e "$here" || fail "unios itself could not be installed into $environment"
    printf '%s' "$wanted" >"$stamp"
}
