//! The steps of a demo as they go by: a line each for people, one object for programs.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

use super::StepError;

/// What became of a step.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Step {
    pub name: &'static str,
    pub ok: bool,
    pub ms: f64,
    /// What was seen, or why it failed.
    pub detail: String,
}

/// What `weft demo --json` prints.
#[derive(Clone, Debug, Default, Serialize, PartialEq)]
pub struct Report {
    pub steps: Vec<Step>,
    /// From the last agent's start to every pair of nodes being joined, milliseconds; `null` where
    /// it did not come to that.
    pub mesh_ms: Option<f64>,
    /// Packets on the underlay that were not sealed; `null` where nobody looked.
    pub plaintext_packets: Option<u64>,
    pub ok: bool,
}

/// How the steps are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Telling {
    /// A line when a step is done.
    Lines,
    /// Nothing until the end.
    Json,
}

#[derive(Debug)]
pub(super) struct Steps {
    pub(super) report: Report,
    telling: Telling,
}

impl Steps {
    pub(super) fn new(telling: Telling) -> Self {
        Self {
            report: Report::default(),
            telling,
        }
    }

    /// Does a step. It gives what later steps need, and what is told of it.
    pub(super) fn take<T>(
        &mut self,
        name: &'static str,
        act: impl FnOnce() -> Result<(T, String), StepError>,
    ) -> Result<T, StepError> {
        let started = Instant::now();
        let result = act();
        let ms = (started.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
        let detail = match &result {
            Ok((_, detail)) => detail.clone(),
            Err(error) => error.to_string(),
        };
        let step = Step {
            name,
            ok: result.is_ok(),
            ms,
            detail,
        };
        if self.telling == Telling::Lines {
            println!("{step}");
        }
        self.report.steps.push(step);
        result.map(|(made, _)| made)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, ms, .. } = self;
        let mark = if self.ok { "ok" } else { "FAILED" };
        // What was said in several lines stays under its own column.
        let detail = self
            .detail
            .trim_end()
            .replace('\n', "\n                                    ");
        write!(f, "  {mark:<6}  {name:<14} {ms:>7.0} ms  {detail}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_fails_is_told_with_its_reason() {
        let mut steps = Steps::new(Telling::Json);
        let made = steps.take("mesh", || Ok((7, "3 nodes".to_owned())));
        assert_eq!(made.unwrap(), 7);
        let failed = steps.take("name", || {
            Err::<((), String), _>(StepError("no such name".into()))
        });
        assert!(failed.is_err());
        let [good, bad] = &steps.report.steps[..] else {
            panic!("{:?}", steps.report)
        };
        assert!(good.ok && good.detail == "3 nodes", "{good:?}");
        assert!(!bad.ok && bad.detail == "no such name", "{bad:?}");
        assert!(bad.to_string().starts_with("  FAILED  name "), "{bad}");
    }

    #[test]
    fn the_object_has_the_promised_keys() {
        let mut steps = Steps::new(Telling::Json);
        steps
            .take("mesh", || Ok(((), "3 nodes".to_owned())))
            .unwrap();
        let mut value = serde_json::to_value(&steps.report).unwrap();
        value["steps"][0]["ms"] = 0.into();
        let want = serde_json::json!({
            "steps": [{"name": "mesh", "ok": true, "ms": 0, "detail": "3 nodes"}],
            "mesh_ms": null, "plaintext_packets": null, "ok": false,
        });
        assert_eq!(value, want);
    }
}
