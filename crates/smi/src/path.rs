//! Field paths as Kubernetes writes them, and the known name nearest to a misspelt one.

/// The path of a key below a path: `spec.rules`, `metadata.annotations[example.com/key]`.
pub(crate) fn key(parent: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    match (parent.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{parent}.{key}"),
        (_, false) => format!("{parent}[{key}]"),
    }
}

/// The path of an item below a path: `spec.rules[0]`.
pub(crate) fn item(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

/// The known name that `name` was probably meant to be: equal without case, or few edits away.
pub fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // A name is worth comparing only when it is about as long as one that is known.
    let allowed = match name.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        6..=64 => 2,
        _ => return None,
    };
    let lower = name.to_lowercase();
    let distances = known.iter().map(|known| (edits(&lower, &known.to_lowercase()), *known));
    distances.filter(|(distance, _)| *distance <= allowed).min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// The Levenshtein distance of two short texts.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_no_names_stand_in_brackets() {
        assert_eq!(key("spec", "rules"), "spec.rules");
        assert_eq!(key("", "spec"), "spec");
        assert_eq!(key("metadata.annotations", "example.com/key"), "metadata.annotations[example.com/key]");
        assert_eq!(item(&key("spec", "rules"), 2), "spec.rules[2]");
    }

    #[test]
    fn the_closest_name_is_near_or_nothing() {
        let known = ["pathRegex", "methods", "headers", "name"];
        assert_eq!(closest("pathregex", &known), Some("pathRegex"));
        assert_eq!(closest("method", &known), Some("methods"));
        assert_eq!(closest("nane", &known), Some("name"));
        assert_eq!(closest("hosts", &known), None);
        assert_eq!(closest("x", &known), None);
    }
}
