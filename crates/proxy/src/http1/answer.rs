//! Answers that the mesh itself gives.

use heddle_policy::Reason;

/// Appends an answer for `reason`: its status, its code in `x-heddle-reason`, and a sentence, unless the request's
/// method was HEAD.
pub(crate) fn write_answer(reason: Reason, close: bool, to_head: bool, out: &mut Vec<u8>) {
    let (phrase, sentence) = words(reason);
    let status = reason.status();
    let length = sentence.len() + 1;
    let connection = if close { "Connection: close\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status} {phrase}\r\nx-heddle-reason: {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\n{connection}\r\n"
    );
    out.extend_from_slice(head.as_bytes());
    if !to_head {
        out.extend_from_slice(sentence.as_bytes());
        out.push(b'\n');
    }
}

/// What a reason means to who reads the answer.
pub(crate) fn sentence(reason: Reason) -> &'static str {
    words(reason).1
}

/// The phrase of the status, and what the reason means to who reads the answer.
fn words(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::NoIdentity => ("Forbidden", "denied by the mesh: the client has no identity (it is outside the mesh)"),
        Reason::NoTarget => ("Forbidden", "denied by the mesh: no TrafficTarget grants access to this destination"),
        Reason::SourceNotAllowed => ("Forbidden", "denied by the mesh: no TrafficTarget lists the client as a source"),
        Reason::PortNotAllowed => ("Forbidden", "denied by the mesh: the client may not use this port"),
        Reason::RouteNotAllowed => ("Forbidden", "denied by the mesh: no rule for the client matches the request"),
        Reason::NotHttp => ("Forbidden", "denied by the mesh: only HTTP is allowed on this port"),
        Reason::SplitAllZero => ("Service Unavailable", "the TrafficSplit gives every backend the weight 0"),
        Reason::NoEndpoint => ("Service Unavailable", "the service has no ready endpoint"),
        Reason::ConnectFailed => ("Bad Gateway", "the endpoint could not be connected to"),
        Reason::PeerIdentity => ("Bad Gateway", "the endpoint could not prove the identity expected of it"),
        Reason::UpstreamReset => ("Bad Gateway", "the endpoint closed the connection before its answer was complete"),
        Reason::UpstreamTimeout => ("Gateway Timeout", "the endpoint did not answer in time"),
        Reason::NotHttp2 => ("Bad Gateway", "the application does not speak HTTP/2, which the request came in"),
        Reason::BadRequest => ("Bad Request", "the request is malformed, or could be read in more than one way"),
        Reason::HeadTooLarge => ("Request Header Fields Too Large", "the request's head is larger than the limit"),
        Reason::RequestTimeout => ("Request Timeout", "the request's head did not arrive in time"),
        Reason::Overloaded => ("Service Unavailable", "the proxy has no configuration yet, or has reached a limit"),
        Reason::GivenUp => ("Client Closed Request", "the client went away before its answer was complete"),
    }
}
