use super::*;

fn interpreter() -> Interpreter {
    Interpreter {
        executable: "/v/bin/python".into(),
        implementation: "cpython".into(),
        version: (3, 12, 1),
        free_threaded: false,
        libpython: Some("/lib/libpython3.12.so.1.0".into()),
        package: true,
    }
}

fn packages(version: Option<&str>) -> Packages {
    let some = |text: &str| Some(text.to_owned());
    let failure = version.is_none().then(|| "ImportError: no".to_owned());
    Packages {
        prefix: "/v".into(),
        pxcluster: Import { version: version.map(str::to_owned), failure },
        ipython: some("9.1"),
        cloudpickle: some("3.1"),
        numpy: None,
    }
}

#[test]
fn what_cannot_be_embedded_has_a_mend() {
    let judge = |interpreter: Interpreter| judge_interpreter(&Ok((interpreter, packages(Some("1")))));
    let good = judge(interpreter());
    assert_eq!(good.to_string(), "ok      engines run Python 3.12.1 at /v/bin/python, from /lib/libpython3.12.so.1.0");
    for (bad, found) in [
        (Interpreter { implementation: "pypy".into(), ..interpreter() }, "is pypy, and engines embed CPython only"),
        (Interpreter { version: (3, 10, 4), ..interpreter() }, "is too old, engines need CPython 3.11 or newer"),
        (Interpreter { free_threaded: true, ..interpreter() }, "is a free-threaded build, which engines cannot embed"),
        (Interpreter { libpython: None, ..interpreter() }, "has no shared library (libpython3.12.so)"),
    ] {
        let finding = judge(bad);
        assert_eq!(finding.verdict, Verdict::Problem);
        assert!(finding.found.ends_with(found), "{finding}");
    }
    let silent = Dumb::NotStarted { program: "/x".into(), reason: Unanswered::Silent(3.0) };
    assert_eq!(
        judge_interpreter(&Err(silent)).to_string(),
        "PROBLEM no Python can be started as /x: it did not answer within 3 seconds: activate another environment or \
         name one with --python"
    );
}

#[test]
fn the_package_must_be_there_whole_and_of_one_version() {
    let judge = |package: bool, version: Option<&str>| {
        judge_package(&Interpreter { package, ..interpreter() }, &packages(version), "1.2")
    };
    assert_eq!(judge(true, Some("1.2")).verdict, Verdict::Ok);
    for (package, version, verdict, found) in [
        (true, Some("1.1"), Verdict::Warning, "/v/bin/python has pxcluster 1.1, and this program is of version 1.2"),
        (false, Some("1.2"), Verdict::Problem, "/v/bin/python has pxcluster 1.2 for clients alone, without"),
        (true, None, Verdict::Problem, "pxcluster cannot be imported by /v/bin/python (ImportError: no)"),
        (false, None, Verdict::Problem, "the pxcluster package is not installed for /v/bin/python"),
    ] {
        let finding = judge(package, version);
        assert_eq!(finding.verdict, verdict);
        assert!(finding.found.starts_with(found), "{finding}");
        assert!(finding.mend.unwrap().contains("`/v/bin/python -m pip install .` in its source"));
    }
}

#[test]
fn what_pxcluster_depends_on_must_be_there() {
    let good = judge_packages(&interpreter(), &packages(Some("1")));
    assert_eq!(good.to_string(), "ok      engines have IPython 9.1, cloudpickle 3.1, no numpy");
    let bad = judge_packages(&interpreter(), &Packages { cloudpickle: None, ..packages(Some("1")) });
    assert_eq!(
        (bad.verdict, bad.mend.as_deref()),
        (Verdict::Warning, Some("run `/v/bin/python -m pip install cloudpickle`"))
    );
}

#[test]
fn clients_need_the_engines_minor_version() {
    let engines = (interpreter(), packages(Some("1")));
    let client = |version, installed| {
        let python = Interpreter { executable: "/c/python3".into(), version, ..interpreter() };
        judge_client(&engines, &(python, Packages { prefix: "/c".into(), ..packages(installed) }))
    };
    assert_eq!(judge_client(&engines, &engines).found, "python3 on PATH is the engines' Python");
    assert_eq!(client((3, 12, 9), Some("1")).verdict, Verdict::Ok);
    assert!(
        client((3, 9, 0), None)
            .to_string()
            .starts_with("ok      python3 on PATH is Python 3.9.0 at /c/python3 and has no")
    );
    let older = client((3, 11, 0), Some("1"));
    assert!(older.found.ends_with("/c/python3, whose clients cannot use engines of Python 3.12"), "{older}");
    assert_eq!(older.verdict, Verdict::Warning);
    let other = client((3, 12, 1), Some("2"));
    assert!(other.found.ends_with("with pxcluster 2, and engines have 1"), "{other}");
}

#[test]
fn answers_are_the_last_two_lines() {
    use std::os::unix::process::ExitStatusExt;
    let output = |stdout: &str| Output {
        status: std::process::ExitStatus::from_raw(0),
        stdout: stdout.into(),
        stderr: b"Traceback\nNameError: x\n".to_vec(),
    };
    let first = r#"{"executable":"/v","implementation":"cpython","version":[3,12,1],"free_threaded":false,"libpython":null,"package":true}"#;
    let second =
        r#"{"prefix":"/v","pxcluster":{"version":"1","failure":null},"IPython":null,"cloudpickle":null,"numpy":"2"}"#;
    let (interpreter, packages) = parse_answers(&output(&format!("hello\n{first}\n{second}\n"))).unwrap();
    assert_eq!((interpreter.version, packages.numpy.as_deref()), ((3, 12, 1), Some("2")));
    assert!(parse_answers(&output(&format!("{first}\n"))).is_none());
    assert_eq!(last_words(&output("")), "NameError: x");
}
