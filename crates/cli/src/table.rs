//! Text for people: columns that line up in any script, sizes in plain units, colours.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns a line may have where no terminal says it.
const DEFAULT_WIDTH: usize = 100;

/// Width of the terminal on stdout.
pub(crate) fn terminal_width() -> usize {
    let size = terminal_size::terminal_size_of(std::io::stdout());
    size.map_or(DEFAULT_WIDTH, |(width, _)| usize::from(width.0).max(20))
}

/// Colours, where they are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    /// Whether to use them.
    pub(crate) on: bool,
}

impl Paint {
    /// `text` between an SGR code such as `1` (bold) or `2` (dim) and its end.
    pub(crate) fn with(self, code: &str, text: &str) -> String {
        if self.on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Which side of a column is ragged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows with their columns lined up, two spaces apart. No line ends in spaces.
pub(crate) fn columns(rows: &[Vec<String>], align: &[Align]) -> String {
    let mut widths = vec![0; align.len()];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths.iter().zip(align))
            .map(|(cell, (&width, align))| pad(cell, width, *align))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// `text` filled with spaces to `width` columns.
pub(crate) fn pad(text: &str, width: usize, align: Align) -> String {
    let fill = " ".repeat(width.saturating_sub(text.width()));
    match align {
        Align::Left => format!("{text}{fill}"),
        Align::Right => format!("{fill}{text}"),
    }
}

/// `text` on one line of at most `width` columns, shortened with `…`.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if line.width() <= width {
        return line;
    }
    let mut short = String::new();
    let mut used = 1;
    for c in line.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        short.push(c);
    }
    format!("{}…", short.trim_end())
}

/// Whole numbers with thin groups of three: `559 364 096`.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Bytes in decimal units, as disks and the hub count them.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_by_display_width() {
        let rows = [["日本", "1"], ["abc", "22"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            columns(&rows, &[Align::Left, Align::Right]),
            "日本   1\nabc   22\n"
        );
    }

    #[test]
    fn shortening_keeps_the_width() {
        assert_eq!(shorten("two\n  words", 20), "two words");
        assert_eq!(shorten("日本語の文", 6), "日本…");
        assert_eq!(shorten("a\u{1b}[31m", 20), "a\u{fffd}[31m");
        for width in 1..12 {
            assert!(
                shorten("日本語 and more", width).width() <= width,
                "{width}"
            );
        }
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1234), "1 234");
        assert_eq!(grouped(559_364_096), "559 364 096");
    }
}
