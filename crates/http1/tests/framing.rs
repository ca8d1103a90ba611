//! Framing at every boundary of reads.

use heddle_http1::{Body, InvalidBody};

/// The bytes that a chunked body takes of `text`, fed in pieces of `step`.
fn accept(text: &str, step: usize) -> Result<(usize, bool), InvalidBody> {
    let (mut body, mut taken) = (Body::CHUNKED, 0);
    for piece in text.as_bytes().chunks(step) {
        taken += body.accept(piece)?;
    }
    Ok((taken, body.is_done()))
}

#[test]
fn chunks_end_where_they_say_however_they_arrive() {
    let message = "4;name=\"v\"\r\nWiki\r\n00a\r\n0123456789\r\n0\r\nExpires: never\r\nX:\r\n\r\n";
    for step in 1..message.len() {
        assert_eq!(accept(&format!("{message}GET /"), step), Ok((message.len(), true)), "in pieces of {step}");
        assert_eq!(accept(&message[..message.len() - 1], step), Ok((message.len() - 1, false)));
    }
}

#[test]
fn chunks_that_could_be_read_differently_are_refused() {
    let long = format!("1;{}\r\n", "x".repeat(heddle_http1::CHUNK_LINE_BYTES + 1));
    let trailers = format!("0\r\nX: {}\r\n", "x".repeat(heddle_http1::TRAILER_BYTES));
    let bad = ["\r\n", "g\r\n", " 1\r\n", "1 \r\n", "1\n", "1\ra", "1\r\na\n", "1\r\nab", "0\r\n\n", "0\r\n X: 1\r\n"];
    for text in bad.into_iter().chain([&*long, &trailers, "0\r\nX Y: 1\r\n", "0\r\n: 1\r\n", "1234567890123456\r\n"]) {
        for step in [1, text.len()] {
            assert_eq!(accept(text, step), Err(InvalidBody), "{text:?}");
        }
    }
}

#[test]
fn what_was_refused_is_refused_again() {
    let text = b"a\r\n0123456789\r\n10 \r\n0123456789abcdef\r\n0\r\n\r\n";
    let mut body = Body::CHUNKED;
    assert_eq!(body.accept(text), Err(InvalidBody));
    assert_eq!(body, Body::CHUNKED);
}
