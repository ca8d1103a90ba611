//! Two ends of one connection, in memory.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{LocalSet, spawn_local};

use super::frame::Frame;
use super::session::Role;
use super::*;
use crate::limits;

type Accepted = Rc<RefCell<Vec<(Open, Stream)>>>;

const OPEN: Open = Open { port: 8080, kind: Kind::Http1 };

/// Runs `test` with a client's session and what its server accepts.
async fn connected<F: Future<Output = ()>>(test: impl FnOnce(Session, Session, Accepted) -> F) {
    let (near, far) = duplex(64 * 1024);
    LocalSet::new()
        .run_until(async {
            let accepted = Accepted::default();
            let accepting = accepted.clone();
            let (client, client_driver) = Driver::client(near);
            let (server, server_driver) =
                Driver::server(far, move |open, stream| accepting.borrow_mut().push((open, stream)));
            spawn_local(client_driver);
            spawn_local(server_driver);
            test(client, server, accepted).await;
        })
        .await;
}

async fn accept(accepted: &Accepted) -> (Open, Stream) {
    loop {
        if let Some(stream) = accepted.borrow_mut().pop() {
            return stream;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_side_ends_on_its_own() {
    connected(|client, _, accepted| async move {
        let mut near = client.open(OPEN).unwrap();
        near.write_all(b"ping").await.unwrap();
        near.shutdown().await.unwrap();
        let (open, mut far) = accept(&accepted).await;
        assert_eq!(open, OPEN);
        let mut heard = String::new();
        far.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "ping");
        far.write_all(b"pong").await.unwrap();
        drop(far);
        let mut heard = [0; 4];
        near.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"pong");
        // Dropped before its end: the other side must not take what came for everything.
        assert_eq!(near.read(&mut heard).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_not_read_stops_at_its_credit_and_holds_up_no_other() {
    connected(|client, _, accepted| async move {
        let mut stuck = client.open(OPEN).unwrap();
        let everything = vec![7; 2 * limits::STREAM_CREDIT as usize];
        let reader = everything.clone();
        let writing = spawn_local(async move { stuck.write_all(&everything).await.map(|()| stuck) });
        let (_, mut unread) = accept(&accepted).await;
        let mut other = client.open(OPEN).unwrap();
        other.write_all(b"through").await.unwrap();
        let (_, mut heard) = accept(&accepted).await;
        let mut text = [0; 7];
        heard.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"through");
        assert!(!writing.is_finished());
        let mut all = vec![0; reader.len()];
        unread.read_exact(&mut all).await.unwrap();
        assert!(all == reader);
        drop(writing.await.unwrap().unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_server_that_goes_away_loses_no_stream_that_was_on_its_way() {
    connected(|client, server, accepted| async move {
        let mut before = client.open(OPEN).unwrap();
        server.go_away();
        before.write_all(b"kept").await.unwrap();
        let (_, mut far) = accept(&accepted).await;
        let mut text = [0; 4];
        far.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"kept");
        while client.is_open() {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.open(OPEN).err(), Some(OpenError::Closed));
        drop((before, far));
    })
    .await;
}

#[tokio::test]
async fn no_more_streams_than_the_limit_are_open() {
    connected(|client, _, _accepted| async move {
        let streams: Vec<Stream> = (0..limits::STREAMS).map(|_| client.open(OPEN).unwrap()).collect();
        assert_eq!(client.open(OPEN).err(), Some(OpenError::Full));
        drop(streams);
        assert!(client.open(OPEN).is_ok());
    })
    .await;
}

/// What a server that receives `frames` ends with.
async fn violate(frames: &[Frame<'_>]) -> String {
    let (mut near, far): (DuplexStream, DuplexStream) = duplex(1024 * 1024);
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.write(&mut bytes));
    near.write_all(&bytes).await.unwrap();
    // The streams are held until the end: dropped, they would answer.
    let accepted = Accepted::default();
    let accepting = accepted.clone();
    let (_, driver) = Driver::server(far, move |open, stream| accepting.borrow_mut().push((open, stream)));
    let result = driver.await;
    drop(accepted);
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection() {
    let open = |stream| Frame::Open { stream, open: OPEN };
    let data = |stream, end| Frame::Data { stream, payload: &[0; limits::FRAME_BYTES], end };
    assert!(violate(&[data(1, false)]).await.contains("never opened"));
    assert!(violate(&[open(2), open(1)]).await.contains("out of order"));
    assert!(violate(&[Frame::GoAway, open(1)]).await.contains("out of order"));
    assert!(violate(&[open(1), data(1, true), data(1, false)]).await.contains("after its end"));
    let mut flood = vec![open(1)];
    flood.extend(std::iter::repeat_n(data(1, false), limits::STREAM_CREDIT as usize / limits::FRAME_BYTES + 1));
    assert!(violate(&flood).await.contains("more data"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_abandoning_streams_is_cut_off() {
    let (mut near, far) = duplex(1024 * 1024);
    let flood = async {
        let (server, driver) = Driver::server(far, |_, mut stream| {
            spawn_local(async move { stream.read(&mut [0]).await });
        });
        let driven = spawn_local(driver);
        for stream in 1..=limits::ABANDONED_STREAMS + 1 {
            let mut bytes = Vec::new();
            Frame::Open { stream, open: OPEN }.write(&mut bytes);
            Frame::Reset { stream, code: ResetCode::Cancelled }.write(&mut bytes);
            near.write_all(&bytes).await.unwrap();
            while server.streams() > 0 || server.opened() < stream {
                tokio::task::yield_now().await;
            }
        }
        driven.await.unwrap().unwrap_err().to_string()
    };
    assert!(LocalSet::new().run_until(flood).await.contains("abandoned"));
}

#[tokio::test(start_paused = true)]
async fn streams_may_be_abandoned_for_ever_by_a_client_that_takes_its_time() {
    connected(|client, server, accepted| async move {
        for count in 0..4 * limits::ABANDONED_STREAMS {
            if count % 1000 == 0 {
                tokio::time::advance(std::time::Duration::from_secs(1)).await;
            }
            drop(client.open(OPEN).unwrap());
            let (_, mut far) = accept(&accepted).await;
            assert_eq!(far.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert!(server.is_open());
    })
    .await;
}

#[tokio::test]
async fn streams_that_were_answered_in_full_may_be_reset_for_ever() {
    connected(|client, server, accepted| async move {
        for _ in 0..2 * limits::ABANDONED_STREAMS {
            let mut near = client.open(OPEN).unwrap();
            near.write_all(b"ask").await.unwrap();
            let (_, mut far) = accept(&accepted).await;
            let mut text = [0; 3];
            far.read_exact(&mut text).await.unwrap();
            far.write_all(b"yes").await.unwrap();
            near.read_exact(&mut text).await.unwrap();
            drop(near);
            // The server waited for more, and is done when it hears that nothing comes.
            assert_eq!(far.read(&mut text).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
            far.shutdown().await.unwrap();
        }
        assert!(server.is_open());
    })
    .await;
}

#[test]
fn what_was_sent_is_let_go_of_also_where_there_is_always_more_to_send() {
    let session = Session::new(Role::Client);
    let (mut known, mut sent) = (Vec::new(), Vec::new());
    for round in 0..8 * limits::QUEUED_BYTES / limits::FRAME_BYTES {
        let stream = session.open(OPEN).unwrap();
        let mut state = session.0.borrow_mut();
        state.queue_data(round as u32 + 1, &[round as u8; limits::FRAME_BYTES]);
        // All but a part of the last frame leaves.
        let leaving = state.unsent() - 100;
        sent.extend_from_slice(&state.queued[state.written..][..leaving]);
        state.sent(leaving);
        assert!(state.queued.len() <= 2 * limits::QUEUED_BYTES);
        drop(state);
        known.push(stream);
    }
    known.push(session.open(OPEN).unwrap());
    let mut state = session.0.borrow_mut();
    sent.extend_from_slice(&state.queued[state.written..]);
    state.close();
    let refused = state.streams.values().filter(|stream| stream.reset == Some(ResetCode::Refused)).count();
    assert_eq!(refused, 1, "it is still known what the peer has heard of");
    drop(state);
    let mut frames = 0;
    while let Some((_, length)) = Frame::parse(&sent).unwrap() {
        sent.drain(..length);
        frames += 1;
    }
    assert_eq!((frames, sent.len()), (2 * known.len() - 1, 0), "no byte is lost or sent twice");
}

#[test]
fn frames_are_read_as_they_were_written_at_whatever_point_they_arrive() {
    let frames = [
        Frame::Open { stream: 1, open: Open { port: 65535, kind: Kind::Tcp } },
        Frame::Data { stream: 1, payload: b"abc", end: false },
        Frame::Data { stream: u32::MAX, payload: b"", end: true },
        Frame::Credit { stream: 1, bytes: 70_000 },
        Frame::Reset { stream: 1, code: ResetCode::Denied },
        Frame::GoAway,
    ];
    for frame in frames {
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        for end in 0..bytes.len() {
            assert_eq!(Frame::parse(&bytes[..end]), Ok(None));
        }
        assert_eq!(Frame::parse(&bytes), Ok(Some((frame, bytes.len()))));
    }
    assert!(Frame::parse(&[9, 0, 0, 0, 0, 0, 0, 1]).is_err());
    assert!(Frame::parse(&[2, 0, 0xff, 0xff, 0, 0, 0, 1]).is_err());
    assert!(Frame::parse(&[5, 0, 0, 1, 0, 0, 0, 0, 0]).is_err());
}

#[tokio::test]
async fn a_stream_that_the_peer_has_not_heard_of_is_refused_when_the_connection_ends() {
    LocalSet::new()
        .run_until(async {
            let (near, far) = duplex(64 * 1024);
            let (client, driver) = Driver::client(near);
            let driving = spawn_local(driver);
            let mut known = client.open(OPEN).unwrap();
            known.write_all(b"ping").await.unwrap();
            tokio::task::yield_now().await;
            // The peer goes away before the driver has had a turn for this one.
            let mut unknown = client.open(OPEN).unwrap();
            unknown.write_all(b"ping").await.unwrap();
            drop(far);
            driving.await.unwrap().unwrap();
            let errors =
                [known.read(&mut [0]).await, unknown.read(&mut [0]).await].map(|read| read.unwrap_err().kind());
            assert_eq!(errors, [std::io::ErrorKind::ConnectionAborted, std::io::ErrorKind::ConnectionRefused]);
        })
        .await;
}

#[tokio::test]
async fn a_stream_is_refused_only_as_long_as_nothing_was_said() {
    connected(|client, _, accepted| async move {
        for speaks in [false, true] {
            let mut near = client.open(OPEN).unwrap();
            near.write_all(b"ping").await.unwrap();
            let (_, mut far) = accept(&accepted).await;
            if speaks {
                far.write_all(b"x").await.unwrap();
            }
            assert_eq!(far.refuse(), !speaks);
            drop(far);
            let mut heard = Vec::new();
            let error = near.read_to_end(&mut heard).await.unwrap_err().kind();
            let expected =
                if speaks { std::io::ErrorKind::ConnectionReset } else { std::io::ErrorKind::ConnectionRefused };
            assert_eq!((error, heard.len()), (expected, usize::from(speaks)));
        }
    })
    .await;
}
