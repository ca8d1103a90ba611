//! What to tell the reader of a log about a handshake that failed.

use std::io;
use std::time::{Duration, SystemTime};

use rustls::CertificateError::{ExpiredContext, NotValidYetContext, Other, UnknownIssuer};
use rustls::Error::{InvalidCertificate, NoCertificatesPresented};
use rustls::pki_types::UnixTime;
use x509_parser::prelude::ASN1Time;

/// Why a handshake or a connection failed, as a sentence. A certificate outside its time is told with both clocks.
pub fn explain(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return error.to_string();
    };
    match tls {
        InvalidCertificate(ExpiredContext { time, not_after }) => format!(
            "the peer's certificate expired at {}, and it is {} by this machine's clock",
            moment(*not_after),
            moment(*time)
        ),
        InvalidCertificate(NotValidYetContext { time, not_before }) => format!(
            "the peer's certificate is valid from {}, and it is {} by this machine's clock",
            moment(*not_before),
            moment(*time)
        ),
        InvalidCertificate(UnknownIssuer) => "no root of the trust bundle signed the peer's certificate".to_owned(),
        InvalidCertificate(Other(reason)) => reason.0.to_string(),
        NoCertificatesPresented => "the peer sent no certificate".to_owned(),
        other => other.to_string(),
    }
}

fn moment(time: UnixTime) -> String {
    readable(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

/// A time in UTC, such as `Nov 21 14:05:00 2026 +00:00`.
pub(crate) fn readable(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    match ASN1Time::from_timestamp(i64::try_from(seconds).unwrap_or(i64::MAX)) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{seconds} s after 1970"),
    }
}
