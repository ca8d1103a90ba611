//! Configuration and credentials from files, read again when they change.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use heddle_identity::{Bundle, Credentials, Svid};
use heddle_policy::ProxyConfig;

/// Files that are read as one.
pub(crate) struct Watched {
    paths: Vec<PathBuf>,
    seen: Vec<Option<SystemTime>>,
}

/// How often files are looked at. A projected volume changes by the rename of a link, which notifications on the file
/// itself would miss.
const INTERVAL: Duration = Duration::from_millis(500);

impl Watched {
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        let seen = modified(&paths);
        Self { paths, seen }
    }

    /// Waits until a file has changed.
    pub(crate) async fn changed(&mut self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = modified(&self.paths);
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }
}

fn modified(paths: &[PathBuf]) -> Vec<Option<SystemTime>> {
    paths.iter().map(|path| path.metadata().and_then(|data| data.modified()).ok()).collect()
}

/// Reads a configuration in YAML.
pub(crate) fn read_config(path: &Path) -> anyhow::Result<ProxyConfig> {
    let text = read(path)?;
    serde_saphyr::from_str(&text).with_context(|| format!("{} is not a proxy's configuration", path.display()))
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
