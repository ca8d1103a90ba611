//! Configuration and credentials from files, read again when they change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use heddle_identity::{Bundle, Credentials, Svid};
use heddle_policy::ProxyConfig;
use serde_saphyr::{DefaultMessageFormatter, MessageFormatter};

/// Files that are read as one.
pub(crate) struct Watched {
    paths: Vec<PathBuf>,
    seen: Vec<Option<Version>>,
}

/// What tells one content of a file from another: the time of its last change, its size, and which file it is.
type Version = (SystemTime, u64, u64);

/// How often files are looked at. A projected volume changes by the rename of a link, which notifications on the file
/// itself would miss.
const INTERVAL: Duration = Duration::from_millis(500);

impl Watched {
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        let seen = versions(&paths);
        Self { paths, seen }
    }

    /// Waits until a file has changed.
    pub(crate) async fn changed(&mut self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = versions(&self.paths);
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }
}

/// Nothing for a file that cannot be read: that it cannot is found out, and said, when it is read.
fn versions(paths: &[PathBuf]) -> Vec<Option<Version>> {
    let version = |path: &PathBuf| {
        let data = path.metadata().ok()?;
        Some((data.modified().ok()?, data.len(), data.ino()))
    };
    paths.iter().map(version).collect()
}

/// Reads a configuration in YAML.
pub(crate) fn read_config(path: &Path) -> anyhow::Result<ProxyConfig> {
    let text = read(path)?;
    serde_saphyr::from_str(&text).map_err(|error| {
        let place = error.location().map(|at| format!(":{}:{}", at.line(), at.column())).unwrap_or_default();
        let what = DefaultMessageFormatter.format_message(error.without_snippet()).into_owned();
        anyhow!("{}{place}: not a proxy's configuration: {what}", path.display())
    })
}

/// Reads a certificate chain, its key, and the roots that are trusted.
pub(crate) fn read_credentials(chain: &Path, key: &Path, bundle: &Path) -> anyhow::Result<Credentials> {
    let svid = Svid::from_pem(&read(chain)?, &read(key)?, SystemTime::now())
        .with_context(|| format!("{} and {} are not an SVID", chain.display(), key.display()))?;
    let bundle =
        Bundle::from_pem(&read(bundle)?).with_context(|| format!("{} is not a trust bundle", bundle.display()))?;
    Ok(Credentials { svid, bundle })
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Snapshot;

    fn fixture() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config.yaml")
    }

    #[test]
    fn a_configuration_in_yaml_is_indexed_by_address_and_by_name() {
        let snapshot = Snapshot::new(read_config(&fixture()).unwrap().into(), 1);
        let port = snapshot.at_address("10.96.0.20:80".parse().unwrap()).unwrap();
        assert_eq!(snapshot.port(port).endpoints.len(), 1);
        assert!(snapshot.at_address("10.96.0.20:81".parse().unwrap()).is_none());
        let pod = snapshot.pod_at("10.244.0.7:9999".parse().unwrap()).unwrap();
        assert_eq!((pod.address.port(), pod.pod.to_string()), (9999, "shop/store-1".to_owned()));
    }

    #[test]
    fn t1_a_service_is_known_by_every_form_of_its_name() {
        let snapshot = Snapshot::new(read_config(&fixture()).unwrap().into(), 1);
        for host in ["store", "store.", "STORE.shop", "store.shop.svc", "store.shop.svc.cluster.local."] {
            assert!(snapshot.service_named(host).is_some(), "{host}");
        }
        for host in ["", "other", "store.other", "store.shop.svc.example.com", "store.shop.pod", "a.store.shop"] {
            assert_eq!(snapshot.service_named(host), None, "{host}");
        }
    }

    #[test]
    fn a_file_that_is_no_configuration_is_named_with_the_place() {
        let directory = std::env::temp_dir().join(format!("heddle-proxy-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("bad.yaml");
        std::fs::write(&path, "inbound:\n  mode: lenient\n").unwrap();
        let error = format!("{:#}", read_config(&path).unwrap_err());
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(error.contains("bad.yaml") && error.contains("lenient"), "{error}");
    }
}
