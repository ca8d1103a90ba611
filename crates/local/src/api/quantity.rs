//! Kubernetes quantities such as `100m` and `1Gi`.

const SUFFIXES: &[&str] = &["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// Whether `text` is a quantity: a decimal number with a suffix or an exponent.
pub(crate) fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    digits > 0 && number.len() - digits <= 1 && (SUFFIXES.contains(&suffix) || is_exponent(suffix))
}

fn is_exponent(suffix: &str) -> bool {
    suffix.strip_prefix(['e', 'E']).is_some_and(|exponent| exponent.parse::<i32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::is_quantity;

    #[test]
    fn quantities_have_a_number_and_a_suffix() {
        for good in ["1", "0.5", "100m", "1Gi", "1e3", "-2E", ".5", "+1k"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "x", "1 Gi", "1gib", "1.2.3", "m"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }
}
