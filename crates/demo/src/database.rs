//! The database: a line protocol over TCP in which the server speaks first, as MySQL's does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

use crate::Listen;

/// The longest line that a client may send.
const MAX_LINE: u64 = 1024;

pub(crate) async fn run(args: Listen) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await?;
    let books = Arc::new(AtomicU64::new(0));
    loop {
        let (stream, from) = listener.accept().await?;
        let books = books.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(stream, &books).await {
                tracing::debug!(%from, "{error}");
            }
        });
    }
}

async fn serve(stream: TcpStream, books: &AtomicU64) -> std::io::Result<()> {
    let mut stream = BufStream::new(stream);
    stream.write_all(b"BOOKDB 1.0 ready\n").await?;
    stream.flush().await?;
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut stream).take(MAX_LINE).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let answer = match line.trim_end() {
            "INSERT book" => format!("OK {}\n", books.fetch_add(1, Ordering::Relaxed) + 1),
            "COUNT books" => format!("OK {}\n", books.load(Ordering::Relaxed)),
            _ => "ERR unknown command\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
    }
}
