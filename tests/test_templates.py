"""The job scripts in ``slurm/templates``, each submitted to a real Slurm and changed only where a user would."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pxcluster as ipp
import pytest
from harness import slurm
from harness.checkpoints import results_in
from harness.cluster import PREFIX, Site
from harness.hosts import is_hydra
from harness.jobs import describe, start_soon, wait_ended
from harness.waiting import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = ROOT / "slurm" / "templates"

ENGINES = """
import os, sys
import pxcluster as ipp
rc = ipp.Client()
print(len(rc), "engines,", rc[:].apply_sync(os.environ.get, "OMP_NUM_THREADS"), sys.argv[1:])
sys.exit(7)
"""
GATED = """
import sys
sys.path.insert(0, "examples")
import resumable

def work(item):
    import os, time
    with open(f"runs-{item}", "a") as file:
        file.write("run\\n")
    while item >= 3 and not os.path.exists("gate"):
        time.sleep(0.01)
    return item * item

resumable.work = work
resumable.main()
"""
STEP = """
import sys
import pxcluster as ipp
with open("steps", "a") as file:
    print(sys.argv[1], sum(ipp.Client()[:].map_sync(abs, [-1, -2])), file=file)
sys.exit(sys.argv[1] == "fails")
"""


class Desk:
    """Where a user copies templates to, changes and submits them."""

    def __init__(self, site: Site) -> None:
        self.site = site
        shutil.copytree(ROOT / "examples", site.base / "examples")

    def template(self, name: str, *changes: tuple[str, str]) -> str:
        """Copies a template; each change is a text and what takes its place. The path of the copy."""
        text = (TEMPLATES / name).read_text().replace("~/venv/bin/activate", f"{PREFIX}/bin/activate")
        for old, new in changes:
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
            text = text.replace(old, new)
        path = self.site.base / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def program(self, name: str, text: str) -> str:
        """A program of the user's."""
        (self.site.base / name).write_text(text)
        return name

    def run(self, *command: str) -> str:
        """What a command prints that must succeed."""
        done = self.site.run(*command, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, template: str, *arguments: str) -> str:
        """The number of the job."""
        return self.run("sbatch", "--parsable", template, *arguments).strip()

    def describe(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        return describe(self.run, job)

    def wait_ended(self, job: str) -> tuple[str, str]:
        """State and exit code of a job when it is over."""
        what = wait_ended(self.run, job, self.outputs)
        return what["JobState"], what["ExitCode"]

    def output(self, name: str) -> str:
        """What a job has printed."""
        return (self.site.base / name).read_text()

    def outputs(self) -> str:
        """What all jobs have printed."""
        return "\n".join(f"{path.name}: {path.read_text()}" for path in self.site.base.glob("*.out"))

    def exists(self, *names: str) -> Callable[[], bool]:
        """Whether these files are there."""
        return lambda: all((self.site.base / name).exists() for name in names)


@pytest.fixture
def desk(private_slurm: slurm.Slurm, new_site: Callable[..., Site]) -> Desk:
    return Desk(new_site(**private_slurm.environment))


@pytest.fixture
def openmpi() -> None:
    if is_hydra():
        pytest.skip("the template is for Open MPI, and this is MPICH")


@pytest.fixture
def mpich() -> None:
    if not is_hydra():
        pytest.skip("the template is for MPICH, and this is Open MPI")


def check_batch(desk: Desk, name: str) -> None:
    """As it is, with the example; then with another size and a program that fails."""
    example = desk.submit(desk.template(name))
    own = desk.template(name, ("--ntasks=5", "--ntasks=3"), ("--cpus-per-task=1 ", "--cpus-per-task=2 "))
    fails = desk.submit(own, desk.program("engines.py", ENGINES), "-a", "two words")
    assert desk.wait_ended(example) == ("COMPLETED", "0:0"), desk.outputs()
    found = re.search(r"^pi is about (.*): 1000000 points, 4 engines$", desk.output(f"pxcluster-{example}.out"), re.M)
    assert found, desk.outputs()
    assert 3.13 < float(found[1]) < 3.15
    assert desk.wait_ended(fails) == ("FAILED", "7:0"), desk.outputs()
    assert "2 engines, ['2', '2'] ['-a', 'two words']\n" in desk.output(f"pxcluster-{fails}.out")


@pytest.mark.usefixtures("openmpi")
def test_batch_srun(desk: Desk) -> None:
    check_batch(desk, "batch-srun.sbatch")


@pytest.mark.smoke
def test_batch_mpirun(desk: Desk) -> None:
    check_batch(desk, "batch-mpirun.sbatch")


@pytest.mark.smoke
@pytest.mark.usefixtures("mpich")
def test_mpich(desk: Desk) -> None:
    check_batch(desk, "mpich.sbatch")


@pytest.mark.usefixtures("openmpi")
def test_gpu(desk: Desk) -> None:
    job = desk.submit(desk.template("gpu.sbatch"))
    assert desk.wait_ended(job) == ("COMPLETED", "0:0"), desk.outputs()
    said = desk.output(f"pxcluster-gpu-{job}.out")
    found = re.findall(r"^(.*) on .*: GPU (.*)$", said, re.M)
    assert found == [("this program", "0,1"), ("engine 0", "0"), ("engine 1", "1")], said
    wrong = desk.submit(desk.template("gpu.sbatch", ("--gpus-per-node=2", "--gpus-per-node=1")))
    assert desk.wait_ended(wrong) == ("FAILED", "2:0")
    assert desk.output(f"pxcluster-gpu-{wrong}.out") == "--ntasks is not nodes x GPUs + 1\n"


def test_array(desk: Desk) -> None:
    job = desk.submit(desk.template("array.sbatch"))
    for index, points in enumerate([100000, 200000, 400000]):
        assert desk.wait_ended(f"{job}_{index}") == ("COMPLETED", "0:0"), desk.outputs()
        assert f": {points} points, 2 engines\n" in desk.output(f"pxcluster-array-{job}_{index}.out")


ITEMS = 12


def submit_gated(desk: Desk, *changes: tuple[str, str]) -> str:
    """A job that has three results in its file, and whose four engines run items that end when there is a gate."""
    program = desk.program("gated.py", GATED)
    job = desk.submit(desk.template("requeue.sbatch", *changes), program, "results", str(ITEMS))
    wait_for(lambda: results_in(desk.site.base / "results") == 3, desk.outputs, pause=0.1)
    wait_for(lambda: len(list(desk.site.base.glob("runs-*"))) == 7, desk.outputs, pause=0.1)
    return job


def check_resumed(desk: Desk, job: str, finished: int) -> list[int]:
    """The second start of the job, after one with so many results; how often each item was run."""
    wait_for(lambda: desk.describe(job)["Restarts"] == "1", desk.outputs, pause=0.1)
    (desk.site.base / "gate").touch()
    wait_for(lambda: desk.describe(job)["JobState"] == "PENDING", desk.outputs, pause=0.1)
    start_soon(desk.run, job)
    assert desk.wait_ended(job) == ("COMPLETED", "0:0"), desk.outputs()
    said = desk.output(f"pxcluster-requeue-{job}.out").splitlines()
    wanted = [line for line in said if re.match(r"start |\d+ items|all ", line)]
    assert wanted == [
        f"start 1 of job {job}",
        "0 items are finished, 12 are missing",
        f"start 2 of job {job}",
        f"{finished} items are finished, {ITEMS - finished} are missing",
        "all 12 items are finished, their sum is 506",
    ], said
    assert results_in(desk.site.base / "results") == ITEMS
    return [len(desk.output(f"runs-{item}").splitlines()) for item in range(ITEMS)]


@pytest.mark.parametrize("name", ["USR2", "USR1", "TERM"])
def test_a_job_that_is_told_of_its_end_goes_back_to_the_queue(desk: Desk, name: str) -> None:
    job = submit_gated(desk)
    desk.run("scancel", "--batch", f"--signal={name}", job)  # what Slurm does before the time is over
    said = desk.site.base / f"pxcluster-requeue-{job}.out"
    wait_for(lambda: "the cluster is ending" in said.read_text(), desk.outputs, pause=0.1)
    (desk.site.base / "gate").touch()
    assert check_resumed(desk, job, 7) == [1] * ITEMS  # those that ran could end
    assert "ClusterEnding" in said.read_text()
    assert f"job {job} is put back into the queue" in said.read_text()
    assert "the cluster ended before the script did" not in said.read_text()


def test_a_signal_to_all_processes_of_a_job_is_the_end_of_its_script_and_not_of_the_job(desk: Desk) -> None:
    job = submit_gated(desk)
    desk.run("scancel", "--full", "--signal=TERM", job)  # as at the time limit
    runs = check_resumed(desk, job, 3)
    assert (runs[:3], sorted(runs[3:])) == ([1, 1, 1], [1, 1, 1, 1, 1, 2, 2, 2, 2])


def test_tasks_that_outlast_the_grace_time_are_run_again(desk: Desk) -> None:
    job = submit_gated(desk, ("run --requeue", "run --requeue --grace 1"))
    desk.run("scancel", "--batch", "--signal=USR2", job)
    runs = check_resumed(desk, job, 3)
    assert (runs[:3], sorted(runs[3:])) == ([1, 1, 1], [1, 1, 1, 1, 1, 2, 2, 2, 2])


def test_a_job_that_is_preempted_goes_on_later(desk: Desk) -> None:
    job = submit_gated(desk)
    urgent = desk.submit(
        desk.template("batch-mpirun.sbatch", ("##SBATCH --partition=compute", "#SBATCH -p urgent -n 16"))
    )
    assert desk.wait_ended(urgent) == ("COMPLETED", "0:0"), desk.outputs()
    runs = check_resumed(desk, job, 3)
    assert (runs[:3], sorted(runs[3:])) == ([1, 1, 1], [1, 1, 1, 1, 1, 2, 2, 2, 2])


def test_a_job_that_is_cancelled_stays_so(desk: Desk) -> None:
    job = submit_gated(desk)
    desk.run("scancel", job)
    assert desk.wait_ended(job)[0] == "CANCELLED", desk.outputs()
    assert desk.describe(job)["Restarts"] == "0"


@pytest.mark.usefixtures("openmpi")
@pytest.mark.parametrize(("end", "state"), [("stop", "COMPLETED"), ("scancel", "CANCELLED")])
def test_cluster(desk: Desk, end: str, state: str) -> None:
    job = desk.submit(desk.template("cluster.sbatch"))
    connection = desk.site.directory / f"job-{job}" / "connection.json"
    with ipp.Client(str(connection), timeout=100) as rc:
        assert rc[:].apply_sync(abs, -1) == [1, 1, 1, 1]
    desk.run(*(["scancel", job] if end == "scancel" else ["pxcluster", "stop", "--cluster-id", f"job-{job}"]))
    assert desk.wait_ended(job)[0] == state, desk.outputs()
    wait_for(lambda: not connection.exists(), "the connection file goes")


@pytest.mark.usefixtures("openmpi")
def test_notebook(desk: Desk) -> None:
    program = ("(jupyter lab --no-browser)", f"(python {desk.program('engines.py', ENGINES)})")
    done = desk.site.run(desk.template("notebook.sh", program), timeout=200)
    assert "4 engines, ['1', '1', '1', '1'] []\n" in done.stdout, done.stderr
    assert done.returncode == 7


@pytest.mark.usefixtures("openmpi")
def test_a_notebook_whose_cluster_does_not_start_says_why(desk: Desk) -> None:
    done = desk.site.run(desk.template("notebook.sh", ("--mpi=pmix", "--mpi=none")), timeout=200)
    assert done.returncode == 1, done.stdout
    assert "direct launched" in done.stderr, done.stderr
    assert "No such process" not in done.stderr


def test_chain(desk: Desk) -> None:
    desk.template("batch-mpirun.sbatch", ("--ntasks=5", "--ntasks=3"))
    desk.program("step.py", STEP)
    steps = [(f"examples/pi.py {n}00000", f"step.py {name}") for n, name in [(1, "first"), (2, "fails"), (4, "third")]]
    said = desk.run(desk.template("chain.sh", ("batch-srun.sbatch", "batch-mpirun.sbatch"), *steps))
    jobs = re.findall(r"^job (\d+): step.py \w+$", said, re.M)
    states = [desk.wait_ended(job)[0] for job in jobs]
    assert states == ["COMPLETED", "FAILED", "CANCELLED"], desk.outputs()
    assert desk.output("steps") == "first 3\nfails 3\n"


def test_every_template_is_documented() -> None:
    page = (ROOT / "docs" / "slurm.md").read_text()
    assert re.findall(r"^\| \[(\S+)\]\(\.\./slurm/templates/\1\)", page, re.M) == sorted(
        path.name for path in TEMPLATES.iterdir()
    )
