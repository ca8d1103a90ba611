//! A request as policy sees it: views of the bytes received.

use std::borrow::Cow;

/// What a rule can look at.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a, H: ?Sized> {
    pub method: &'a str,
    /// Without query, normalised by [`normalize_path`](crate::normalize_path).
    pub path: &'a str,
    /// The `:authority`, or the `host` header: what a header match named `host` looks at (S13).
    pub authority: &'a str,
    pub headers: &'a H,
}

/// Access to a request's headers, whatever holds them.
pub trait Headers {
    /// The value of the header `name` (compared without case), several joined with `,` as HTTP defines; `None` when
    /// it is absent (S12).
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>>;
}

/// The values of one header as one value; `None` when there are none. Only several are copied.
pub fn joined<'v>(mut values: impl Iterator<Item = &'v [u8]>, separator: &[u8]) -> Option<Cow<'v, [u8]>> {
    let first = values.next()?;
    Some(values.fold(Cow::Borrowed(first), |joined, value| {
        let mut joined = joined.into_owned();
        joined.extend_from_slice(separator);
        joined.extend_from_slice(value);
        Cow::Owned(joined)
    }))
}

/// Name and value pairs, for tests and for tools that evaluate policy without traffic.
impl Headers for [(&str, &str)] {
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let named = self.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        joined(named.map(|(_, value)| value.as_bytes()), b",")
    }
}

impl<const N: usize> Headers for [(&str, &str); N] {
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.as_slice().value(name)
    }
}
