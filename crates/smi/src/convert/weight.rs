//! The weights of v1alpha1: Kubernetes quantities, compared by their thousandths.

use serde_json::{Map, Value};

use super::{field_mut, object_mut};
use crate::{Invalid, InvalidReason, MAX_WEIGHT, annotation, path};

/// Replaces quantities by whole numbers in the same proportion.
///
/// The unit is the largest part of 1 in which all weights are whole: `1` and `500m` become 2 and 1, `80` and `20` stay
/// as they are, so that a controller that reads a newer version finds the numbers it wrote.
pub(super) fn up(object: &mut Map<String, Value>) -> Result<(), Invalid> {
    let mut unit = 1000;
    let mut all = Vec::new();
    for (field, weight) in weights(object)? {
        let thousandths = thousandths(weight, &field)?;
        unit = gcd(unit, thousandths);
        all.push(thousandths);
    }
    for ((field, weight), thousandths) in weights(object)?.into_iter().zip(all) {
        let units = thousandths / unit;
        if units > MAX_WEIGHT {
            return Err(Invalid::new(field, InvalidReason::Value, format!("must be at most {MAX_WEIGHT}")));
        }
        *weight = units.into();
    }
    match unit {
        1000 => annotation::take(object, annotation::WEIGHT_UNIT).map(drop),
        unit => annotation::set(object, annotation::WEIGHT_UNIT, &unit.to_string()),
    }
}

/// Replaces whole numbers by quantities. Any unit gives the same proportions, so one that makes no sense is ignored.
pub(super) fn down(object: &mut Map<String, Value>) -> Result<(), Invalid> {
    let unit = annotation::take(object, annotation::WEIGHT_UNIT)?.and_then(|unit| unit.parse().ok());
    let unit: u64 = unit.filter(|unit| (1..1000).contains(unit) && 1000 % unit == 0).unwrap_or(1000);
    for (field, weight) in weights(object)? {
        let units = weight.as_u64().filter(|weight| *weight <= MAX_WEIGHT);
        let units = units.ok_or_else(|| {
            Invalid::new(field, InvalidReason::Value, format!("must be a whole number from 0 to {MAX_WEIGHT}"))
        })?;
        *weight = quantity(units * unit).into();
    }
    Ok(())
}

/// The weights that are there, each with its field.
fn weights(object: &mut Map<String, Value>) -> Result<Vec<(String, &mut Value)>, Invalid> {
    let backends = match field_mut(object, "spec", "")?.and_then(|spec| spec.get_mut("backends")) {
        Some(Value::Array(backends)) => backends.as_mut_slice(),
        Some(Value::Null) | None => &mut [],
        Some(_) => return Err(Invalid::new("spec.backends", InvalidReason::Type, "must be a list")),
    };
    let mut weights = Vec::new();
    for (index, backend) in backends.iter_mut().enumerate() {
        let at = path::item("spec.backends", index);
        let weight = object_mut(backend, &at)?.get_mut("weight").filter(|weight| !weight.is_null());
        weights.extend(weight.map(|weight| (path::key(&at, "weight"), weight)));
    }
    Ok(weights)
}

fn quantity(thousandths: u64) -> String {
    match thousandths % 1000 {
        0 => (thousandths / 1000).to_string(),
        _ => format!("{thousandths}m"),
    }
}

fn thousandths(weight: &Value, field: &str) -> Result<u64, Invalid> {
    let invalid = |message: String| Invalid::new(field, InvalidReason::Value, message);
    let text = match weight {
        Value::String(text) => text.clone(),
        Value::Number(number) if weight.is_u64() => number.to_string(),
        _ => {
            let hint = "write `500m` for one half, or a whole number";
            return Err(invalid(format!("{weight} is not a quantity that is a weight")).hint(hint));
        }
    };
    parse(&text).map_err(|error| match error {
        NoWeight::Syntax => invalid(format!("`{text}` is not a quantity that is a weight"))
            .hint("write a whole number, or thousandths as in `500m`"),
        NoWeight::TooFine => invalid(format!("`{text}` is finer than a thousandth")),
        NoWeight::TooLarge => invalid(format!("must be at most {MAX_WEIGHT}")),
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NoWeight {
    Syntax,
    TooFine,
    TooLarge,
}

/// The thousandths of a quantity that is not negative (Kubernetes' serialisation format of quantities).
fn parse(text: &str) -> Result<u64, NoWeight> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return Err(NoWeight::Syntax);
    }
    let (scale, factor) = scale_of(suffix).ok_or(NoWeight::Syntax)?;
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let digits = match digits.trim_start_matches('0') {
        "" => return Ok(0),
        digits => digits,
    };
    let too_large = digits.len() > 24;
    let digits: u128 = if too_large { return Err(NoWeight::TooLarge) } else { digits.parse().unwrap_or(u128::MAX) };
    // In thousandths: digits x factor x 10^(scale + 3 - the digits after the point).
    let exponent = scale + 3 - fraction.len() as i32;
    let mut value = digits.checked_mul(factor).ok_or(NoWeight::TooLarge)?;
    for _ in 0..exponent.unsigned_abs() {
        if exponent > 0 {
            value = value.checked_mul(10).ok_or(NoWeight::TooLarge)?;
        } else if value % 10 == 0 {
            value /= 10;
        } else {
            return Err(NoWeight::TooFine);
        }
    }
    u64::try_from(value).ok().filter(|value| *value <= MAX_WEIGHT * 1000).ok_or(NoWeight::TooLarge)
}

/// The power of ten, and the factor beside it, that a suffix stands for.
fn scale_of(suffix: &str) -> Option<(i32, u128)> {
    let decimal = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(place) = decimal.iter().position(|known| *known == suffix) {
        return Some((place as i32 * 3 - 9, 1));
    }
    if let Some(place) = binary.iter().position(|known| *known == suffix) {
        return Some((0, 1 << (10 * (place + 1))));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    exponent.parse().ok().filter(|scale: &i32| plain && scale.abs() <= 64).map(|scale| (scale, 1))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_by_thousandths() {
        let cases = [
            ("1", 1000),
            ("500m", 500),
            ("1500m", 1500),
            ("0", 0),
            ("0m", 0),
            ("0.5", 500),
            (".25", 250),
            ("2.", 2000),
            ("1e2", 100_000),
            ("15e-1", 1500),
            ("1k", 1_000_000),
            ("1Ki", 1_024_000),
            ("1000000u", 1000),
            ("+7", 7000),
            ("1.500", 1500),
            ("000000000000000000000000000001", 1000),
        ];
        for (text, thousandths) in cases {
            assert_eq!(parse(text), Ok(thousandths), "{text}");
        }
    }

    #[test]
    fn what_is_no_weight_is_refused() {
        for text in ["", ".", "-1", "1x", "1.2.3", "m", "1 m", "one", "1e", "1e+-2", "0x1", "1e99"] {
            assert_eq!(parse(text), Err(NoWeight::Syntax), "{text}");
        }
        assert_eq!(parse("1u"), Err(NoWeight::TooFine));
        assert_eq!(parse("0.0005"), Err(NoWeight::TooFine));
        for text in ["1E", "999999999999999999999999999", "1e64", "2T"] {
            assert_eq!(parse(text), Err(NoWeight::TooLarge), "{text}");
        }
    }
}
