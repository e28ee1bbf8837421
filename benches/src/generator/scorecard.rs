//! What the product is meant to reach, and whether it does, on this machine.

use serde::Serialize;

/// One target.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    /// What is looked at.
    pub(crate) what: &'static str,
    /// What it must be.
    pub(crate) target: &'static str,
    /// What it is.
    pub(crate) figure: String,
    /// Whether that is enough; nothing where it could not be measured.
    pub(crate) reached: Option<bool>,
}

/// What was measured of OptimaCore.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// The highest rate at which 99 of 100 answers come within 10 ms.
    pub(crate) saturation: f64,
    /// At 70 % of that, in milliseconds: 95 and 99 of 100 are no slower.
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    /// At 70 % of that, the part of the time of the pool's connections in which PostgreSQL works or waits on them.
    pub(crate) utilisation: Option<f64>,
}

/// The specification's targets.
pub(crate) fn lines(measured: &Measured) -> Vec<Line> {
    let Measured { saturation, p95, p99, utilisation } = *measured;
    vec![
        Line {
            what: "operations a second at p99 <= 10 ms",
            target: "100000",
            figure: format!("{saturation:.0}"),
            reached: Some(saturation >= 100_000.0),
        },
        Line {
            what: "p99 at 70 % of that, from the intended time",
            target: "< 10 ms",
            figure: format!("{p99:.2} ms"),
            reached: Some(p99 < 10.0),
        },
        Line {
            what: "p95 of reads at 70 % of that",
            target: "< 5 ms",
            figure: format!("{p95:.2} ms"),
            reached: Some(p95 < 5.0),
        },
        Line {
            what: "pool utilisation at 70 % of that",
            target: "< 80 %",
            figure: utilisation.map_or_else(|| "not measured".to_owned(), |part| format!("{:.1} %", part * 100.0)),
            reached: utilisation.map(|part| part < 0.8),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_reached_or_not() {
        let measured = Measured { saturation: 99_999.0, p95: 4.9, p99: 10.0, utilisation: Some(0.79) };
        let reached: Vec<Option<bool>> = lines(&measured).iter().map(|line| line.reached).collect();
        assert_eq!(reached, [Some(false), Some(false), Some(true), Some(true)]);
        let unknown = lines(&Measured { utilisation: None, ..measured });
        assert_eq!(unknown[3].reached, None);
    }
}
