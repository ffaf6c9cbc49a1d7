//! Entries as lines of CSV (RFC 4180), for spreadsheets and accounting programs.

use super::{Entry, hex_digits};
use crate::store::Time;

/// The names of the columns.
pub const COLUMNS: [&str; 14] = [
    "seq",
    "at",
    "account_id",
    "key_id",
    "kind",
    "amount_usd",
    "balance_usd",
    "tokens",
    "price_usd_per_token",
    "model",
    "tier",
    "request_id",
    "note",
    "hash",
];

/// An entry's cells, in the order of [`COLUMNS`].
pub fn cells(entry: &Entry) -> [String; 14] {
    let event = &entry.event;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    [
        entry.seq.to_string(),
        Time(entry.at_ms).to_string(),
        event.account_id.clone(),
        text(&event.key_id),
        event.kind.name().to_owned(),
        event.amount.to_string(),
        entry.balance.to_string(),
        event.tokens.to_string(),
        event.price.to_string(),
        text(&event.model),
        text(&event.tier),
        text(&event.request_id),
        text(&event.note),
        hex_digits(&entry.hash),
    ]
}

/// A line with its end. A cell that a spreadsheet would take for a formula gets an apostrophe.
pub fn line<T: AsRef<str>>(cells: impl IntoIterator<Item = T>) -> String {
    let cells: Vec<String> = cells.into_iter().map(|it| cell(it.as_ref())).collect();
    format!("{}\r\n", cells.join(","))
}

fn cell(text: &str) -> String {
    let is_number = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b"-.".contains(&byte));
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && !is_number;
    let text = if is_formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stay_cells_and_formulas_become_texts() {
        assert_eq!(cell("-0.25"), "-0.25");
        assert_eq!(cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(cell("=cmd|' /C calc'!A0"), "'=cmd|' /C calc'!A0");
        assert_eq!(cell("-2+3"), "'-2+3");
    }
}
