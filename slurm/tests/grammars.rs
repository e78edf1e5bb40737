//! The grammars, against what `scontrol show hostnames` printed and against a model.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use proptest::prelude::*;
use slurm_env::{CountsError, HostlistError, MAX_HOSTS, TimeLeft};
use slurm_env::{parse_counts, parse_gpu_count, parse_hostlist, parse_time_left};
use std::time::Duration;

/// What Slurm refuses (22.05) and this crate takes: text after a bracket.
const SUFFIXED: [(&str, &str); 3] = [
    ("rack[1-2]-ib0", "rack1-ib0 rack2-ib0"),
    ("a-b-[001-003].cluster.local", "a-b-001.cluster.local a-b-002.cluster.local a-b-003.cluster.local"),
    ("tux[0-3]x", "tux0x tux1x tux2x tux3x"),
];

#[test]
fn every_recorded_expression_expands_as_scontrol_says() {
    let recorded = include_str!("data/hostlist_cases.slurm22.05.txt");
    let cases = include_str!("data/hostlist_cases.txt");
    assert_eq!(recorded.lines().count(), cases.lines().count());
    for (line, case) in recorded.lines().zip(cases.lines()) {
        let (expression, hosts) = line.split_once(" => ").unwrap();
        assert_eq!(expression, case);
        let expected = match hosts.strip_prefix("Invalid hostlist: ") {
            None => hosts,
            Some(_) => SUFFIXED.iter().find(|(e, _)| *e == expression).unwrap().1,
        };
        let expected: Vec<&str> = expected.split_whitespace().collect();
        assert_eq!(parse_hostlist(expression).unwrap(), expected, "{expression}");
    }
}

#[test]
fn a_mistake_is_named_with_its_column() {
    for (expression, column, expected) in [
        ("", 1, "a host name"),
        ("n1,,n2", 4, "a host name"),
        ("n1,", 4, "a host name"),
        ("n[", 3, "a number"),
        ("n[]", 3, "a number"),
        ("n[1", 4, "',', '-' or ']'"),
        ("n[1-]", 5, "a number"),
        ("n[3-1]", 5, "a number not below the start of its range"),
        ("n[1x3]", 4, "',', '-' or ']'"),
        ("n]", 2, "',' or the end"),
        ("n1 n2", 3, "',' or the end"),
        ("ñ[a]", 3, "a number"),
        ("n[99999999999999999999]", 3, "a number"),
    ] {
        let expression = expression.to_owned();
        assert_eq!(parse_hostlist(&expression), Err(HostlistError::Syntax { expression, column, expected }));
    }
    let error = parse_hostlist("n[3-1]").unwrap_err().to_string();
    assert_eq!(error, "column 5 of 'n[3-1]': expected a number not below the start of its range");
}

#[test]
fn an_expression_cannot_eat_the_memory() {
    for expression in ["n[0-18446744073709551615]", "n[0-999][0-999][0-999]", "a[0-99999],b[0-99999]"] {
        assert!(matches!(parse_hostlist(expression), Err(HostlistError::TooMany { .. })), "{expression}");
    }
    assert!(matches!(parse_counts("1(x99999),1(x99999)"), Err(CountsError::TooMany { .. })));
}

#[test]
fn counts_repeat() {
    assert_eq!(parse_counts("2(x3),1").unwrap(), [2, 2, 2, 1]);
    assert_eq!(parse_counts("4,2,1").unwrap(), [4, 2, 1]);
    assert_eq!(parse_counts("16").unwrap(), [16]);
    for text in ["", "2(x3", "2(3)", "2(x0)", "x", "+2", "2(x+3)", "1,,2", "-1", "99999999999"] {
        assert!(matches!(parse_counts(text), Err(CountsError::Syntax { .. })), "{text}");
    }
    assert_eq!(
        parse_counts("2(x3),two").unwrap_err().to_string(),
        "'two' in '2(x3),two': expected a count such as 2 or 2(x3)"
    );
}

#[test]
fn gpus_of_all_kinds_are_counted() {
    for (text, count) in [("4", 4), ("a100:2", 2), ("a100:2,v100:1", 3), ("gpu:a100:8", 8), ("0", 0)] {
        assert_eq!(parse_gpu_count(text), Some(count), "{text}");
    }
    for text in ["", "a100", ":2", "a100:", "2,", "-1", "4294967295,1"] {
        assert_eq!(parse_gpu_count(text), None, "{text}");
    }
}

fn item() -> impl Strategy<Value = (String, Vec<String>)> {
    ("[a-z][a-z.-]{0,4}", 1usize..4, 0u32..50, 0u32..20, "[a-z.-]{0,3}").prop_map(
        |(prefix, width, low, more, suffix)| {
            let high = low + more;
            let text = format!("{prefix}[{low:0width$}-{high}]{suffix}");
            let width = format!("{low:0width$}").len();
            let names = (low..=high).map(|n| format!("{prefix}{n:0width$}{suffix}"));
            (text, names.collect())
        },
    )
}

