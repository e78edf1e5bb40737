//! Words in one text, as a shell tells them apart: for flags that are handed on to another program. Pure.

use std::str::FromStr;

/// Some words; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

/// A text that ends too early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing at its end")]
pub struct WordsError(&'static str);

impl FromStr for Words {
    type Err = WordsError;

    /// Spaces part words; quotes of both kinds and backslashes keep them together (POSIX, XCU 2.2). Nothing is expanded.
    fn from_str(text: &str) -> Result<Self, WordsError> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                ' ' | '\t' | '\n' => words.extend(word.take()),
                '\\' => word.get_or_insert_default().push(rest.next().ok_or(WordsError("what a backslash quotes"))?),
                '\'' => loop {
                    let inside = word.get_or_insert_default();
                    match rest.next().ok_or(WordsError("a quote (')"))? {
                        '\'' => break,
                        c => inside.push(c),
                    }
                },
                '"' => loop {
                    let inside = word.get_or_insert_default();
                    match rest.next().ok_or(WordsError("a quote (\")"))? {
                        '"' => break,
                        '\\' => match rest.next().ok_or(WordsError("a quote (\")"))? {
                            quoted @ ('"' | '\\' | '$' | '`') => inside.push(quoted),
                            other => inside.extend(['\\', other]),
                        },
                        c => inside.push(c),
                    }
                },
                c => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        Ok(Self(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart_as_a_shell_does() {
        for (text, words) in [
            ("", &[][..]),
            (" --mca  btl\ttcp,self ", &["--mca", "btl", "tcp,self"]),
            (r#"-x 'A=b c' "d'e" f\ g"#, &["-x", "A=b c", "d'e", "f g"]),
            (r#"a'b'"c" '' "x\"\\\n""#, &["abc", "", r#"x"\\n"#]),
        ] {
            assert_eq!(text.parse::<Words>().unwrap().0, words, "{text}");
        }
        for (bad, sentence) in [
            ("'a", "a quote (') is missing at its end"),
            ("\"a\\\"", "a quote (\") is missing at its end"),
            ("a\\", "what a backslash quotes is missing at its end"),
        ] {
            assert_eq!(bad.parse::<Words>().unwrap_err().to_string(), sentence);
        }
    }
}
