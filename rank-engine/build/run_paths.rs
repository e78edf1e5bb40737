//! Where the linker is told to look at run time, read from a compiler wrapper's command line. Part of the build script; tested
//! by `tests/run_paths.rs`.

/// The run paths of a compiler's command line: `-Wl,-rpath,PATH`, `-Wl,-rpath=PATH`, or in two words `-Wl,-rpath -Wl,PATH`,
/// which some wrappers write as `-Xlinker -rpath -Xlinker PATH`.
pub(crate) fn run_paths(command: &str) -> Vec<String> {
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
