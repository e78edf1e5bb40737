# shellcheck shell=bash
# shellcheck disable=SC2154 # root, venv: set by scripts/setup
# The steps of scripts/setup. Each does nothing when its work is done already.

check_cargo() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    have cargo || die "building needs cargo $wanted or newer: get one with rustup (https://rustup.rs)"
    found=$(cargo --version | sed 's/^cargo \([0-9.]*\).*/\1/')
    [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] ||
        die "building needs cargo $wanted or newer, this is $found: run 'rustup update'"
}

check_compiler() {
    if ! have cc && ! have gcc && ! have clang; then
        is_debian || die "building needs a C compiler: install gcc, or 'module load gcc'"
        install_packages "building needs a C compiler" gcc libc6-dev
    fi
    # Without root the build takes libclang from PyPI by itself.
    # Not libclang-cpp.so, which other packages bring.
    if is_root && is_debian && ! compgen -G '/usr/lib/llvm-*/lib/libclang[.-][s0-9]*' >/dev/null; then
        install_packages "building needs libclang" libclang-dev
    fi
}

# Prints the real path of an interpreter that will do, or says why it does not.
check_python() { # name
    "$1" - 2>/dev/null <<'PYTHON' || return 1
import os, pathlib, sys, sysconfig
get = sysconfig.get_config_var
name = get("INSTSONAME") or ""
folders = [get("LIBDIR") or "", sys.base_prefix + "/lib", f"/usr/lib/{get('MULTIARCH')}"]
if sys.implementation.name != "cpython" or sys.version_info < (3, 11):
    sys.exit(f"it is {sys.implementation.name} {sys.version.split()[0]}")
if get("Py_GIL_DISABLED"):
    sys.exit("it is a free-threaded build")
if not any(".so" in name and pathlib.Path(folder, name).exists() for folder in folders):
    print("no libpython")
    sys.exit(0)
print(os.path.realpath(sys._base_executable))  # of the virtual environment's, too
PYTHON
}

find_python() {
    local candidate found names=(python3 python3.13 python3.12 python3.11)
    [ -z "$python" ] || names=("$python")
    for candidate in "${names[@]}"; do
        found=$(check_python "$candidate") || continue
        if [ "$found" = "no libpython" ]; then
            found=$(readlink -f "$(command -v "$candidate")")
            if [[ $found != /usr/bin/* ]] || ! is_root || ! is_debian; then continue; fi
            install_packages "engines need a shared libpython" "lib${found##*/}"
            found=$(check_python "$candidate") || continue
        fi
        python=$found
        return
    done
    [ -z "$python" ] || die "$python is no CPython from 3.11 with a shared libpython: name another with --python"
    if ! is_root || ! is_debian; then
        die "there is no CPython from 3.11 with a shared libpython: install one (on Debian \
'apt install python3-venv libpython3-dev'), 'module load python', or name one with --python"
    fi
    install_packages "engines need Python" python3 python3-venv libpython3-dev
    python=$(check_python /usr/bin/python3) || die "Debian's python3 is older than 3.11: name another with --python"
}

find_mpi() {
    mpicc=''
    [ -n "$mpi" ] || mpi=$(mpicc_flavour "${MPICC:-mpicc}") || mpi=openmpi
    mpicc=$(find_mpicc "$mpi" "$venv") && mpirun_beside "$mpicc" >/dev/null && return
    if is_root && is_debian; then
        case $mpi in
        openmpi) install_packages "there is no Open MPI here" openmpi-bin libopenmpi-dev ;;
        mpich) install_packages "there is no MPICH here" mpich libmpich-dev ;;
        esac
        mpicc=$(find_mpicc "$mpi" "$venv") || die "the $mpi just installed has no mpicc: set MPICC to it"
    fi
}

install_packaged_mpi() {
    say "there is no $mpi here ('module load $mpi' would be better on a cluster): taking the one of PyPI"
    "$venv/bin/python" -m pip install --quiet "$mpi" || die "there is no $mpi: install one, or 'module load $mpi'"
    mpicc=$venv/bin/mpicc
    [ "$(PATH=$venv/bin:$PATH mpicc_flavour "$mpicc")" = "$mpi" ] || die "the $mpi of PyPI does not work here: \
install one, or 'module load $mpi'"
}

