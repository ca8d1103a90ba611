//! The kinds of resources, as people name them.

use std::str::FromStr;

use heddle_smi::metrics::RESOURCES;

/// A kind that is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Kind {
    /// Such as `deployments`.
    pub plural: &'static str,
    /// Such as `Deployment`.
    pub name: &'static str,
    pub is_namespaced: bool,
}

/// kubectl's short names.
const SHORT: [(&str, &str); 10] = [
    ("ns", "namespaces"),
    ("no", "nodes"),
    ("po", "pods"),
    ("rc", "replicationcontrollers"),
    ("svc", "services"),
    ("ds", "daemonsets"),
    ("deploy", "deployments"),
    ("rs", "replicasets"),
    ("sts", "statefulsets"),
    ("ts", "trafficsplits"),
];

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let plural = SHORT.iter().find(|(short, _)| *short == lower).map_or(lower.as_str(), |(_, plural)| plural);
        let mut all = RESOURCES.into_iter();
        let found = all.find(|(known, name, _)| *known == plural || name.eq_ignore_ascii_case(plural));
        let (plural, name, is_namespaced) = found.ok_or_else(|| {
            let known = RESOURCES.map(|(plural, _, _)| plural).join(", ");
            format!("`{text}` is not measured; these are: {known}")
        })?;
        Ok(Self { plural, name, is_namespaced })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_the_names_that_kubectl_knows() {
        for name in ["deploy", "deployment", "deployments", "Deployment"] {
            assert_eq!(name.parse::<Kind>().map(|kind| kind.plural), Ok("deployments"), "{name}");
        }
        assert!("endpoints".parse::<Kind>().unwrap_err().contains("statefulsets"));
        for (_, plural) in SHORT {
            assert!(plural.parse::<Kind>().is_ok(), "{plural}");
        }
    }
}
