//! Records which MPI the program is built with, and passes that MPI's run path to the linker.

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
    for path in run_paths(&String::from_utf8_lossy(&show)) {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{path}");
    }
}

/// The run paths of a compiler's command line: `-Wl,-rpath,PATH`, `-Wl,-rpath=PATH`, or in two words `-Wl,-rpath -Wl,PATH`,
/// which some wrappers write as `-Xlinker -rpath -Xlinker PATH`.
fn run_paths(command: &str) -> Vec<String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let mut for_linker = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if let Some(some) = word.strip_prefix("-Wl,") {
            for_linker.extend(some.split(','));
        } else if at > 0 && words[at - 1] == "-Xlinker" {
            for_linker.push(word);
        }
    }
    let mut paths = Vec::new();
    for (at, word) in for_linker.iter().enumerate() {
        let word = word.trim_start_matches('-');
        if word == "rpath" {
            paths.extend(for_linker.get(at + 1).map(|path| (*path).to_owned()));
        } else if let Some(path) = word.strip_prefix("rpath=") {
            paths.push(path.to_owned());
        }
    }
    paths
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
