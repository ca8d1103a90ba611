//! Tables and numbers as people read them.

use std::fmt::Write as _;

/// Columns padded to the widest cell, two spaces apart. Nothing when there are no rows.
pub fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    let head = head.map(str::to_owned);
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A rate; a dash for none.
pub fn rate(per_second: f64) -> String {
    if per_second == 0.0 { "-".to_owned() } else { format!("{per_second:.1}") }
}

/// A share; a dash where there is nothing to share.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", share * 100.0))
}

/// A latency; a dash for none.
pub fn millis(milliseconds: Option<f64>) -> String {
    milliseconds.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}ms"))
}
