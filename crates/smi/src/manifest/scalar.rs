//! What an unquoted scalar means: as in the YAML library of `kubectl` (YAML 1.1 with the numbers of 1.2).

use serde_json::{Number, Value};

/// The value of an unquoted scalar; `None` when JSON has none for it, as for an infinite number.
pub(super) fn resolve(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true.into()),
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false.into()),
        ".nan" | ".NaN" | ".NAN" => None,
        _ => number(text),
    }
}

fn number(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return None;
    }
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return Some(text.into());
    }
    let plain = unsigned.replace('_', "");
    let negative = text.starts_with('-');
    if let Some(value) = integer(&plain, negative) {
        return Some(value);
    }
    if !is_float(&plain) {
        return Some(text.into());
    }
    let value: f64 = plain.parse().ok()?;
    let value = if negative { -value } else { value };
    // JSON as `kubectl` writes it has no point in a whole number. Up to 2^53 a float holds one exactly.
    if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 {
        return Some((value as i64).into());
    }
    Number::from_f64(value).map(Value::Number)
}

fn integer(digits: &str, negative: bool) -> Option<Value> {
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    if negative {
        return i64::from_str_radix(&format!("-{digits}"), radix).ok().map(Value::from);
    }
    u64::from_str_radix(digits, radix).ok().map(Value::from)
}

/// Digits with at most one point, at least one digit, and an exponent after them if any.
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    whole.len() + fraction.len() > 0 && digits(whole) && digits(fraction) && exponent
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_mean_what_they_mean_to_kubectl() {
        let cases = [
            ("", json!(null)),
            ("~", json!(null)),
            ("yes", json!(true)),
            ("off", json!(false)),
            ("12", json!(12)),
            ("-12", json!(-12)),
            ("+12", json!(12)),
            ("1_000", json!(1000)),
            ("0644", json!(420)),
            ("0o644", json!(420)),
            ("0x1F", json!(31)),
            ("0b101", json!(5)),
            ("0", json!(0)),
            ("089", json!(89)),
            ("1.5", json!(1.5)),
            ("2.0", json!(2)),
            ("1e3", json!(1000)),
            (".5", json!(0.5)),
            ("18446744073709551615", json!(18446744073709551615u64)),
            ("10.0.0.1", json!("10.0.0.1")),
            ("500m", json!("500m")),
            ("1:30", json!("1:30")),
            ("-", json!("-")),
            (".", json!(".")),
            ("1e", json!("1e")),
            ("2024-01-01", json!("2024-01-01")),
            ("v1", json!("v1")),
            (".*", json!(".*")),
        ];
        for (text, value) in cases {
            assert_eq!(resolve(text), Some(value), "{text}");
        }
        for text in [".inf", "-.inf", ".nan", "1e999"] {
            assert_eq!(resolve(text), None, "{text}");
        }
    }
}
