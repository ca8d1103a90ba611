//! Kubernetes quantities such as `100m` and `1Gi`.

/// Suffixes and what they multiply by.
const SUFFIXES: &[(&str, f64)] = &[
    ("", 1.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
];

/// Whether `text` is a quantity: a decimal number with a suffix or an exponent.
pub(crate) fn is_quantity(text: &str) -> bool {
    value(text).is_some()
}

/// What a quantity amounts to, near enough to compare; none when it is not one.
pub(crate) fn value(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let number: f64 = number.parse().ok()?;
    let exponent = || suffix.strip_prefix(['e', 'E'])?.parse().ok().map(|exponent: i32| 10_f64.powi(exponent));
    let factor = SUFFIXES.iter().find(|(known, _)| *known == suffix).map(|(_, factor)| *factor).or_else(exponent)?;
    Some(if text.starts_with('-') { -number * factor } else { number * factor })
}

#[cfg(test)]
mod tests {
    use super::{is_quantity, value};

    #[test]
    fn quantities_have_a_number_and_a_suffix() {
        for good in ["1", "0.5", "100m", "1Gi", "1e3", "-2E", ".5", "+1k"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "x", "1 Gi", "1gib", "1.2.3", "m"] {
            assert!(!is_quantity(bad), "{bad}");
        }
        assert!(value("500m") < value("1") && value("1Gi") > value("1G"));
    }
}
