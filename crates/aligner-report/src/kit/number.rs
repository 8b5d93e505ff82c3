//! Numbers as people read them.

/// A number in few characters: `0.0132`, `2e-5`, `1,280`, `12.4k`, `3.1M`.
pub fn compact(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".into()
    } else if size < 1e-3 {
        let text = format!("{value:.1e}");
        text.replace(".0e", "e")
    } else if size >= 1e9 {
        format!("{}G", trimmed(value / 1e9, 1))
    } else if size >= 1e6 {
        format!("{}M", trimmed(value / 1e6, 1))
    } else if size >= 1e4 {
        format!("{}k", trimmed(value / 1e3, 1))
    } else if size >= 999.5 {
        let sign = if value < 0.0 { "-" } else { "" };
        format!("{sign}{}", grouped(size.round() as u64))
    } else {
        let digits = (2 - size.log10().floor() as i32).clamp(0, 5);
        trimmed(value, digits as usize)
    }
}

/// A share as a percentage.
pub fn percent(value: f64) -> String {
    format!("{} %", trimmed(100.0 * value, 1))
}

/// A share as a percentage with the same number of digits as the one above it.
pub fn column_percent(value: f64) -> String {
    format!("{:.1} %", 100.0 * value)
}

/// A whole number with its thousands apart.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration: `4.2 s`, `12 min`, `3 h 07 min`.
pub fn duration(secs: f64) -> String {
    if secs < 100.0 {
        return format!("{} s", trimmed(secs, 1));
    }
    let minutes = (secs / 60.0).round() as u64;
    if minutes < 100 {
        return format!("{minutes} min");
    }
    format!("{} h {:02} min", grouped(minutes / 60), minutes % 60)
}

/// Bytes: `512 MB`, `1.4 GB`.
pub fn bytes(value: f64) -> String {
    if value >= 1e9 {
        format!("{} GB", trimmed(value / 1e9, 1))
    } else {
        format!("{:.0} MB", value / 1e6)
    }
}

/// Fixed digits without the zeros at the end.
fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_right() {
        for (value, text) in [
            (0.0, "0"),
            (2e-5, "2e-5"),
            (1.24e-4, "1.2e-4"),
            (0.0132, "0.0132"),
            (0.5, "0.5"),
            (-1.25, "-1.25"),
            (123.4, "123"),
            (-1280.4, "-1,280"),
            (12_400.0, "12.4k"),
            (1e6, "1M"),
            (3.14e9, "3.1G"),
        ] {
            assert_eq!(compact(value), text);
        }
        assert_eq!(percent(0.875), "87.5 %");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(duration(4.24), "4.2 s");
        assert_eq!(duration(11_220.0), "3 h 07 min");
        assert_eq!(bytes(1.42e9), "1.4 GB");
    }
}
