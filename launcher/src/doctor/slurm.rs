//! Slurm: which `--mpi=` of srun speaks to the MPI that pxcluster has.

use std::path::Path;
use std::process::{Command, Output};

use super::ask::{Ask, telling_line};
use super::finding::Finding;
use crate::rank_program::Mpi;

const SRUN: &str = "srun";

/// Asks srun, if there is one.
pub(crate) fn examine(ask: &Ask, in_job: bool, mpi: Mpi) -> Finding {
    if !is_on_path("srun") {
        return judge_absent(in_job);
    }
    match ask.program(Command::new("srun").arg("--mpi=list")) {
        Ok(output) if output.status.success() => judge_srun(&parse_list(&text_of(&output)), mpi, is_on_path("sbatch")),
        Ok(output) => judge_silent(in_job, &telling_line(&output)),
        Err(reason) => judge_silent(in_job, &reason.to_string()),
    }
}

fn is_on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(name).is_file())
}

/// Slurm before 22.05 wrote the list to standard error.
fn text_of(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// Reads `srun --mpi=list`: one plugin a line; before 22.05 behind `srun: `, and in 22.05 with a line of versions last.
fn parse_list(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.trim().trim_start_matches("srun:").trim())
        .filter(|line| !line.is_empty() && !line.contains(' '))
        .map(str::to_owned)
        .collect()
}

fn judge_absent(in_job: bool) -> Finding {
    if in_job {
        let found = "there is no srun on PATH, by which mpirun reaches the other nodes of a Slurm job";
        return Finding::warning(SRUN, found, "put Slurm's directory on PATH, or load its module");
    }
    Finding::ok(SRUN, "no Slurm here: there is no srun on PATH")
}

fn judge_silent(in_job: bool, words: &str) -> Finding {
    let found = format!("srun is there and knows no cluster ({words})");
    if in_job {
        return Finding::warning(
            SRUN,
            found,
            "set SLURM_CONF to the configuration of this cluster, or ask who runs it",
        );
    }
    Finding::ok(SRUN, format!("{found}, which does not matter outside Slurm"))
}

fn judge_srun(plugins: &[String], mpi: Mpi, has_sbatch: bool) -> Finding {
    let (name, wanted) = match mpi {
        Mpi::OpenMpi => ("Open MPI", "pmix"),
        Mpi::Mpich => ("MPICH", "pmi2"),
        Mpi::Other => return Finding::ok(SRUN, format!("srun offers --mpi={}", plugins.join(", "))),
    };
    let batch = if has_sbatch { "; sbatch is there" } else { "; there is no sbatch on PATH" };
    // With versions: pmix_v4 where there is no plain pmix.
    let fits = |plugin: &&String| *plugin == wanted || plugin.starts_with(&format!("{wanted}_"));
    match plugins.iter().find(|plugin| *plugin == wanted).or_else(|| plugins.iter().find(fits)) {
        Some(plugin) => {
            Finding::ok(SRUN, format!("steps are started with `srun --mpi={plugin} pxcluster` for {name}{batch}"))
        }
        None => Finding::warning(
            SRUN,
            format!("{name} needs --mpi={wanted}, and srun offers {} only", plugins.join(", ")),
            "use `pxcluster start` or mpirun in the job, or ask for that plugin of Slurm",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    /// Slurm 22.05.8, as Debian 12 has it.
    const LIST: &str = "MPI plugin types are...\n\tpmix\n\tnone\n\tcray_shasta\n\tpmi2\nspecific pmix plugin versions \
                        available: pmix_v4\n";
    /// Slurm 20.11.
    const OLDER: &str = "srun: MPI types are...\nsrun: none\nsrun: pmi2\nsrun: pmix_v3\n";

    #[test]
    fn plugins_are_read() {
        assert_eq!(parse_list(LIST), ["pmix", "none", "cray_shasta", "pmi2"]);
        assert_eq!(parse_list(OLDER), ["none", "pmi2", "pmix_v3"]);
    }

    #[test]
    fn each_mpi_has_its_plugin() {
        let judge = |text, mpi| judge_srun(&parse_list(text), mpi, true);
        assert_eq!(
            judge(LIST, Mpi::OpenMpi).to_string(),
            "ok      steps are started with `srun --mpi=pmix pxcluster` for Open MPI; sbatch is there"
        );
        assert!(judge(OLDER, Mpi::OpenMpi).found.contains("`srun --mpi=pmix_v3 pxcluster`"));
        assert!(judge(LIST, Mpi::Mpich).found.contains("`srun --mpi=pmi2 pxcluster` for MPICH"));
        assert_eq!(judge(LIST, Mpi::Other).found, "srun offers --mpi=pmix, none, cray_shasta, pmi2");
        let lacking = judge("MPI plugin types are...\n\tnone\n\tpmi2\n", Mpi::OpenMpi);
        assert_eq!(lacking.verdict, Verdict::Warning);
        assert_eq!(lacking.found, "Open MPI needs --mpi=pmix, and srun offers none, pmi2 only");
    }

    #[test]
    fn an_srun_without_a_cluster_matters_in_a_job_alone() {
        let words = "srun: fatal: Could not establish a configuration source";
        assert_eq!(judge_silent(false, words).verdict, Verdict::Ok);
        assert_eq!(judge_silent(true, words).verdict, Verdict::Warning);
        assert_eq!(judge_absent(false).verdict, Verdict::Ok);
        assert_eq!(judge_absent(true).verdict, Verdict::Warning);
    }
}
