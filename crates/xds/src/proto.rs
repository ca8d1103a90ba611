//! The messages of `proto/heddle.proto`, written by hand.

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SignRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) csr: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SignResponse {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) chain: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) roots: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReportRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) json: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReportResponse {}

pub(crate) const AUTHORITY: &str = "heddle.v1alpha1.Authority";
pub(crate) const SIGN: &str = "/heddle.v1alpha1.Authority/Sign";
pub(crate) const TELEMETRY: &str = "heddle.v1alpha1.Telemetry";
pub(crate) const REPORT: &str = "/heddle.v1alpha1.Telemetry/Report";
