//! The build script's reading of `mpicc -show`, with what wrappers print.

#[path = "../build/run_paths.rs"]
mod run_paths;

use run_paths::run_paths;

#[test]
fn wrappers_name_run_paths_in_several_ways() {
    let wheel = "cc -I/v/include -pthread -L/v/lib -Wl,-rpath -Wl,/v/lib -Wl,--enable-new-dtags -lmpi";
    assert_eq!(run_paths(wheel), ["/v/lib"], "Open MPI 5 and MPICH 5 of PyPI");
    let joined = "gcc -Wl,-rpath,/opt/a/lib -L/opt/a/lib -Wl,-rpath=/opt/b/lib,--as-needed -lmpi";
    assert_eq!(run_paths(joined), ["/opt/a/lib", "/opt/b/lib"]);
    assert_eq!(run_paths("icc -Xlinker -rpath -Xlinker /opt/c/lib -lmpi"), ["/opt/c/lib"]);
    let debian = "gcc -I/usr/lib/x86_64-linux-gnu/openmpi/include -L/usr/lib/x86_64-linux-gnu/openmpi/lib -lmpi";
    assert!(run_paths(debian).is_empty());
    assert!(run_paths("cc -Wl,-rpath").is_empty(), "cut short");
}