proptest! {
    #[test]
    fn a_list_is_its_items_in_order(items in prop::collection::vec(item(), 1..6)) {
        let text: Vec<&str> = items.iter().map(|(text, _)| text.as_str()).collect();
        let names: Vec<String> = items.iter().flat_map(|(_, names)| names.clone()).collect();
        prop_assert_eq!(parse_hostlist(&text.join(",")).unwrap(), names);
    }

    /// The grammar's other way round: runs of numbers become ranges, as Slurm itself writes them.
    #[test]
    fn what_is_compressed_expands_to_what_it_was(numbers in prop::collection::btree_set(0u32..400, 1..80)) {
        let numbers: Vec<u32> = numbers.into_iter().collect();
        let runs = numbers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
            [only] => format!("{only:03}"),
            _ => format!("{:03}-{:03}", run[0], run[run.len() - 1]),
        });
        let text = format!("n[{}]", runs.collect::<Vec<_>>().join(","));
        let names: Vec<String> = numbers.iter().map(|number| format!("n{number:03}")).collect();
        prop_assert_eq!(parse_hostlist(&text).unwrap(), names);
    }

    #[test]
    fn two_brackets_are_a_product(rows in 1u32..8, columns in 1u32..8) {
        let names = parse_hostlist(&format!("r[1-{rows}]n[1-{columns}]")).unwrap();
        let model: Vec<String> =
            (1..=rows).flat_map(|r| (1..=columns).map(move |n| format!("r{r}n{n}"))).collect();
        prop_assert_eq!(names, model);
    }

    #[test]
    fn any_text_ends_in_a_list_or_an_error(text in "[n0-9,\\[\\]x()-]{0,24}|.{0,24}") {
        if let Ok(names) = parse_hostlist(&text) {
            prop_assert!(names.iter().all(|name| !name.is_empty()));
        }
        let _ = (parse_counts(&text), parse_gpu_count(&text));
    }

    #[test]
    fn counts_expand_to_what_was_compressed(runs in prop::collection::vec((0u32..300, 1usize..9), 1..8)) {
        let text: Vec<String> = runs.iter().map(|(count, times)| match times {
            1 => count.to_string(),
            _ => format!("{count}(x{times})"),
        }).collect();
        let model: Vec<u32> =
            runs.iter().flat_map(|&(count, times)| std::iter::repeat_n(count, times)).collect();
        prop_assert_eq!(parse_counts(&text.join(",")).unwrap(), model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_bound_is_exact(hosts in prop_oneof![1..=MAX_HOSTS, MAX_HOSTS - 1..=MAX_HOSTS + 1, MAX_HOSTS..1 << 40]) {
        let (list, counts) = (parse_hostlist(&format!("n[1-{hosts}]")), parse_counts(&format!("1(x{hosts})")));
        if hosts <= MAX_HOSTS {
            prop_assert_eq!(list.unwrap().len(), hosts);
            prop_assert_eq!(counts.unwrap().len(), hosts);
        } else {
            let (list_is_too_long, counts_are_too_many) =
                (matches!(list, Err(HostlistError::TooMany { .. })), matches!(counts, Err(CountsError::TooMany { .. })));
            prop_assert!(list_is_too_long && counts_are_too_many);
        }
    }
}

#[test]
fn times_left_are_read_as_squeue_prints_them() {
    let limited = |seconds| Some(TimeLeft::Limited(Duration::from_secs(seconds)));
    for (text, left) in [
        ("0:00", limited(0)),
        ("59:30", limited(3_570)),
        ("3:04:05", limited(11_045)),
        ("1-02:03:04", limited(93_784)),
        ("UNLIMITED", Some(TimeLeft::Unlimited)),
        ("NOT_SET", None),
        ("INVALID", None),
        ("", None),
        ("30", None),
        ("1-02:03", None),
        ("1:2:3:4", None),
        ("0:60", None),
        ("+1:00", None),
        ("1::00", None),
        ("-1:00", None),
    ] {
        assert_eq!(parse_time_left(text), left, "{text}");
    }
}

proptest! {
    #[test]
    fn every_time_left_is_read_back(seconds in 0..400_000_000_u64) {
        let (days, hours, minutes, rest) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let text = match (days, hours) {
            (0, 0) => format!("{minutes}:{rest:02}"),
            (0, _) => format!("{hours}:{minutes:02}:{rest:02}"),
            _ => format!("{days}-{hours:02}:{minutes:02}:{rest:02}"),
        };
        prop_assert_eq!(parse_time_left(&text), Some(TimeLeft::Limited(Duration::from_secs(seconds))));
    }

    #[test]
    fn no_text_is_a_time_left_by_panic(text in "[-0-9:A-Z]{0,12}") {
        let _read = parse_time_left(&text);
    }
}
