//! Records which MPI the program is built with, and passes that MPI's run path to the linker.

#[path = "build/run_paths.rs"]
mod run_paths;

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=MPICC");
    let mpicc = std::env::var("MPICC").unwrap_or_else(|_| "mpicc".to_owned());
    let found = find(&mpicc).unwrap_or_else(|| PathBuf::from(&mpicc));
    println!("cargo:rustc-env=PXCLUSTER_MPICC={}", found.display());
    println!("cargo:rustc-env=PXCLUSTER_MPIRUN={}", mpirun_beside(&found).display());
    // MPIs outside the system's library path name it in their compiler wrapper; rsmpi does not pass it on.
    let show = Command::new(&found).arg("-show").output().map(|output| output.stdout).unwrap_or_default();
    for path in run_paths::run_paths(&String::from_utf8_lossy(&show)) {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{path}");
    }
}

/// The launcher that belongs to a compiler wrapper: `mpicc.openmpi` has `mpirun.openmpi`, `mpicc` has `mpirun`.
fn mpirun_beside(mpicc: &Path) -> PathBuf {
    let name = mpicc.file_name().unwrap_or_default().to_string_lossy().replacen("mpicc", "mpirun", 1);
    mpicc.with_file_name(name)
}

fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|candidate| candidate.is_file())
}
