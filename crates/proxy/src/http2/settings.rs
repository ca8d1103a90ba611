//! What the proxy tells its peers of its limits, and holds them to.

use h2::{client, server};

use crate::limits;

/// For connections that the proxy accepts.
pub(super) fn server() -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(limits::HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW)
        .max_concurrent_streams(limits::STREAMS as u32)
        // What is above the limit gets its answer from us up to here, with the reason; beyond, `h2` answers by itself.
        .max_header_list_size(2 * limits::HEAD_BYTES as u32)
        .max_send_buffer_size(limits::HTTP2_SEND_BUFFER)
        // Streams that a client resets before they are looked at (CVE-2023-44487), and its errors.
        .max_pending_accept_reset_streams(limits::HTTP2_PENDING_RESETS)
        .max_local_error_reset_streams(Some(limits::HTTP2_ERRORS));
    builder
}

/// For connections that the proxy makes.
pub(super) fn client() -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(limits::HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW)
        .max_header_list_size(limits::HEAD_BYTES as u32)
        .max_send_buffer_size(limits::HTTP2_SEND_BUFFER)
        .max_local_error_reset_streams(Some(limits::HTTP2_ERRORS));
    builder
}
