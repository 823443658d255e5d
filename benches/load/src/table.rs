//! The table of ratios.

use std::fmt::Write as _;
use std::time::Duration;

use crate::cases::Whose;
use crate::rounds::{Row, beside};

/// All rows, as Markdown; empty if there are none.
pub(crate) fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "| scenario | server | per s | p50 | p99 | × floor | × kjob | its processor time for each |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let mut order: Vec<&Row> = Vec::new();
    for row in rows {
        if !order.iter().any(|other| other.is_comparable(row)) {
            order.extend(rows.iter().filter(|other| other.is_comparable(row)));
        }
    }
    let mut last: Option<&Row> = None;
    for row in order {
        let is_first = last.is_none_or(|last| !last.is_comparable(row));
        last = Some(row);
        let scenario = match is_first {
            true => format!("`{}`, {}", row.case.scenario, row.case.detail),
            false => String::new(),
        };
        let _ = writeln!(
            out,
            "| {scenario} | {} |{}",
            row.server(),
            figures(rows, row)
        );
    }
    out
}

/// The rest of a line.
pub(crate) fn figures(rows: &[Row], row: &Row) -> String {
    if let Some(why) = &row.failed {
        return format!(" left out: {why} | | | | | |");
    }
    let time = |of: fn(&crate::sample::Sample) -> Duration| row.median(of).map(shown_time);
    let ratio = |whose| {
        let other = beside(rows, row, whose).filter(|other| !std::ptr::eq(*other, row));
        let is_asked = row.case.whose != Whose::Floor;
        let ratio = other
            .filter(|_| is_asked)
            .and_then(|other| row.ratio(other));
        ratio.map(shown_ratio)
    };
    let cells = [
        row.median(|sample| sample.per_second).map(shown_count),
        time(|sample| sample.p50),
        time(|sample| sample.p99),
        ratio(Whose::Floor),
        ratio(Whose::Ours),
        row.median(|sample| sample.processor)
            .flatten()
            .map(shown_time),
    ];
    let mut out = String::new();
    for cell in cells {
        let _ = write!(out, " {} |", cell.as_deref().unwrap_or("–"));
    }
    out
}

/// With three digits or more.
pub(crate) fn shown_count(count: f64) -> String {
    match count {
        ..10_000.0 => format!("{count:.0}"),
        _ => format!("{:.1} k", count / 1_000.0),
    }
}

pub(crate) fn shown_ratio(ratio: f64) -> String {
    match ratio {
        ..0.01 => format!("{ratio:.4}"),
        ..0.1 => format!("{ratio:.3}"),
        ..10.0 => format!("{ratio:.2}"),
        _ => format!("{ratio:.1}"),
    }
}

fn shown_time(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        ..10.0 => format!("{micros:.1} µs"),
        ..1_000.0 => format!("{micros:.0} µs"),
        ..10_000.0 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.1} ms", micros / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_as_many_digits_as_they_mean() {
        assert_eq!(shown_count(4.2), "4");
        assert_eq!(shown_count(12_345.0), "12.3 k");
        assert_eq!(shown_ratio(0.000_21), "0.0002");
        assert_eq!(shown_ratio(0.0421), "0.042");
        assert_eq!(shown_ratio(0.421), "0.42");
        assert_eq!(shown_time(Duration::from_nanos(7_640)), "7.6 µs");
        assert_eq!(shown_time(Duration::from_micros(129)), "129 µs");
        assert_eq!(shown_time(Duration::from_micros(1_290)), "1.29 ms");
    }
}
