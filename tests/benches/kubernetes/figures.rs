//! What was measured, what it may be at most, and the table of all.

use std::fmt::Write as _;

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    /// None for what is only told.
    pub(crate) most: Option<f64>,
    /// Of each round, one at least.
    pub(crate) values: Vec<f64>,
    /// The share of the values that are to be within the bound: 0.5 for the median.
    pub(crate) quantile: f64,
}

impl Figure {
    pub(crate) fn median(
        what: &'static str,
        unit: &'static str,
        most: Option<f64>,
        values: Vec<f64>,
    ) -> Self {
        Self {
            what,
            unit,
            most,
            values,
            quantile: 0.5,
        }
    }

    /// The smallest value that so large a share is not above.
    fn value(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (self.quantile * sorted.len() as f64).ceil() as usize;
        let found = sorted.get(rank.saturating_sub(1));
        found.copied().unwrap_or(f64::NAN)
    }
}

/// The table, and whether every figure is within its bound.
pub(crate) fn table(figures: &[Figure]) -> (String, bool) {
    let mut text = format!("{:<58}{:>8}{:>9}\n", "figure", "at most", "is");
    let mut good = true;
    for figure in figures {
        let value = figure.value();
        let kept = figure.most.is_none_or(|most| value <= most);
        good &= kept;
        let most = figure.most.map_or("-".to_owned(), |most| most.to_string());
        let rounds = match &figure.values[..] {
            [_] => String::new(),
            few if few.len() <= 10 => few.iter().map(|value| format!(" {value:.2}")).collect(),
            many => format!(" of {}", many.len()),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<58}{most:>5} {:<2}{value:>6.2} {:<2} {}{rounds}",
            figure.what,
            figure.unit,
            figure.unit,
            if kept { "    " } else { "OVER" },
        );
    }
    (text, good)
}
