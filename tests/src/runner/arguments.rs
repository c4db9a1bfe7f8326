//! The arguments of Rust's test runner that are understood here. The rest is refused by name.

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Run,
    List,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) mode: Mode,
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    /// Whether only ignored tests are wanted, of which there are none.
    ignored: bool,
    pub(super) nocapture: bool,
    /// Tests at once; `None` leaves it to the runner.
    pub(super) threads: Option<usize>,
}

impl Arguments {
    pub(super) fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut rest = arguments.iter().map(String::as_str);
        while let Some(argument) = rest.next() {
            let (flag, mut value) = match argument.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag, Some(value)),
                _ => (argument, None),
            };
            let mut value = |flag: &str| {
                value
                    .take()
                    .or_else(|| rest.next())
                    .ok_or_else(|| format!("{flag} needs a value"))
            };
            match flag {
                "--list" => parsed.mode = Mode::List,
                "--exact" => parsed.exact = true,
                "--ignored" => parsed.ignored = true,
                "--nocapture" | "--no-capture" => parsed.nocapture = true,
                "--skip" => parsed.skips.push(value(flag)?.to_owned()),
                "--test-threads" => {
                    let threads = value(flag)?.parse().ok().filter(|threads| *threads > 0);
                    parsed.threads =
                        Some(threads.ok_or("--test-threads needs a number of 1 or more")?);
                }
                // They change how Rust's runner prints, not what it does.
                "--format" | "--color" | "-Z" => drop(value(flag)?),
                "--include-ignored" | "--show-output" | "--quiet" | "-q" | "--test" => {}
                flag if flag.starts_with('-') => return Err(format!("{flag} is not known here")),
                filter => parsed.filters.push(filter.to_owned()),
            }
        }
        Ok(parsed)
    }

    /// Whether the test of this name is meant.
    pub(super) fn chooses(&self, name: &str) -> bool {
        let fits = |filter: &String| {
            if self.exact {
                name == filter
            } else {
                name.contains(filter.as_str())
            }
        };
        !self.ignored
            && (self.filters.is_empty() || self.filters.iter().any(fits))
            && !self.skips.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        let words: Vec<String> = line.split_whitespace().map(ToOwned::to_owned).collect();
        Arguments::parse(&words)
    }

    #[test]
    fn names_are_chosen_as_rusts_runner_chooses_them() {
        let check = |line: &str, name: &str, chosen: bool| {
            assert_eq!(
                parse(line).unwrap().chooses(name),
                chosen,
                "{line:?} {name}"
            );
        };
        check("", "a_node_joins", true);
        check("node", "a_node_joins", true);
        check("pod node", "a_node_joins", true);
        check("pod", "a_node_joins", false);
        check("--exact node", "a_node_joins", false);
        check("--exact a_node_joins", "a_node_joins", true);
        check("--skip joins", "a_node_joins", false);
        check("node --skip=pod", "a_node_joins", true);
        check("--ignored", "a_node_joins", false);
        check(
            "--include-ignored --quiet --format terse",
            "a_node_joins",
            true,
        );
    }

    #[test]
    fn a_wrong_argument_is_refused_by_name() {
        assert!(parse("--shuffle").unwrap_err().contains("--shuffle"));
        assert!(parse("--test-threads 0").is_err());
        assert!(parse("--skip").is_err());
        assert_eq!(parse("--test-threads=4").unwrap().threads, Some(4));
    }
}