# A virtual environment belongs to one interpreter and one MPI.
make_venv() {
    local kind="$python $mpi" stamp=$venv/pxcluster-venv.txt
    [ "$(cat "$stamp" 2>/dev/null)" = "$kind" ] && return
    if [ -e "$venv" ] && [ ! -e "$stamp" ] && [ -n "$(ls -A "$venv")" ]; then
        die "$venv exists and is not scripts/setup's: choose another with --venv"
    fi
    case $python in /usr/bin/*) is_debian && install_packages "a virtual environment needs it" python3-venv ;; esac
    "$python" -m venv --clear "$venv" || die "$python cannot make a virtual environment: install its venv module"
    "$venv/bin/python" -m pip install --quiet --upgrade pip
    echo "$kind" >"$stamp"
}

# One line that changes when anything does that is built or installed.
sources_hash() {
    {
        "$mpicc" -show
        "$python" --version
        rustc --version
        cd "$root" || exit
        find Cargo.toml Cargo.lock pyproject.toml protocol scheduler transport controller rank-engine launcher slurm \
            client/src scripts/lib -type f ! -name '*.pyc' ! -path '*.egg-info/*' ! -path '*/tests/*' \
            ! -path 'slurm/templates/*' ! -name '*.md' -print0 | sort -z | xargs -0 sha256sum
    } | sha256sum
}

install_pxcluster() {
    local stamp=$venv/pxcluster-sources.txt hash
    PATH=$venv/bin:$PATH
    hash=$(sources_hash)
    [ "$(cat "$stamp" 2>/dev/null)" = "$hash" ] && return
    say "building pxcluster with $mpi; the first time takes some minutes"
    rm -f "$stamp"
    # The build backend chooses target/<mpi> itself unless told; the tests must use the same.
    MPICC=$mpicc "$venv/bin/python" -m pip install --quiet "$root"
    echo "$hash" >"$stamp"
}

# Which MPI the venv's mpi4py finds, by the names of this script; nothing if it finds none.
mpi_of_mpi4py() {
    "$venv/bin/python" -c "import mpi4py; mpi4py.rc.initialize = False
from mpi4py import MPI; print(MPI.get_vendor()[0].replace(' ', '').lower())" 2>/dev/null || true
}

install_dev_tools() {
    local list=$root/scripts/lib/requirements-dev.txt stamp=$venv/pxcluster-dev.txt
    if ! have shellcheck && is_debian && is_root; then
        install_packages "scripts/check needs it" shellcheck
    fi
    if is_debian && is_root; then
        install_packages "the tests of srun start a Slurm of their own" munge slurm-wlm
        install_packages "the tests of several hosts make them" openssh-server openssh-client iproute2 util-linux
    fi
    cmp -s "$list" "$stamp" && return
    "$venv/bin/python" -m pip install --quiet -r "$list"
    if [ "$(mpi_of_mpi4py)" != "$mpi" ]; then
        # Debian's MPICH has another name than the one that the package of PyPI looks for, which takes Open MPI then.
        say "building mpi4py with $mpi"
        CFLAGS=-O0 MPICC=$mpicc "$venv/bin/python" -m pip install --quiet --force-reinstall --no-deps \
            --no-binary mpi4py mpi4py
    fi
    cp "$list" "$stamp"
}

# `. .venv/bin/activate` is all that a user's `mpirun -n 5 pxcluster` needs.
extend_activate() {
    local name begin='# pxcluster: begin' end='# pxcluster: end' file=$venv/bin/activate new
    if [ "$(dirname "$mpirun")" != "$venv/bin" ]; then
        # Wrappers and no links: an mpirun looks for its parts beside the name it was called by.
        for name in mpirun mpiexec; do
            printf '#!/bin/sh\nexec %s "$@"\n' "$mpirun" >"$venv/bin/$name"
            chmod +x "$venv/bin/$name"
        done
    fi
    new=$(
        sed "/^$begin/,/^$end/d" "$file"
        echo "$begin (written by scripts/setup)"
        if [ "$mpi" = openmpi ]; then
            # More ranks than cores are welcome, and none is bound to a core. Open MPI 4 reads the first two, 5 the others.
            echo "export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none"
            echo "export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe PRTE_MCA_hwloc_default_binding_policy=none"
            ! is_root || echo "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
        fi
        echo "hash -r 2>/dev/null"
        echo "$end"
    )
    printf '%s\n' "$new" >"$file"
    printf '%s=%q\n' flavour "$mpi" mpicc "$mpicc" mpirun "$mpirun" python "$python" >"$venv/pxcluster-setup.sh"
    printf 'export MPICC=%q CARGO_TARGET_DIR=%q\n' "$mpicc" "$root/target/$mpi" >>"$venv/pxcluster-setup.sh"
}
