//! Numbers as people read them.

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

/// `65.52`, `100`.
pub(super) fn score(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
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
        assert_eq!(score(84.0), "84");
        assert_eq!(score(65.52), "65.52");
    }
}
