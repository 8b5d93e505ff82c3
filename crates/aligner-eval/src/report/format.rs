//! Numbers as they stand in a report.

use aligner_report::kit::number::{column_percent, compact, grouped};

use super::input::{Number, Unit};
use crate::stats::Interval;

/// The largest value to be told of a number: what stands in one column is written with as many digits as the largest needs.
pub(super) fn size(number: Number) -> f64 {
    match number {
        Number::Exact(value) => value.abs(),
        Number::Estimate(Interval { low, high, .. }) => f64::max(low.abs(), high.abs()),
    }
}

/// The largest of the sizes that are told.
pub(super) fn largest(numbers: impl Iterator<Item = Number>) -> f64 {
    numbers
        .map(size)
        .filter(|size| size.is_finite())
        .fold(0.0, f64::max)
}

/// A number and its interval, or nothing where one is not finite.
pub(super) fn number(number: Number, unit: Unit, size: f64) -> Option<(String, String)> {
    let write = |value: f64| match unit {
        Unit::Share | Unit::Count => one(value, unit),
        Unit::Plain => alike(value, size),
    };
    match number {
        Number::Exact(value) => value.is_finite().then(|| (write(value), String::new())),
        Number::Estimate(Interval { value, low, high }) => {
            // The sign of percent stands behind the number before them.
            let ends = || format!("{} to {}", write(low), write(high)).replace(" %", "");
            let is_finite = [value, low, high].iter().all(|value| value.is_finite());
            is_finite.then(|| (write(value), ends()))
        }
    }
}

/// An estimate that can be on either side of zero, in one line: `+11.3 % (4.1 to 18.6)`.
pub(super) fn signed(interval: Interval, unit: Unit, size: f64) -> Option<String> {
    let (value, ends) = number(interval.into(), unit, size)?;
    let plus = if interval.value > 0.0 && value.contains(|c: char| c.is_ascii_digit() && c != '0') {
        "+"
    } else {
        ""
    };
    Some(format!("{plus}{value} ({ends})"))
}

/// A number with as many digits as one of that size needs: an estimate and its ends are written alike.
fn alike(value: f64, size: f64) -> String {
    let digits = match size {
        _ if !(1e-3..1e4).contains(&size) => return one(value, Unit::Plain),
        _ if size < 0.1 => 4,
        _ if size < 1.0 => 3,
        _ if size < 10.0 => 2,
        _ if size < 100.0 => 1,
        _ => 0,
    };
    with_sign(format!("{value:.digits$}"))
}

fn one(value: f64, unit: Unit) -> String {
    let text = match unit {
        Unit::Share => column_percent(value),
        Unit::Count if value.fract() == 0.0 && value.abs() < 1e15 => {
            let sign = if value < 0.0 { "-" } else { "" };
            format!("{sign}{}", grouped(value.abs() as u64))
        }
        Unit::Count | Unit::Plain => compact(value),
    };
    with_sign(text)
}

/// A minus as it is printed.
fn with_sign(text: String) -> String {
    match text.strip_prefix('-') {
        // Rounded to nothing.
        Some(rest) if !rest.contains(|c: char| c.is_ascii_digit() && c != '0') => rest.to_string(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// A p value.
pub(super) fn p(value: f64) -> Option<String> {
    let text = match value {
        _ if value < 1e-4 => "< 0.0001".into(),
        _ if value < 0.01 => format!("{value:.4}"),
        _ => format!("{value:.3}"),
    };
    (0.0..=1.0).contains(&value).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(value: f64, low: f64, high: f64, unit: Unit) -> Option<String> {
        let interval = Interval { value, low, high };
        signed(interval, unit, size(interval.into()))
    }

    #[test]
    fn numbers_have_signs_intervals_and_units() {
        for ((value, low, high, unit), expected) in [
            ((0.113, 0.041, 0.186, Unit::Share), "+11.3 % (4.1 to 18.6)"),
            ((-1.5, -2.0, 0.25, Unit::Plain), "−1.50 (−2.00 to 0.25)"),
            ((-0.0001, -0.2, 0.2, Unit::Share), "0.0 % (−20.0 to 20.0)"),
            ((0.0, -0.2, 0.2, Unit::Share), "0.0 % (−20.0 to 20.0)"),
            ((12.0, -3e4, 2e5, Unit::Plain), "+12 (−30k to 200k)"),
            ((3.0, -2.0, 12_345.0, Unit::Count), "+3 (−2 to 12,345)"),
        ] {
            assert_eq!(told(value, low, high, unit).unwrap(), expected);
        }
        assert_eq!(told(0.0, f64::NEG_INFINITY, 0.2, Unit::Share), None);
        assert_eq!(number(f64::NAN.into(), Unit::Plain, 1.0), None);
    }

    #[test]
    fn numbers_of_a_column_have_as_many_digits() {
        let column = [0.0596, 12.5, f64::NAN].map(Number::from);
        let size = largest(column.into_iter());
        let told = column.map(|each| number(each, Unit::Plain, size).map(|(value, _)| value));
        assert_eq!(told, [Some("0.1".into()), Some("12.5".into()), None]);
    }

    #[test]
    fn p_is_short() {
        for (value, expected) in [(5.9e-5, "< 0.0001"), (8.4e-4, "0.0008"), (0.25, "0.250")] {
            assert_eq!(p(value).unwrap(), expected);
        }
        assert_eq!(p(f64::NAN), None);
    }
}
