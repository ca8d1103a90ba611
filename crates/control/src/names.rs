//! The names of what the control plane owns.

pub(crate) const NAMESPACE: &str = "heddle-system";

/// The Deployment, the ServiceAccount, and the holder of the Lease.
pub(crate) const NAME: &str = "heddle-control";

/// The Service by which the API server and proxies reach the control plane.
pub(crate) const SERVICE: &str = NAME;

pub(crate) const ROOT_SECRET: &str = "heddle-root";
pub(crate) const TRUST_BUNDLE: &str = "heddle-trust-bundle";

/// The port of the Service behind which the webhooks and the read API are.
pub(crate) const SERVICE_PORT: u16 = 443;

/// The audience of the tokens by which proxies prove their pods.
pub(crate) const AUDIENCE: &str = "heddle";
