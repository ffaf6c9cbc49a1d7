//! Numbers as people read them.

use std::time::Duration;

use crate::metering::PicoUsd;

/// `8,192`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `572 million`, `1.5 billion`.
pub(super) fn counted(number: u64) -> String {
    let scaled = |unit: f64| {
        let value = number as f64 / unit;
        let text = if value < 10.0 {
            format!("{value:.1}")
        } else {
            format!("{value:.0}")
        };
        text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
    };
    match number {
        0..1_000_000 => grouped(number),
        1_000_000..1_000_000_000 => format!("{} million", scaled(1e6)),
        1_000_000_000.. => format!("{} billion", scaled(1e9)),
    }
}

/// Micro-dollars as dollars: `$0.02`, to the last digit that there is.
pub(super) fn dollars(micro: u64) -> String {
    let (whole, fraction) = (micro / 1_000_000, micro % 1_000_000);
    let digits = format!("{fraction:06}");
    let kept = digits.trim_end_matches('0').len().max(2);
    format!("${}.{}", grouped(whole), &digits[..kept])
}

/// An amount to its last digit, cents at least: `$0.0000046`, `-$12.50`.
pub(super) fn money(amount: PicoUsd) -> String {
    let text = amount.to_string();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.as_str()),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = grouped(whole.parse().unwrap_or_default());
    format!("{sign}${whole}.{part:0<2}")
}

/// An amount as it stands beside a drawing: cents, or the first two digits of less.
pub(super) fn about_money(amount: PicoUsd) -> String {
    let dollars = amount.0 as f64 / 1e12;
    if amount.0 == 0 {
        "$0".to_owned()
    } else if dollars.abs() >= 0.995 {
        format!("${dollars:.2}")
    } else {
        let places = (1.0 - dollars.abs().log10().floor()).clamp(2.0, 12.0);
        format!("${dollars:.0$}", places as usize)
    }
}

/// A count as it stands beside a drawing: `950`, `12.3k`, `4.5M`.
pub(super) fn about(number: u64) -> String {
    let scaled = |unit: f64, letter: &str| {
        let value = number as f64 / unit;
        let text = if value < 100.0 {
            format!("{value:.1}")
        } else {
            format!("{value:.0}")
        };
        format!("{}{letter}", text.strip_suffix(".0").unwrap_or(&text))
    };
    match number {
        0..10_000 => grouped(number),
        10_000..1_000_000 => scaled(1e3, "k"),
        1_000_000..1_000_000_000 => scaled(1e6, "M"),
        1_000_000_000.. => scaled(1e9, "G"),
    }
}

/// `65.52`, `100`.
pub(super) fn score(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}

/// `3 days 4 h`, `12 min`.
pub(super) fn span(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    match minutes {
        0 => "less than a minute".to_owned(),
        1..60 => format!("{minutes} min"),
        60..1440 => format!("{} h {} min", minutes / 60, minutes % 60),
        minutes => format!("{} days {} h", minutes / 1440, minutes / 60 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_people_read_them() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(counted(12_405_780), "12 million");
        assert_eq!(counted(988_180), "988,180");
        assert_eq!(counted(1_500_000_000), "1.5 billion");
        assert_eq!(counted(7_000_000_000), "7 billion");
        assert_eq!(dollars(20_000), "$0.02");
        assert_eq!(dollars(1), "$0.000001");
        assert_eq!(dollars(12_345_600_000), "$12,345.60");
        assert_eq!(money(PicoUsd(4_600_000)), "$0.0000046");
        assert_eq!(money(PicoUsd(-12_500_000_000_000)), "-$12.50");
        assert_eq!(money(PicoUsd(1_234_000_000_000_000)), "$1,234.00");
        assert_eq!(about_money(PicoUsd(4_612_345)), "$0.0000046");
        assert_eq!(about_money(PicoUsd(12_504_000_000_000)), "$12.50");
        assert_eq!(about_money(PicoUsd(250_000_000_000)), "$0.25");
        assert_eq!(about_money(PicoUsd(0)), "$0");
        assert_eq!(about(9_999), "9,999");
        assert_eq!(about(12_345), "12.3k");
        assert_eq!(about(4_000_000), "4M");
        assert_eq!(score(84.0), "84");
        assert_eq!(score(65.52), "65.52");
        let minutes = |minutes: u64| span(Duration::from_secs(60 * minutes));
        assert_eq!(minutes(0), "less than a minute");
        assert_eq!(minutes(61), "1 h 1 min");
        assert_eq!(minutes(3 * 1440 + 240), "3 days 4 h");
    }
}
