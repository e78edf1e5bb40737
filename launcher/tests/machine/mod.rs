//! A machine for one test, with an mpirun and a rank program of a few lines.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A rank program that describes itself as Open MPI's and otherwise shows how it was called.
const RANK: &str = r#"
if [ "${1-}" = --describe ]; then
    echo '{"mpi":"openmpi","library":"Open MPI v4.1.4","mpicc":null,"mpirun":null}'
    exit
fi
echo "rank $$ of $PMI_RANK: $*"
"#;

/// The first half of every mpirun.
const VERSION: &str = r#"[ "$1" = --version ] && echo "mpirun (Open MPI) 4.1.4" && exit"#;

pub(crate) struct Machine {
    directory: TempDir,
}

impl Machine {
    /// A machine whose mpirun does this after its `--version`.
    pub(crate) fn new(mpirun: &str) -> Self {
        let machine = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.path("bin")).unwrap();
        machine.program("bin/mpirun", &format!("{VERSION}\n{mpirun}"));
        machine.program("bin/pxcluster-rank", RANK);
        machine
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn program(&self, name: &str, text: &str) {
        fs::write(self.path(name), format!("#!/bin/bash\n{text}")).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pxcluster"));
        command
            .args(arguments.split_whitespace())
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()))
            .env("HOME", self.directory.path())
            .env("PXCLUSTER_DIR", self.directory.path())
            .env("PXCLUSTER_RANK_PROGRAM", self.path("bin/pxcluster-rank"));
        command
    }

    pub(crate) fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of a command that succeeds.
    pub(crate) fn succeed(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The message of a command that fails.
    pub(crate) fn fail(&self, arguments: &str) -> String {
        message(&self.run(arguments), 1)
    }
}

/// What a command that ends with `code` has to say, without the newline at its end.
pub(crate) fn message(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    String::from_utf8(output.stderr.clone()).unwrap().trim_end().to_owned()
}
