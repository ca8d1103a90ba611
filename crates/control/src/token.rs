//! Tokens that were reviewed, remembered so that the API server is asked once for each.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use heddle_cluster::Reviewed;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Good tokens by their hash: the tokens themselves are not kept.
#[derive(Default)]
pub(crate) struct Tokens {
    reviewed: HashMap<[u8; 32], (Reviewed, Instant)>,
}

/// Tokens remembered; a mesh of more pods asks the API server more often.
const TOKENS: usize = 65_536;

/// How long before its end a token is reviewed again.
const MARGIN: Duration = Duration::from_secs(30);

/// The longest time that a review is trusted. The API server refuses the token of a deleted pod, and so does this
/// control plane by the pod; this bounds what else may have changed.
const TRUSTED: Duration = Duration::from_secs(600);

// === impl Tokens ===

impl Tokens {
    pub(crate) fn get(&self, token: &str, now: Instant) -> Option<Reviewed> {
        let (reviewed, until) = self.reviewed.get(&hash(token))?;
        (now < *until).then(|| reviewed.clone())
    }

    /// Remembers a token that the API server has found to be good.
    pub(crate) fn insert(&mut self, token: &str, reviewed: Reviewed, now: Instant, time: SystemTime) {
        let Some(rest) = expiry(token).and_then(|expiry| expiry.duration_since(time).ok()) else { return };
        let trusted = rest.saturating_sub(MARGIN).min(TRUSTED);
        if self.reviewed.len() >= TOKENS {
            self.reviewed.retain(|_, (_, until)| now < *until);
        }
        if self.reviewed.len() < TOKENS {
            self.reviewed.insert(hash(token), (reviewed, now + trusted));
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// When a token says that it ends. Only for a token whose signature the API server has checked.
fn expiry(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(exp: u64) -> String {
        format!("head.{}.signature", URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{exp}}}"#)))
    }

    fn reviewed() -> Reviewed {
        let text = |text: &str| text.to_owned();
        Reviewed { namespace: text("shop"), service_account: text("web"), pod_name: text("web-1"), pod_uid: text("1") }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_is_remembered_until_shortly_before_its_end() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        tokens.insert(&token(1100), reviewed(), now, at(1000));
        assert_eq!(tokens.get(&token(1100), now + Duration::from_secs(69)), Some(reviewed()));
        assert_eq!(tokens.get(&token(1100), now + Duration::from_secs(70)), None);
    }

    #[test]
    fn a_token_without_an_end_is_not_remembered() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        tokens.insert("opaque", reviewed(), now, at(1000));
        assert_eq!(tokens.get("opaque", now), None);
    }

    #[test]
    fn another_token_is_not_known() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        tokens.insert(&token(9000), reviewed(), now, at(1000));
        assert_eq!(tokens.get(&token(9001), now), None);
    }
}
