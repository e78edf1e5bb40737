//! The program `pxcluster`: an MPI rank under mpirun or srun, a command line anywhere else.
//!
//! This crate never loads MPI or Python, so that it runs on a login node that has neither: a rank is made by
//! `exec()` of the program `pxcluster-rank`, and a running cluster is asked through its client link.
//!
//! | module | what it does |
//! |---|---|
//! | [`cli`] | the flags |
//! | [`env`] | whether this process is an MPI rank; pure |
//! | [`plan`] | engines and machine in, mpirun's command line out; pure |
//! | [`words`] | words in one text, as a shell tells them apart; pure |
//! | [`failure`] | the reason of a failure, out of what a start has printed; pure |
//! | [`machine`] | what this machine is: name, cores, processes |
//! | [`directory`] | a cluster's directory and connection file |
//! | [`rank_program`] | the program `pxcluster-rank`: where it is, what it says of itself |
//! | [`mpirun`] | which mpirun, and whose it is |
//! | [`link`] | the only door to a running controller |
//! | [`start`], [`run`], [`status`], [`list`], [`top`], [`logs`], [`submit`], [`proxy`], [`stop`] | the commands |
//! | [`requeue`] | jobs that go back to the queue with their script unfinished |
//! | [`doctor`] | the command that says what would keep a cluster from starting here |

pub mod cli;
pub mod directory;
pub mod doctor;
pub mod env;
pub mod failure;
pub mod link;
pub mod list;
pub mod logs;
pub mod machine;
pub mod mpirun;
pub mod plan;
pub mod proxy;
pub mod rank_program;
pub mod requeue;
pub mod run;
pub mod start;
pub mod status;
pub mod stop;
pub mod submit;
pub mod top;
pub mod words;
